"""The definition of a study: its task, its budget, and what a trial may use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import optuna

from sabtune.config import PARTS, TrialConfig
from sabtune.data import place
from sabtune.schema import (
    Config,
    Parts,
    check,
    check_name,
    check_seed,
    check_whole,
    from_dict,
    to_dict,
)
from sabtune.study.configurations import Seeds
from sabtune.study.stopping import RULES, OneRule, StoppingRule
from sabtune.study.trial_record import TrialRecord
from sabtune.tasks import TaskConfig
from sabtune.training.evaluation import Ladder
from sabtune.training.trial import Limits

Space = Callable[[optuna.Trial], TrialConfig]
Constraints = Callable[[TrialRecord], Mapping[str, float]]
Sampler = Literal["tpe", "cmaes", "gp", "random"]
Objective = Literal["score", "seconds_per_update", "peak_memory", "share_kept"]

STUDY_PARTS: Parts = {**PARTS, StoppingRule: RULES}
"""For each base class of configurations in a study, the table of its subclasses."""

AUTO: Literal["auto"] = "auto"

MIN_GPU_FRACTION = 0.01
"""The smallest fraction of a GPU that a trial may request."""


@dataclass(frozen=True, kw_only=True)
class Resources(Config):
    """The CPUs and GPUs of one trial.

    Without any GPU, trials that request at most one GPU run on the CPU.

    Args:
        cpus: The number of CPUs, at least 1, which is also the number of threads that a trial
            computes on.
        gpus: The number of GPUs: 0, a fraction of at least 0.01, or a whole number. With a
            fraction, trials share a GPU. All GPUs of a trial are on one machine. With "auto", a
            probe measures the memory of a trial, and as many trials share a GPU as fit in 80 % of
            its memory, but no more than 8 and no more than the CPUs allow.

    Raises:
        ConfigError: A field is unknown, out of range or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> sab.Resources(cpus=4, gpus=0.25)  # four trials share a GPU
        Resources(cpus=4, gpus=0.25)
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

    The rungs are at `grace` updates, and at `grace` times each power of `reduction`. ASHA compares
    a trial at its first report at or after a rung. The trial continues if its score is among the
    best 1/reduction of the trials that have reached the rung, or are complete, so far. The best of
    them always continues.

    Args:
        grace: The number of updates at the first rung, at least 1.
        reduction: The factor from one rung to the next, above 1.

    Raises:
        ConfigError: A field is missing, unknown, out of range or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> pruning = sab.ASHA(grace=2000, reduction=2)
        >>> [pruning.grace * pruning.reduction**rung for rung in range(3)]
        [2000.0, 4000.0, 8000.0]
    """

    grace: int
    reduction: float = 3

    def __post_init__(self) -> None:
        check_whole("grace", self.grace, least=1)
        check(self.reduction > 1, "reduction", self.reduction, "a factor above 1")


@dataclass(frozen=True, kw_only=True)
class Study(Config):
    """The question that a study asks, and its budget.

    Args:
        name: The name of the study in its store, of at most 100 letters, digits, ".", "_" and "-".
            It names files, and it starts with a letter or a digit.
        task: The configuration of the task that the models learn.
        ladder: The lengths that the models are tested at. The first one is the task's `length`.
        trials: The total number of trials, at least 1. Each seed of a configuration counts.
        seed: The seed from which those of the sampler and of every trial derive, from 0 to
            `2**32 - 1`.
        startup: The number of trials drawn at random before the sampler models the space, at
            least 1.
        resources: The CPUs and GPUs of each trial. Defaults to one CPU and no GPU.
        pruning: The settings of ASHA. None prunes no trial.
        sampler: The name of an Optuna sampler: "tpe", "cmaes", "gp" or "random". "cmaes" takes
            only one objective.
        objectives: What the search optimizes, without duplicates. The first one is "score", which
            is maximized and decides which trials are pruned. The others are minimized:
            "seconds_per_update"; "peak_memory", in MiB; or "share_kept", the share of the memories
            that a step attends to at the end of a training sequence. With more than one objective,
            the study has a Pareto front.
        seeds: The number of seeds of each configuration. Defaults to one.
        points: Parameters that the search tries first, as values by name, such as
            `({"k_top": 5},)`. The sampler draws the parameters that a point leaves out.
        limits: The limits of each trial. Defaults to no limit.
        stop: A rule that ends the search before `trials`, or a tuple of rules, of which the first
            one that is fulfilled ends it: `NoImprovement`, `Target` or `Solved`. Trials that run
            then end first. Defaults to None.

    Raises:
        ConfigError: A field is missing, unknown, out of range or of the wrong type, the ladder
            doesn't fit the task, or a rule needs more seeds than a configuration gets.

    Example:
        >>> import sabtune as sab
        >>> task = sab.Copying.Config(length=20, symbols=5)
        >>> ladder = sab.Ladder(lengths=(20, 40, 100), select=(20, 40))
        >>> study = sab.Study(name="quick", task=task, ladder=ladder, trials=30)
        >>> study.trials, study.sampler, study.seeds.most
        (30, 'tpe', 1)
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
    stop: OneRule | tuple[OneRule, ...] | None = None

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
            first == self.task.length or place.is_code_only(),
            "ladder.lengths",
            self.ladder.lengths,
            f"the training length, {self.task.length}, first",
        )
        for point in self.points:
            named = isinstance(point, dict) and all(isinstance(name, str) for name in point)
            check(named, "points", self.points, 'values by name, such as ({"k_top": 5},)')
        for rule in self.rules:
            rule.check_reachable(self.seeds)
        task = self.task.build()
        for length in {*self.ladder.lengths, *self.ladder.select}:
            task.steps(length)

    @property
    def rules(self) -> tuple[OneRule, ...]:
        """The stopping rules."""
        if self.stop is None:
            return ()
        return self.stop if isinstance(self.stop, tuple) else (self.stop,)

    @property
    def random_trials(self) -> int:
        """The number of the first trials that are drawn at random before others are not."""
        return 0 if self.sampler == "random" else self.startup


def study_to_dict(study: Study) -> dict[str, Any]:
    """Convert a study to JSON values. Without stopping rules, they are those of version 0.1."""
    data = to_dict(study, STUDY_PARTS)
    if study.stop is None:
        del data["stop"]
    return data


def study_from_dict(data: object) -> Study:
    """Build a study from the result of `study_to_dict`.

    Raises ConfigError with the path of a wrong key or value.
    """
    return from_dict(Study, data, STUDY_PARTS, "study")
