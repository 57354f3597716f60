"""Load a study from a study file, or from objects of a script or a notebook."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
import tokenize
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import decode_source
from pathlib import Path
from typing import Any

from sabtune.config import PARTS
from sabtune.errors import StudyFileError
from sabtune.parts import local
from sabtune.parts.importing import import_file, neighbors
from sabtune.schema import suggest
from sabtune.study.definition import Constraints, Space, Study, fits_name
from sabtune.study.series import ALL_BASELINES
from sabtune.study.study_file import StudyFile
from sabtune.study.wording import code_of, explain, function_of, location, shown


def load(path: Path, baseline: str | None = None) -> StudyFile:
    """Load a study file, and try its space or the space of one of its BASELINES.

    baseline: the name of the baseline; None for the file's own space. The study of a baseline has
    the name STUDY.BASELINE, the space of the baseline, and the question with the baseline added.
    Its points keep only the parameters that its space suggests.

    If the file doesn't set the number of phases of its ladder, the number is the largest k_att of
    the file's own space and of its baselines, or 1 for a task without phases.

    Raises StudyFileError, with the line number where possible, if the file doesn't exist, fails, or
    doesn't define a valid study.
    """
    return _checked(*_read(path), baseline)


def load_baselines(path: Path) -> list[StudyFile]:
    """Load the studies of all baselines of a study file, in the order of its BASELINES.

    Each is what `load` returns. Raises StudyFileError as `load` does, and if the file has no
    BASELINES.
    """
    return _all_baselines(*_read(path))


def _read(path: Path) -> tuple[StudyFile, Mapping[str, Any]]:
    """Return the study of a file, unchecked, and the names that the file defines."""
    if not _is_file(path):
        raise StudyFileError(f"there is no study file {path}: give the path of a Python file")
    if path.suffix != ".py":
        raise StudyFileError(f"{path} is not a Python file: give one that ends in .py")
    try:
        module = import_file(path)
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # includes SystemExit: a study file must not end sabtune
        raise StudyFileError(explain(path, problem)) from problem
    local.identify_all(PARTS, {module.__name__, *neighbors(path)})
    names = vars(module)
    file = dataclasses.replace(_study_file(path, names), source=decode_source(path.read_bytes()))
    return file, names


def from_objects(
    study: Study,
    space: Space,
    *,
    constraints: Constraints | None = None,
    baselines: Mapping[str, Space] | None = None,
    baseline: str | None = None,
    question: str | None = None,
) -> StudyFile:
    """Return a study that a script or a notebook defines, checked as `load` checks a study file.

    constraints, baselines: what a study file calls `constraints` and BASELINES. baseline: the name
    of the baseline to search; None for `space`. question: the question of the study; None for the
    docstring of `space`.

    Raises StudyFileError, with the line number where possible, if the objects don't define a valid
    study.
    """
    return _checked(*_defined(study, space, constraints, baselines, question), baseline)


def baselines_from_objects(
    study: Study,
    space: Space,
    *,
    constraints: Constraints | None = None,
    baselines: Mapping[str, Space] | None = None,
    question: str | None = None,
) -> list[StudyFile]:
    """Return the studies of all baselines that a script or a notebook defines, in their order.

    Each is what `from_objects` returns. Raises StudyFileError as `from_objects` does, and if there
    are no baselines.
    """
    return _all_baselines(*_defined(study, space, constraints, baselines, question))


def _defined(
    study: Study,
    space: Space,
    constraints: Constraints | None,
    baselines: Mapping[str, Space] | None,
    question: str | None,
) -> tuple[StudyFile, Mapping[str, Any]]:
    """Return the study of a script or a notebook, unchecked, and its objects by name."""
    if not isinstance(question, str | None):
        raise StudyFileError(f"question is {shown(question)}: give the question as text")
    code = code_of(space) if callable(space) else None
    name = getattr(study, "name", None)
    path = Path(code.co_filename if code is not None else f"study {name!r}")
    names = {
        "STUDY": study,
        "space": space,
        "constraints": constraints,
        "BASELINES": baselines or {},
        "__doc__": _doc(space) if question is None else question,
    }
    file = dataclasses.replace(_study_file(path, names), in_file=False, source=_source(names))
    return file, names


def _doc(space: Space) -> str:
    """Return the docstring of the function that a space calls, or ""."""
    return (inspect.getdoc(function_of(space)) or "") if callable(space) else ""


def _source(names: Mapping[str, Any]) -> str:
    """Return the source of a study's objects; an object without source is left out."""
    functions = [names["space"], names["constraints"], *names["BASELINES"].values()]
    texts = [f"STUDY = {names['STUDY']!r}\n"]
    for function in functions:
        with suppress(OSError, TypeError, SyntaxError, tokenize.TokenError):
            text = textwrap.dedent(inspect.getsource(function_of(function)))
            texts += [text] * (text not in texts)
    return "\n\n".join(texts)


def _checked(own: StudyFile, names: Mapping[str, Any], baseline: str | None) -> StudyFile:
    """Return the study of `load`, after it has tried the space and the constraints."""
    file = own if baseline is None else _as_baseline(own, _baselines(names), baseline)
    _try(file)
    return file if file.phases_given else file.with_ladder(phases=_phases(own, names))


def _all_baselines(own: StudyFile, names: Mapping[str, Any]) -> list[StudyFile]:
    """Return the studies of `load_baselines`, after it has tried each space."""
    baselines = _baselines(names)
    if not baselines:
        raise StudyFileError(
            f'{own.path} has no baselines: add {_baselines_name(names)} = {{"lstm": a function '
            "like space(trial)}"
        )
    files = [_as_baseline(own, baselines, name) for name in baselines]
    for file in files:
        _try(file)
    if own.phases_given:
        return files
    phases = _phases(own, names)
    return [file.with_ladder(phases=phases) for file in files]


def _try(file: StudyFile) -> None:
    """Try the space and the constraints of a study. Raises StudyFileError if they fail."""
    file.try_space()
    file.try_constraints()


def _phases(own: StudyFile, names: Mapping[str, Any]) -> int:
    """Return the number of phases of a ladder whose file doesn't set it; see `load`."""
    phased = own.study.task.build().phased
    spaces = [own.space, *_baselines(names).values()] if phased else []
    phases = (dataclasses.replace(own, space=space).largest_period() for space in spaces)
    return max(phases, default=1)


def _study_file(path: Path, names: Mapping[str, Any]) -> StudyFile:
    """Return the study, space and constraints among the names that a study file defines.

    Raises StudyFileError if the study or the space is missing, or if one of them is of the wrong
    type.
    """
    study, space, constraints = map(names.get, ("STUDY", "space", "constraints"))
    if not isinstance(study, Study):
        raise StudyFileError(
            f"{path} has no STUDY: add STUDY = Study(name=..., task=..., ...)"
            + _actual_value(path, "STUDY", study)
        )
    if not callable(space):
        raise StudyFileError(
            f"{path} has no space: add def space(trial): return TrialConfig(...)"
            + _actual_value(path, "space", space)
        )
    _check_takes_trial(path, "space", space)
    if constraints is not None:
        if not callable(constraints):
            raise StudyFileError(
                f"{location(path, 'constraints')}: constraints is {shown(constraints)}: "
                "give a function like constraints(trial)"
            )
        _check_takes_trial(path, "constraints", constraints)
    _check_baselines(path, _baselines(names), _baselines_name(names))
    points = tuple({k: _to_python(v) for k, v in point.items()} for point in study.points)
    study = dataclasses.replace(study, points=points)
    return StudyFile(
        path,
        study,
        space,
        constraints,
        inspect.cleandoc(names.get("__doc__") or ""),
        phases_given=study.ladder.phases is not None,
    )


def _baselines_name(names: Mapping[str, Any]) -> str:
    """Return the variable that holds the baselines: BASELINES, or its former name RIVALS."""
    return "RIVALS" if "RIVALS" in names and "BASELINES" not in names else "BASELINES"


def _baselines(names: Mapping[str, Any]) -> Any:
    return names.get(_baselines_name(names), {})


def _check_baselines(path: Path, baselines: Any, name: str) -> None:
    """Raise StudyFileError if the baselines aren't a mapping from names to spaces."""
    named = isinstance(baselines, Mapping) and all(
        isinstance(key, str) and fits_name(key) for key in baselines
    )
    if not named or not all(callable(space) for space in baselines.values()):
        raise StudyFileError(
            f"{location(path, name)}: {name} is {shown(baselines)}: give spaces by name, such as "
            '{"lstm": a function like space(trial)}'
        )
    if ALL_BASELINES in baselines:
        raise StudyFileError(
            f"{location(path, name)}: {name} has an entry {ALL_BASELINES!r}, which stands for "
            "all of them: give it another name"
        )
    for key, space in baselines.items():
        _check_takes_trial(path, f"{name}[{key!r}]", space)


def _as_baseline(file: StudyFile, baselines: Mapping[str, Space], name: str) -> StudyFile:
    """Return the study of a baseline. Raises StudyFileError if the file has no such baseline."""
    if name not in baselines:
        remedy = suggest(name, baselines) if baselines else "it has no BASELINES"
        raise StudyFileError(f"{file.path} has no baseline {name!r}: {remedy}")
    space = baselines[name]
    question = "\n\n".join(filter(None, [file.question, f"Baseline: {name}", _doc(space)]))
    own = dataclasses.replace(file, space=space, question=question, baseline=name)
    return own.renamed(f"{file.study.name}.{name}").with_points_asked_for()


def _check_takes_trial(path: Path, name: str, function: Callable[..., Any]) -> None:
    """Raise StudyFileError if a function can't be called with a trial alone."""
    try:
        inspect.signature(function).bind(None)
    except ValueError:
        return  # some built-in functions have no signature
    except TypeError as problem:
        raise StudyFileError(
            f"{location(path, function)}: {name} can't be called with a trial alone "
            f"({problem}): give it the one argument trial"
        ) from None


def _actual_value(path: Path, name: str, value: object) -> str:
    """Return the end of a message: the value that a name has in the file, or "" if it has none."""
    return "" if value is None else f", instead of {shown(value)} in {location(path, name)}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # for example, the name is too long
        return False


def _to_python(value: Any) -> Any:
    """Return a NumPy scalar as a Python number, and any other value unchanged."""
    scalar = type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()
    return value.item() if scalar else value
