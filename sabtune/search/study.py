"""A study: one question, as a Python file with a STUDY and a space(trial) puts it."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import optuna

from sabtune.config import TrialConfig
from sabtune.errors import SabtuneError, StudyFileError
from sabtune.evaluation import Ladder
from sabtune.schema import Config, check, check_whole
from sabtune.tasks import TaskConfig

Space = Callable[[optuna.Trial], TrialConfig]


@dataclass(frozen=True, kw_only=True)
class Resources(Config):
    """What one trial occupies. A trial computes on `cpus` threads."""

    cpus: int = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        check_whole("cpus", self.cpus, least=1)
        check(self.gpus >= 0, "gpus", self.gpus, "a number of at least 0")


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

    trials: how many in all. seed: of the sampler and of every trial. pruning: None runs every
    trial to its end. startup: trials drawn at random before the sampler models the space.
    """

    name: str
    task: TaskConfig
    ladder: Ladder
    trials: int = 20
    seed: int = 0
    startup: int = 10
    resources: Resources = field(default_factory=Resources)
    pruning: ASHA | None = None

    def __post_init__(self) -> None:
        fit = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) is not None
        check(fit, "name", self.name, "letters, digits, '.', '_' and '-'; it names files")
        check_whole("trials", self.trials, least=1)
        check_whole("seed", self.seed, least=0)
        check_whole("startup", self.startup, least=1)
        first = self.ladder.lengths[0]
        check(
            first == self.task.length,
            "ladder.lengths",
            self.ladder.lengths,
            f"the training length, {self.task.length}, first",
        )


@dataclass(frozen=True)
class StudyFile:
    """A loaded study file."""

    path: Path
    study: Study
    space: Space

    def with_limits(self, *, trials: int | None, seed: int | None) -> StudyFile:
        """The same file with another number of trials or seed, where one is given."""
        study = dataclasses.replace(
            self.study,
            trials=self.study.trials if trials is None else trials,
            seed=self.study.seed if seed is None else seed,
        )
        return dataclasses.replace(self, study=study)

    def config(self, trial: optuna.Trial) -> TrialConfig:
        """What the space returns for `trial`. Raises StudyFileError if it can't."""
        try:
            config = self.space(trial)
        except Exception as problem:
            raise StudyFileError(_told(self.path, problem)) from problem
        if not isinstance(config, TrialConfig):
            raise StudyFileError(
                f"{self.path}: space(trial) returned {config!r}: return a TrialConfig"
            )
        return config

    def try_space(self) -> None:
        """Calls the space once, on a study thrown away after. Raises StudyFileError if it fails."""
        sampler = optuna.samplers.RandomSampler(seed=self.study.seed)
        self.config(optuna.create_study(sampler=sampler).ask())


def load(path: Path) -> StudyFile:
    """Runs the study file and tries its space. Raises StudyFileError, with the line if it can."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
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
    file = StudyFile(path, study, space)
    file.try_space()
    return file


def _told(path: Path, problem: Exception) -> str:
    """The file, the line if the problem passed through it, and the problem, on one line."""
    if isinstance(problem, SyntaxError):
        return f"{path}:{problem.lineno}: {problem.msg}"
    frames = traceback.extract_tb(problem.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.resolve()]
    place = f"{path}:{lines[-1]}" if lines else str(path)
    kind = "" if isinstance(problem, SabtuneError) else f"{type(problem).__name__}: "
    return " ".join(f"{place}: {kind}{problem}".split())
