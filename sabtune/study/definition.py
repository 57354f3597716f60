"""A study: one question, as a Python file with a STUDY and a space(trial) puts it."""

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
from sabtune.study import former_names
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

LEAST_GPU = 0.01
"""The smallest part of a GPU that a trial may ask for."""

ACCEPTED = 10
"""Configurations that a space is tried for when its file is loaded."""

DRAWS = 32
"""Random draws by which a space is known."""

REJECTED_IN_A_ROW = 50
"""Configurations that a space may reject before it is taken for one that rejects all."""


@dataclass(frozen=True, kw_only=True)
class Resources(Config):
    """What one trial occupies. A trial computes on `cpus` threads.

    gpus: with a fraction, trials share a GPU; more than one are whole ones of one machine. "auto":
    as many share one as its memory bears, by a probe (see `sharing.py`). Where there is no GPU,
    trials that ask for one or less run on the CPU.
    """

    cpus: int = 1
    gpus: float | Literal["auto"] = 0

    def __post_init__(self) -> None:
        check_whole("cpus", self.cpus, least=1)
        number = isinstance(self.gpus, int | float) and not isinstance(self.gpus, bool)
        fits = self.gpus == AUTO
        if number and not fits:
            gpus = float(self.gpus)
            fits = gpus == 0 or LEAST_GPU <= gpus < 1 or (gpus >= 1 and gpus.is_integer())
        wanted = f'0, a fraction from {LEAST_GPU}, a whole number, or "auto"'
        check(fits, "gpus", self.gpus, wanted)


def fits_name(name: str) -> bool:
    """Whether a study can have this name."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is not None


def words(cpus: float, gpus: float) -> str:
    """As in "2 CPUs and 1 GPU"."""
    text = "1 CPU" if cpus == 1 else f"{cpus:g} CPUs"
    if not gpus:
        return text
    return f"{text} and {gpus:g} {'GPU' if gpus <= 1 else 'GPUs'}"


@dataclass(frozen=True, kw_only=True)
class ASHA(Config):
    """Asynchronous successive halving (Li et al., MLSys 2020, arXiv 1810.05934).

    At `grace` updates, and at `grace` times each power of `reduction`, a trial goes on if its
    score is among the best 1/reduction of those that came so far.
    """

    grace: int
    reduction: float = 3

    def __post_init__(self) -> None:
        check_whole("grace", self.grace, least=1)
        check(self.reduction > 1, "reduction", self.reduction, "a factor above 1")


@dataclass(frozen=True, kw_only=True)
class Study(Config):
    """What is asked and what may be spent on it.

    trials: how many in all, each seed of a configuration counted. seed: of the sampler and of
    every trial. pruning: None runs every trial to its end. startup: trials drawn at random before
    the sampler models the space. sampler: Optuna's, by name. objectives: the first is what a trial
    is pruned by; with more than one the study has a Pareto front. points: parameters, by name,
    that are tried first; the sampler draws those that a point leaves out. limits: of each trial.
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
        once = len(set(self.objectives)) == len(self.objectives)
        lead = once and self.objectives[:1] == ("score",)
        check(lead, "objectives", self.objectives, '"score" first, and each one once')
        single = len(self.objectives) == 1 or self.sampler != "cmaes"
        check(single, "sampler", self.sampler, "tpe, gp or random where objectives are several")
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
    """A loaded study file. `constraints`: by name, numbers above 0 where a complete trial breaks
    one; such a trial is never the best. `question`: the file's docstring. `baseline`: the one whose
    space this is. `phases_given`: whether the file itself says how many phases its ladder has."""

    path: Path
    study: Study
    space: Space
    constraints: Constraints | None = None
    question: str = ""
    baseline: str | None = None
    phases_given: bool = True

    def with_ladder(self, **values: Any) -> StudyFile:
        """Return the same file with these values of its ladder. Raises StudyFileError if it has
        too few sequences for its phases."""
        try:
            ladder = dataclasses.replace(self.study.ladder, **values)
        except ConfigError as problem:
            raise StudyFileError(f"{_place_of(self.path, 'STUDY')}: {problem}") from None
        return dataclasses.replace(self, study=dataclasses.replace(self.study, ladder=ladder))

    def with_limits(self, *, trials: int | None, seed: int | None) -> StudyFile:
        """The same file with another number of trials or seed, where it is given."""
        study = dataclasses.replace(
            self.study,
            trials=self.study.trials if trials is None else trials,
            seed=self.study.seed if seed is None else seed,
        )
        return dataclasses.replace(self, study=study)

    def renamed(self, name: str) -> StudyFile:
        """The same file, its study under another name."""
        return dataclasses.replace(self, study=dataclasses.replace(self.study, name=name))

    def with_points_asked_for(self) -> StudyFile:
        """The same file, its points without what the space doesn't ask for, and each one once."""
        points = []
        for point in self.study.points:
            asked, _ = self._tried(point, self._thrown_away())
            points.append({name: value for name, value in point.items() if name in asked.params})
        unlike = tuple(point for i, point in enumerate(points) if point not in points[:i])
        return dataclasses.replace(self, study=dataclasses.replace(self.study, points=unlike))

    def config(self, trial: optuna.Trial) -> TrialConfig:
        """Return what the space returns for `trial`.

        Raises RejectedError if the space raises TrialPruned or makes an invalid configuration, and
        StudyFileError if it fails.
        """
        if isinstance(trial, optuna.Trial):
            trial = CheckedTrial.of(trial)
        with self._explained():
            config: Any = self.space(trial)
            if isinstance(config, TrialConfig):
                RunConfig(task=self.study.task, trial=config, seed=0)  # raises if they don't fit
        if inspect.iscoroutine(config):
            config.close()
        if not isinstance(config, TrialConfig):
            raise StudyFileError(
                f"{_place_of(self.path, self.space)}: space(trial) returned {shown(config)}: "
                "return a TrialConfig"
            )
        return config

    def constrained(self, trial: TrialRecord) -> dict[str, float]:
        """What the constraints give for a trial. Raises StudyFileError if they can't."""
        if self.constraints is None:
            return {}
        with self._explained():
            made = self.constraints(trial)
        problem = f"{_place_of(self.path, self.constraints)}: constraints(trial) returned"
        remedy = 'return numbers by name, such as {"memory": trial.memory - 1000}'
        if not isinstance(made, Mapping):
            raise StudyFileError(f"{problem} {shown(made)}: {remedy}")
        for name, value in made.items():
            number = isinstance(value, SupportsFloat) and not math.isnan(float(value))
            if not isinstance(name, str) or not number:
                raise StudyFileError(f"{problem} {shown(value)} for {shown(name)}: {remedy}")
        return {name: float(value) for name, value in made.items()}

    def try_space(self, known: Sequence[FrozenTrial] = ()) -> TrialConfig:
        """Return what the space gives first, on a study thrown away after: the first point, if any.

        It is asked for the points, and until it has accepted ACCEPTED draws. known: trials of a
        stored study, one for each branch of the space. Raises StudyFileError if the space fails or
        rejects every draw, if the stored study can't go on with it, or if a point isn't in it.
        """
        study = self._thrown_away()
        if known:
            stored = study.ask(fixed_distributions=distributions(known))
            stored.set_user_attr(STORED, self.study.name)
        for trial in known:
            with suppress(RejectedError):
                self._tried(trial.params, study)
        points = [self._point(point, study) for point in self.study.points]
        return (points + [config for _, config in self._draws(study)])[0]

    def sampled(self, *, with_ends: bool = False) -> list[TrialConfig]:
        """Configurations of the space: its points, random draws, and, if `with_ends`, draws with
        one parameter at a time at either end of its range."""
        study, configs = self._thrown_away(), list[TrialConfig]()

        def note(point: Mapping[str, Any]) -> None:
            with suppress(StudyFileError):
                configs.append(self._tried(point, study)[1])

        for point in (*self.study.points, *[{}] * DRAWS):
            note(point)
        for trial in branches(study) if with_ends else ():
            for name, distribution in trial.distributions.items():
                for value in ends(distribution):
                    note(trial.params | {name: value})
        return configs

    def largest_period(self) -> int:
        """The largest k_att that is found in the space."""
        return max((of.model.period for of in self.sampled(with_ends=True)), default=1)

    def unfit(self, point: Mapping[str, Any]) -> str:
        """Say why the space can't be asked for a point; "" if it can."""
        try:
            self._tried(point, self._thrown_away())
        except StudyFileError as problem:
            return str(problem)
        return ""

    def try_constraints(self) -> None:
        """Raises StudyFileError if the constraints fail on any trial, as far as one can tell."""
        if self.constraints is None:
            return
        trial, config = self._draws(self._thrown_away())[0]
        try:
            self.constrained(example(self.study, config, trial.params))
        except StudyFileError as problem:
            depends = ArithmeticError | AssertionError | LookupError | ValueError
            if not isinstance(problem.__cause__, depends):  # it may be the example's numbers
                raise

    def _point(self, point: Mapping[str, Any], study: optuna.Study) -> TrialConfig:
        """What the space makes of a point. Raises StudyFileError if that isn't in the space."""
        asked, config = self._tried(point, study)
        for name in point:
            if name not in asked.params:
                raise StudyFileError(
                    f"{_place_of(self.path, 'STUDY')}: a point gives {name!r}, which the space "
                    f"doesn't ask for: {suggest(name, list(asked.params))}"
                )
        return config

    def _draws(self, study: optuna.Study) -> list[tuple[optuna.Trial, TrialConfig]]:
        """The first draws that the space accepts. Raises StudyFileError if it accepts none."""
        accepted: list[tuple[optuna.Trial, TrialConfig]] = []
        rejected: list[RejectedError] = []
        while len(accepted) < ACCEPTED and len(rejected) < REJECTED_IN_A_ROW:
            try:
                accepted.append(self._tried({}, study))
            except RejectedError as problem:
                rejected.append(problem)
        if not accepted:
            raise StudyFileError(str(rejected[0])) from rejected[0]
        return accepted

    def _thrown_away(self) -> optuna.Study:
        sampler = optuna.samplers.RandomSampler(seed=self.study.seed)
        return optuna.create_study(sampler=sampler)

    def _tried(
        self, point: Mapping[str, Any], study: optuna.Study
    ) -> tuple[optuna.Trial, TrialConfig]:
        """A trial of a study that was asked for a point, and what the space made of it.

        Raises StudyFileError if the space fails or rejects it.
        """
        study.enqueue_trial(dict(point))
        trial = study.ask()
        return trial, self.config(trial)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Runs code of the file. Raises, in one line, StudyFileError for what it raises, and
        RejectedError where that is the refusal of a configuration."""
        try:
            with importable(self.path.resolve().parent):
                yield
        except KeyboardInterrupt:
            raise
        except (optuna.TrialPruned, ConfigError, RejectedError) as problem:
            raise RejectedError(explain(self.path, problem)) from problem
        except BaseException as problem:  # a SystemExit, too: the file isn't the program
            raise StudyFileError(explain(self.path, problem)) from problem


def load(path: Path, baseline: str | None = None) -> StudyFile:
    """Run a study file, and try its space or that of one of its BASELINES.

    A baseline's study is the same in all but the space and the name, STUDY.BASELINE; its points are
    used as far as its space asks for them. Raises StudyFileError, with the line if it can.
    """
    if not _is_file(path):
        raise StudyFileError(f"there is no study file {path}: give the path of a Python file")
    if path.suffix != ".py":
        raise StudyFileError(f"{path} is no Python file: give one that ends in .py")
    try:
        module = import_file(path)
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # a SystemExit, too: the file isn't the program
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
    """What a study file defines. Raises StudyFileError if it lacks something."""
    study, space = getattr(module, "STUDY", None), getattr(module, "space", None)
    constraints = getattr(module, "constraints", None)
    if not isinstance(study, Study):
        raise StudyFileError(
            f"{path} has no STUDY: add STUDY = Study(name=..., task=..., ...)"
            + _instead_of(path, "STUDY", study)
        )
    if not callable(space):
        raise StudyFileError(
            f"{path} has no space: add def space(trial): return TrialConfig(...)"
            + _instead_of(path, "space", space)
        )
    _check_takes_trial(path, "space", space)
    if constraints is not None:
        if not callable(constraints):
            raise StudyFileError(
                f"{_place_of(path, 'constraints')}: constraints is {shown(constraints)}: "
                "give a function like constraints(trial)"
            )
        _check_takes_trial(path, "constraints", constraints)
    _check_baselines(path, _baselines(module), _baselines_name(module))
    points = tuple({k: _plain(v) for k, v in point.items()} for point in study.points)
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
    """Return the name by which a study file defines its baselines: RIVALS is the former one."""
    former = hasattr(module, "RIVALS") and not hasattr(module, "BASELINES")
    return "RIVALS" if former else "BASELINES"


def _baselines(module: ModuleType) -> Any:
    name = _baselines_name(module)
    if name == "RIVALS":
        former_names.used["RIVALS"] = "BASELINES"
    return getattr(module, name, {})


def _check_baselines(path: Path, baselines: Any, name: str) -> None:
    """Raise StudyFileError if the baselines aren't a mapping from names to spaces."""
    named = isinstance(baselines, Mapping) and all(
        isinstance(key, str) and fits_name(key) for key in baselines
    )
    if not named or not all(callable(space) for space in baselines.values()):
        raise StudyFileError(
            f"{_place_of(path, name)}: {name} is {shown(baselines)}: give spaces by name, such as "
            '{"lstm": a function like space(trial)}'
        )
    for key, space in baselines.items():
        _check_takes_trial(path, f"{name}[{key!r}]", space)


def _as_baseline(file: StudyFile, baselines: Mapping[str, Space], name: str) -> StudyFile:
    """Return the study of a baseline. Raises StudyFileError if the file doesn't define it."""
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
    """Raises StudyFileError if a function can't be called with a trial alone."""
    try:
        inspect.signature(function).bind(None)
    except ValueError:
        return  # of a function that says nothing of its arguments
    except TypeError as problem:
        raise StudyFileError(
            f"{_place_of(path, function)}: {name} can't be called with a trial alone "
            f"({problem}): give it the one argument trial"
        ) from None


def _instead_of(path: Path, name: str, value: object) -> str:
    """What a name is in the file, and where; "" if the file doesn't have it."""
    return "" if value is None else f", instead of {shown(value)} in {_place_of(path, name)}"


def _place_of(path: Path, what: str | Callable[..., Any]) -> str:
    """The file, with the line that defines a function, or that a name is first given a value in."""
    line = None
    if isinstance(what, str):
        for node in ast.parse(path.read_bytes()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            names = [getattr(of, "id", getattr(of, "name", None)) for of in targets]
            if isinstance(node, ast.AnnAssign):
                names = [getattr(node.target, "id", None)]
            if what in names:
                line = node.lineno
                break
    else:
        code = getattr(inspect.unwrap(what), "__code__", None)
        if code is not None and Path(code.co_filename) == path.resolve():
            line = code.co_firstlineno
    return f"{path}:{line}" if line else str(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _plain(value: Any) -> Any:
    """A scalar of NumPy as Python's number."""
    scalar = type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()
    return value.item() if scalar else value
