"""Study files: Python files that define a study with a STUDY and a function space(trial)."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, SupportsFloat, get_args

import optuna
from optuna.trial import FrozenTrial

from sabtune.config import RunConfig, TrialConfig
from sabtune.errors import ConfigError, RejectedError, StudyFileError
from sabtune.schema import Config, check, check_name, check_seed, check_whole, suggest
from sabtune.study.configurations import Seeds
from sabtune.study.example import example
from sabtune.study.parameters import STORED, CheckedTrial, branches, distributions, ends
from sabtune.study.record import TrialRecord
from sabtune.study.study_module import import_file, importable
from sabtune.study.wording import explain, shown
from sabtune.tasks import TaskConfig
from sabtune.training.evaluation import Ladder
from sabtune.training.trial import Limits

Space = Callable[[optuna.Trial], TrialConfig]
Constraints = Callable[[TrialRecord], Mapping[str, float]]
Sampler = Literal["tpe", "cmaes", "gp", "random"]
Objective = Literal["score", "seconds_per_update", "peak_memory", "share_kept"]

AUTO: Literal["auto"] = "auto"

MIN_GPU_FRACTION = 0.01
"""The smallest fraction of a GPU that a trial may request."""

ACCEPTED_DRAWS = 10
"""The number of accepted random draws after which the check of a space ends."""

SAMPLED_DRAWS = 32
"""The number of random draws that stand for a space when it is sampled."""

REJECTED_IN_A_ROW = 50
"""The number of consecutive rejections after which a space counts as rejecting everything."""


@dataclass(frozen=True, kw_only=True)
class Resources(Config):
    """The CPUs and GPUs of one trial.

    cpus: the number of CPUs, which is also the number of threads that a trial computes on.
    gpus: the number of GPUs. With a fraction, trials share a GPU. A number of 1 or more must be
    whole, and all GPUs of a trial are on one machine. With "auto", a probe measures the memory of a
    trial, and as many trials share a GPU as fit in its memory (see `search/placement.py`). Without
    any GPU, trials that request at most one GPU run on the CPU.

    Raises ConfigError if a value is out of range.
    """

    cpus: int = 1
    gpus: float | Literal["auto"] = 0

    def __post_init__(self) -> None:
        check_whole("cpus", self.cpus, least=1)
        number = isinstance(self.gpus, int | float) and not isinstance(self.gpus, bool)
        fits = self.gpus == AUTO
        if number and not fits:
            gpus = float(self.gpus)
            fits = gpus == 0 or MIN_GPU_FRACTION <= gpus < 1 or (gpus >= 1 and gpus.is_integer())
        wanted = f'0, a fraction from {MIN_GPU_FRACTION}, a whole number, or "auto"'
        check(fits, "gpus", self.gpus, wanted)


def fits_name(name: str) -> bool:
    """Return whether a study can have this name."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is not None


def words(cpus: float, gpus: float) -> str:
    """Return CPUs and GPUs in words, such as "2 CPUs and 1 GPU"."""
    text = "1 CPU" if cpus == 1 else f"{cpus:g} CPUs"
    if not gpus:
        return text
    return f"{text} and {gpus:g} {'GPU' if gpus <= 1 else 'GPUs'}"


@dataclass(frozen=True, kw_only=True)
class ASHA(Config):
    """Asynchronous successive halving (Li et al., MLSys 2020, arXiv 1810.05934).

    The rungs are at `grace` updates, and at `grace` times each power of `reduction`. A trial
    continues past a rung if its score is among the best 1/reduction of the trials that have reached
    the rung, or are complete, so far. The best of them always continues.

    Raises ConfigError if a value is out of range.
    """

    grace: int
    reduction: float = 3

    def __post_init__(self) -> None:
        check_whole("grace", self.grace, least=1)
        check(self.reduction > 1, "reduction", self.reduction, "a factor above 1")


@dataclass(frozen=True, kw_only=True)
class Study(Config):
    """The question that a study asks, and its budget.

    name: the name of the study in its store. task: the task that the models learn. ladder: the
    lengths that they are tested at. trials: the total number of trials; each seed of a
    configuration counts. seed: the seed from which those of the sampler and of every trial derive.
    startup: the number of trials drawn at random before the sampler models the space. resources:
    the CPUs and GPUs of each trial. pruning: the settings of ASHA; None to prune no trial. sampler:
    the name of an Optuna sampler. objectives: the first one is "score", which decides which trials
    are pruned; with more than one, the study has a Pareto front. seeds: the number of seeds of each
    configuration. points: parameters that the search tries first, as values by name; the sampler
    draws the parameters that a point leaves out. limits: the limits of each trial.

    Raises ConfigError if a value is out of range, or if the ladder doesn't fit the task.
    """

    name: str
    task: TaskConfig
    ladder: Ladder
    trials: int = 20
    seed: int = 0
    startup: int = 10
    resources: Resources = field(default_factory=Resources)
    pruning: ASHA | None = None
    sampler: Sampler = "tpe"
    objectives: tuple[Objective, ...] = ("score",)
    seeds: Seeds = field(default_factory=Seeds)
    points: tuple[dict[str, Any], ...] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check(
            fits_name(self.name),
            "name",
            self.name,
            "at most 100 letters, digits, '.', '_' and '-'; it names files",
        )
        check_whole("trials", self.trials, least=1)
        check_seed("seed", self.seed)
        check_whole("startup", self.startup, least=1)
        check_name("sampler", self.sampler, get_args(Sampler))
        for objective in self.objectives:
            check_name("objectives", objective, get_args(Objective))
        unique = len(set(self.objectives)) == len(self.objectives)
        valid = unique and self.objectives[:1] == ("score",)
        check(valid, "objectives", self.objectives, '"score" first, and each one once')
        supported = len(self.objectives) == 1 or self.sampler != "cmaes"
        check(supported, "sampler", self.sampler, "tpe, gp or random for several objectives")
        first = self.ladder.lengths[0]
        check(
            first == self.task.length,
            "ladder.lengths",
            self.ladder.lengths,
            f"the training length, {self.task.length}, first",
        )
        for point in self.points:
            named = isinstance(point, dict) and all(isinstance(name, str) for name in point)
            check(named, "points", self.points, 'values by name, such as ({"k_top": 5},)')
        task = self.task.build()
        for length in self.ladder.lengths:
            task.steps(length)


@dataclass(frozen=True)
class StudyFile:
    """A loaded study file.

    path: the path of the file. study: its STUDY. space: its space, or that of a baseline.
    constraints: a function of a trial's record that returns numbers by name. A number above 0 means
    that a complete trial violates this constraint; such a trial is never the best. question: the
    docstring of the file. baseline: the name of the baseline that `space` belongs to; None if it is
    the file's own space. phases_given: whether the file sets the number of phases of its ladder.
    """

    path: Path
    study: Study
    space: Space
    constraints: Constraints | None = None
    question: str = ""
    baseline: str | None = None
    phases_given: bool = True

    def with_ladder(self, **values: Any) -> StudyFile:
        """Return this file with the given values of its ladder replaced.

        Raises StudyFileError if the ladder has too few sequences for its phases.
        """
        try:
            ladder = dataclasses.replace(self.study.ladder, **values)
        except ConfigError as problem:
            raise StudyFileError(f"{_location(self.path, 'STUDY')}: {problem}") from None
        return dataclasses.replace(self, study=dataclasses.replace(self.study, ladder=ladder))

    def with_limits(self, *, trials: int | None, seed: int | None) -> StudyFile:
        """Return this file with another number of trials or another seed; None keeps the file's."""
        study = dataclasses.replace(
            self.study,
            trials=self.study.trials if trials is None else trials,
            seed=self.study.seed if seed is None else seed,
        )
        return dataclasses.replace(self, study=study)

    def renamed(self, name: str) -> StudyFile:
        """Return this file with its study under another name."""
        return dataclasses.replace(self, study=dataclasses.replace(self.study, name=name))

    def with_points_asked_for(self) -> StudyFile:
        """Return this file with points that hold only parameters that its space suggests.

        Duplicate points are dropped. Raises StudyFileError if the space rejects a point or fails.
        """
        points = []
        for point in self.study.points:
            trial, _ = self._try_point(point, self._scratch_study())
            points.append({name: value for name, value in point.items() if name in trial.params})
        distinct = tuple(point for i, point in enumerate(points) if point not in points[:i])
        return dataclasses.replace(self, study=dataclasses.replace(self.study, points=distinct))

    def config(self, trial: optuna.Trial) -> TrialConfig:
        """Return the configuration that the space returns for `trial`.

        Raises RejectedError if the space raises TrialPruned or makes an invalid configuration, and
        StudyFileError if it fails.
        """
        if isinstance(trial, optuna.Trial):
            trial = CheckedTrial.of(trial)
        with self._file_errors():
            config: Any = self.space(trial)
            if isinstance(config, TrialConfig):
                RunConfig(task=self.study.task, trial=config, seed=0)  # raises if they don't fit
        if inspect.iscoroutine(config):
            config.close()
        if not isinstance(config, TrialConfig):
            raise StudyFileError(
                f"{_location(self.path, self.space)}: space(trial) returned {shown(config)}: "
                "return a TrialConfig"
            )
        return config

    def constrained(self, trial: TrialRecord) -> dict[str, float]:
        """Return the values of the constraints for a trial, by name.

        Raises StudyFileError if the constraints fail or return anything but numbers by name.
        """
        if self.constraints is None:
            return {}
        with self._file_errors():
            returned = self.constraints(trial)
        problem = f"{_location(self.path, self.constraints)}: constraints(trial) returned"
        remedy = 'return numbers by name, such as {"memory": trial.memory - 1000}'
        if not isinstance(returned, Mapping):
            raise StudyFileError(f"{problem} {shown(returned)}: {remedy}")
        for name, value in returned.items():
            number = isinstance(value, SupportsFloat) and not math.isnan(float(value))
            if not isinstance(name, str) or not number:
                raise StudyFileError(f"{problem} {shown(value)} for {shown(name)}: {remedy}")
        return {name: float(value) for name, value in returned.items()}

    def try_space(self, stored_trials: Sequence[FrozenTrial] = ()) -> TrialConfig:
        """Try the space on a temporary study, and return its first configuration.

        The space is called for each point of the study. Then it is called for random draws, until
        it has accepted ACCEPTED_DRAWS or rejected REJECTED_IN_A_ROW of them.

        stored_trials: trials of a stored study that the search resumes, one for each set of
        parameters (see `branches`).

        Raises StudyFileError if the space fails or rejects every draw, if a point is outside it, or
        if it gives a parameter a range that is incompatible with that of a stored trial.
        """
        study = self._scratch_study()
        if stored_trials:
            stored = study.ask(fixed_distributions=distributions(stored_trials))
            stored.set_user_attr(STORED, self.study.name)
        for trial in stored_trials:
            with suppress(RejectedError):
                self._try_point(trial.params, study)
        points = [self._point_config(point, study) for point in self.study.points]
        return (points + [config for _, config in self._accepted_draws(study)])[0]

    def sampled(self, *, with_ends: bool = False) -> list[TrialConfig]:
        """Return configurations of the space: its points and SAMPLED_DRAWS random draws.

        Points and draws that the space rejects, or fails for, are left out. with_ends: whether to
        add configurations with one parameter at a time at either end of its range, or at each of
        its choices.
        """
        study, configs = self._scratch_study(), list[TrialConfig]()

        def add_config(point: Mapping[str, Any]) -> None:
            with suppress(StudyFileError):
                configs.append(self._try_point(point, study)[1])

        for point in (*self.study.points, *[{}] * SAMPLED_DRAWS):
            add_config(point)
        for trial in branches(study) if with_ends else ():
            for name, distribution in trial.distributions.items():
                for value in ends(distribution):
                    add_config(trial.params | {name: value})
        return configs

    def largest_period(self) -> int:
        """Return the largest k_att among sampled configurations of the space; at least 1."""
        return max((config.model.period for config in self.sampled(with_ends=True)), default=1)

    def unfit(self, point: Mapping[str, Any]) -> str:
        """Return the reason why the space doesn't accept a point; "" if it does."""
        try:
            self._try_point(point, self._scratch_study())
        except StudyFileError as problem:
            return str(problem)
        return ""

    def try_constraints(self) -> None:
        """Try the constraints on an example trial.

        Raises StudyFileError if they fail, unless the failure may be due to the example's numbers.
        """
        if self.constraints is None:
            return
        trial, config = self._accepted_draws(self._scratch_study())[0]
        try:
            self.constrained(example(self.study, config, trial.params))
        except StudyFileError as problem:
            value_dependent = ArithmeticError | AssertionError | LookupError | ValueError
            if not isinstance(problem.__cause__, value_dependent):
                raise

    def _point_config(self, point: Mapping[str, Any], study: optuna.Study) -> TrialConfig:
        """Return the configuration of a point.

        Raises StudyFileError if the point is outside the space, or has a parameter that the space
        doesn't suggest.
        """
        trial, config = self._try_point(point, study)
        for name in point:
            if name not in trial.params:
                raise StudyFileError(
                    f"{_location(self.path, 'STUDY')}: a point gives {name!r}, which the space "
                    f"doesn't ask for: {suggest(name, list(trial.params))}"
                )
        return config

    def _accepted_draws(self, study: optuna.Study) -> list[tuple[optuna.Trial, TrialConfig]]:
        """Return the first random draws that the space accepts, at most ACCEPTED_DRAWS.

        Raises StudyFileError if the space accepts none or fails.
        """
        accepted: list[tuple[optuna.Trial, TrialConfig]] = []
        rejected: list[RejectedError] = []
        while len(accepted) < ACCEPTED_DRAWS and len(rejected) < REJECTED_IN_A_ROW:
            try:
                accepted.append(self._try_point({}, study))
            except RejectedError as problem:
                rejected.append(problem)
        if not accepted:
            raise StudyFileError(str(rejected[0])) from rejected[0]
        return accepted

    def _scratch_study(self) -> optuna.Study:
        """Return a new, temporary study in memory that draws at random."""
        sampler = optuna.samplers.RandomSampler(seed=self.study.seed)
        return optuna.create_study(sampler=sampler)

    def _try_point(
        self, point: Mapping[str, Any], study: optuna.Study
    ) -> tuple[optuna.Trial, TrialConfig]:
        """Return a trial of `study` at a point, and the configuration of the space for it.

        Raises RejectedError if the space rejects the point, and StudyFileError if it fails.
        """
        study.enqueue_trial(dict(point))
        trial = study.ask()
        return trial, self.config(trial)

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        """Convert errors of the file's code into errors with a one-line message.

        Raises RejectedError if the code rejects a configuration, and StudyFileError otherwise.
        """
        try:
            with importable(self.path.resolve().parent):
                yield
        except KeyboardInterrupt:
            raise
        except (optuna.TrialPruned, ConfigError, RejectedError) as problem:
            raise RejectedError(explain(self.path, problem)) from problem
        except BaseException as problem:  # includes SystemExit: a study file must not end sabtune
            raise StudyFileError(explain(self.path, problem)) from problem


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
    own, baselines = _study_file(path, module), _baselines(module)
    file = own if baseline is None else _as_baseline(own, baselines, baseline)
    file.try_space()
    file.try_constraints()
    if file.phases_given:
        return file
    spaces = [own.space, *baselines.values()] if file.study.task.build().phased else []
    phases = (dataclasses.replace(own, space=space).largest_period() for space in spaces)
    return file.with_ladder(phases=max(phases, default=1))


def _study_file(path: Path, module: ModuleType) -> StudyFile:
    """Return the study, space and constraints that a study file defines.

    Raises StudyFileError if the study or the space is missing, or if one of them is of the wrong
    type.
    """
    study, space = getattr(module, "STUDY", None), getattr(module, "space", None)
    constraints = getattr(module, "constraints", None)
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
                f"{_location(path, 'constraints')}: constraints is {shown(constraints)}: "
                "give a function like constraints(trial)"
            )
        _check_takes_trial(path, "constraints", constraints)
    _check_baselines(path, _baselines(module), _baselines_name(module))
    points = tuple({k: _to_python(v) for k, v in point.items()} for point in study.points)
    study = dataclasses.replace(study, points=points)
    return StudyFile(
        path,
        study,
        space,
        constraints,
        inspect.getdoc(module) or "",
        phases_given=study.ladder.phases is not None,
    )


def _baselines_name(module: ModuleType) -> str:
    """Return the variable that holds the baselines: BASELINES, or its former name RIVALS."""
    former = hasattr(module, "RIVALS") and not hasattr(module, "BASELINES")
    return "RIVALS" if former else "BASELINES"


def _baselines(module: ModuleType) -> Any:
    return getattr(module, _baselines_name(module), {})


def _check_baselines(path: Path, baselines: Any, name: str) -> None:
    """Raise StudyFileError if the baselines aren't a mapping from names to spaces."""
    named = isinstance(baselines, Mapping) and all(
        isinstance(key, str) and fits_name(key) for key in baselines
    )
    if not named or not all(callable(space) for space in baselines.values()):
        raise StudyFileError(
            f"{_location(path, name)}: {name} is {shown(baselines)}: give spaces by name, such as "
            '{"lstm": a function like space(trial)}'
        )
    for key, space in baselines.items():
        _check_takes_trial(path, f"{name}[{key!r}]", space)


def _as_baseline(file: StudyFile, baselines: Mapping[str, Space], name: str) -> StudyFile:
    """Return the study of a baseline. Raises StudyFileError if the file has no such baseline."""
    if name not in baselines:
        remedy = suggest(name, baselines) if baselines else "it has no BASELINES"
        raise StudyFileError(f"{file.path} has no baseline {name!r}: {remedy}")
    space = baselines[name]
    question = "\n\n".join(
        filter(None, [file.question, f"Baseline: {name}", inspect.getdoc(space)])
    )
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
            f"{_location(path, function)}: {name} can't be called with a trial alone "
            f"({problem}): give it the one argument trial"
        ) from None


def _actual_value(path: Path, name: str, value: object) -> str:
    """Return the end of a message: the value that a name has in the file, or "" if it has none."""
    return "" if value is None else f", instead of {shown(value)} in {_location(path, name)}"


def _location(path: Path, definition: str | Callable[..., Any]) -> str:
    """Return FILE:LINE of a function, or of the first assignment to a name; FILE if unknown."""
    line = None
    if isinstance(definition, str):
        for node in ast.parse(path.read_bytes()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            names = [getattr(target, "id", getattr(target, "name", None)) for target in targets]
            if isinstance(node, ast.AnnAssign):
                names = [getattr(node.target, "id", None)]
            if definition in names:
                line = node.lineno
                break
    else:
        code = getattr(inspect.unwrap(definition), "__code__", None)
        if code is not None and Path(code.co_filename) == path.resolve():
            line = code.co_firstlineno
    return f"{path}:{line}" if line else str(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # for example, the name is too long
        return False


def _to_python(value: Any) -> Any:
    """Return a NumPy scalar as a Python number, and any other value unchanged."""
    scalar = type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()
    return value.item() if scalar else value
