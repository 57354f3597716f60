"""A study: one question, as a Python file with a STUDY and a space(trial) puts it."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import optuna

from sabtune.config import RunConfig, TrialConfig
from sabtune.errors import SabtuneError, StudyFileError
from sabtune.evaluation import Ladder
from sabtune.schema import Config, check, check_name, check_whole, suggest
from sabtune.search.racing import Seeds
from sabtune.search.record import TrialRecord
from sabtune.tasks import TaskConfig
from sabtune.trial import Limits

Space = Callable[[optuna.Trial], TrialConfig]
Constraints = Callable[[TrialRecord], Mapping[str, float]]
Sampler = Literal["tpe", "cmaes", "gp", "random"]
Objective = Literal["score", "seconds_per_update", "peak_memory"]

AUTO: Literal["auto"] = "auto"

LEAST_GPU = 0.01
"""The smallest part of a GPU that a trial may ask for."""


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
        fit = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) is not None
        check(fit, "name", self.name, "letters, digits, '.', '_' and '-'; it names files")
        check_whole("trials", self.trials, least=1)
        check_whole("seed", self.seed, least=0)
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
        task = self.task.build()
        for length in self.ladder.lengths:
            task.steps(length)


@dataclass(frozen=True)
class StudyFile:
    """A loaded study file. `constraints`: by name, numbers above 0 where a complete trial breaks
    one; such a trial is never the best. `question`: the file's docstring. `rival`: the one whose
    space this is."""

    path: Path
    study: Study
    space: Space
    constraints: Constraints | None = None
    question: str = ""
    rival: str | None = None

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
            asked = self._tried(point).params
            points.append({name: value for name, value in point.items() if name in asked})
        unlike = tuple(point for i, point in enumerate(points) if point not in points[:i])
        return dataclasses.replace(self, study=dataclasses.replace(self.study, points=unlike))

    def config(self, trial: optuna.Trial) -> TrialConfig:
        """What the space returns for `trial`. Raises StudyFileError if it can't."""
        try:
            config = self.space(trial)
            if isinstance(config, TrialConfig):
                RunConfig(task=self.study.task, trial=config, seed=0)  # raises if they don't fit
        except Exception as problem:
            raise StudyFileError(_told(self.path, problem)) from problem
        if not isinstance(config, TrialConfig):
            raise StudyFileError(
                f"{self.path}: space(trial) returned {config!r}: return a TrialConfig"
            )
        return config

    def constrained(self, trial: TrialRecord) -> dict[str, float]:
        """What the constraints give for a trial. Raises StudyFileError if they can't."""
        if self.constraints is None:
            return {}
        try:
            return {name: float(value) for name, value in self.constraints(trial).items()}
        except Exception as problem:
            raise StudyFileError(_told(self.path, problem)) from problem

    def try_space(self) -> TrialConfig:
        """What the space gives first, on a study thrown away after: the first point, if any.

        Raises StudyFileError if the space fails, or if a point names what it doesn't ask for.
        """
        configs = []
        for point in (*self.study.points, {}):
            trial = self._tried(point)
            configs.append(self.config(trial))
            for name in point:
                if name not in trial.params:
                    raise StudyFileError(
                        f"{self.path}: a point gives {name!r}, which the space doesn't ask for: "
                        f"{suggest(name, list(trial.params))}"
                    )
                if trial.params[name] != point[name]:
                    raise StudyFileError(
                        f"{self.path}: a point gives {name}={point[name]!r}, "
                        "which is outside the space: give a value inside"
                    )
        return configs[0]

    def _tried(self, point: dict[str, Any]) -> optuna.Trial:
        """A trial of a study thrown away after, whose space was asked with a point enqueued.

        Raises StudyFileError if the space fails.
        """
        sampler = optuna.samplers.RandomSampler(seed=self.study.seed)
        tried = optuna.create_study(sampler=sampler)
        tried.enqueue_trial(point)
        trial = tried.ask()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Fixed parameter")  # `try_space` tells it
            self.config(trial)
        return trial


def load(path: Path, rival: str | None = None) -> StudyFile:
    """Runs the study file and tries its space, or that of one of its RIVALS.

    What is searched for a rival is the same study in all but the space and the name, STUDY.RIVAL;
    points are tried as far as its space asks for them. Raises StudyFileError, with the line if it
    can.
    """
    if not path.is_file():
        raise StudyFileError(f"there is no study file {path}: give the path of a Python file")
    spec = importlib.util.spec_from_file_location(f"sabtune_study_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise StudyFileError(f"{path} is no Python file: give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as problem:
        raise StudyFileError(_told(path, problem)) from problem
    study, space = getattr(module, "STUDY", None), getattr(module, "space", None)
    if not isinstance(study, Study):
        raise StudyFileError(f"{path} has no STUDY: add STUDY = Study(name=..., task=..., ...)")
    if not callable(space):
        raise StudyFileError(f"{path} has no space: add def space(trial): return TrialConfig(...)")
    constraints = getattr(module, "constraints", None)
    file = StudyFile(path, study, space, constraints, inspect.getdoc(module) or "")
    if rival is not None:
        file = _as_rival(file, getattr(module, "RIVALS", {}), rival)
    file.try_space()
    return file


def _as_rival(file: StudyFile, rivals: Any, name: str) -> StudyFile:
    """The study of a rival. Raises StudyFileError if RIVALS doesn't have it."""
    if not isinstance(rivals, Mapping) or not all(callable(space) for space in rivals.values()):
        raise StudyFileError(
            f"{file.path}: RIVALS is {rivals!r}: give spaces by name, such as "
            '{"lstm": a function like space(trial)}'
        )
    if name not in rivals:
        remedy = suggest(name, rivals) if rivals else "it has no RIVALS"
        raise StudyFileError(f"{file.path} has no rival {name!r}: {remedy}")
    space = rivals[name]
    question = "\n\n".join(filter(None, [file.question, f"Rival: {name}", inspect.getdoc(space)]))
    own = dataclasses.replace(file, space=space, question=question, rival=name)
    return own.renamed(f"{file.study.name}.{name}").with_points_asked_for()


def _told(path: Path, problem: Exception) -> str:
    """The file, the line if the problem passed through it, and the problem, on one line."""
    if isinstance(problem, SyntaxError):
        return f"{path}:{problem.lineno}: {problem.msg}"
    frames = traceback.extract_tb(problem.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.resolve()]
    place = f"{path}:{lines[-1]}" if lines else str(path)
    kind = "" if isinstance(problem, SabtuneError) else f"{type(problem).__name__}: "
    return " ".join(f"{place}: {kind}{problem}".split())
