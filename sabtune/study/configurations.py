"""Configurations and their seeds: what they are compared by, and which gets another seed.

Outcomes of one configuration differ by its seed as much as configurations do among each other, so
a configuration is judged over several; the promising get more. This is successive halving over
seeds in place of updates (Li et al., MLSys 2020, arXiv 1810.05934).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import optuna
from optuna.trial import TrialState

from sabtune.schema import Config, check, check_name, check_whole
from sabtune.study import record
from sabtune.study.record import ENDED, TrialRecord

Over = Literal["mean", "median", "solve"]


@dataclass(frozen=True, kw_only=True)
class Seeds(Config):
    """How many seeds a configuration gets; each is a trial.

    Every configuration gets `first`. Then the promising ones race: one that has n seeds behind it
    gets the next if it is among the best 1/reduction of all that have n or more, until it has
    `most`. objective: what configurations are compared by, over their seeds: the mean or the
    median of their scores, or P(solve), the share that solve every select length.
    """

    first: int = 1
    most: int = 1
    reduction: float = 3
    objective: Over = "mean"

    def __post_init__(self) -> None:
        check_whole("first", self.first, least=1)
        check_whole("most", self.most, least=self.first)
        check(self.reduction > 1, "reduction", self.reduction, "a factor above 1")
        check_name("objective", self.objective, get_args(Over))


@dataclass(kw_only=True)
class Configuration:
    """A configuration by the number of its first trial; its seeds in the order they ended."""

    number: int
    started: int = 0
    scores: list[float] = field(default_factory=list)
    solved: list[bool] = field(default_factory=list)
    complete: list[TrialRecord] = field(default_factory=list)  # and feasible
    infeasible: int = 0  # complete ones that break a constraint

    @property
    def able(self) -> bool:
        """Whether it may yet be the best: not every complete trial of it breaks a constraint."""
        return bool(self.complete) or not self.infeasible

    def value(self, over: Over, seeds: int | None = None) -> float:
        """What it is compared by, over its first `seeds`, or all of them."""
        scores, solved = self.scores[:seeds], self.solved[:seeds]
        match over:
            case "mean":
                return statistics.fmean(scores)
            case "median":
                return statistics.median(scores)
            case "solve":
                return sum(solved) / len(solved)

    @property
    def best(self) -> TrialRecord:
        """Of its complete trials the one with the highest score, the earliest of equals."""
        return max(self.complete, key=lambda trial: trial.score)


@dataclass
class Leaderboard:
    """The configurations of a study and who is to get the next seed."""

    seeds: Seeds
    configurations: dict[int, Configuration] = field(default_factory=dict)

    def start(self, configuration: int) -> None:
        """One more seed of it has begun."""
        found = self.configurations.setdefault(configuration, Configuration(number=configuration))
        found.started += 1

    def end(self, trial: TrialRecord) -> None:
        """One has ended: a failed one with a score of 0, a pruned one with its last.

        One that breaks a constraint counts, and is never the best.
        """
        configuration = self.configurations[trial.configuration]
        configuration.scores.append(trial.score)
        configuration.solved.append(trial.solved)
        if trial.state == TrialState.COMPLETE and trial.feasible:
            configuration.complete.append(trial)
        elif trial.state == TrialState.COMPLETE:
            configuration.infeasible += 1

    @classmethod
    def of(cls, study: optuna.Study) -> Self:
        """How the configurations of a study stand."""
        return cls.of_trials(study, record.records(study))

    @classmethod
    def of_trials(cls, study: optuna.Study, trials: Iterable[TrialRecord]) -> Self:
        """The same for who has read the study's trials already."""
        with record.plan_of(study) as plan:
            seeds = Seeds(**plan.get("seeds", {}))
        return cls(seeds).add(trials)

    def add(self, trials: Iterable[TrialRecord]) -> Self:
        """The trials of an earlier search, or of a finished one.

        One that ended before the space gave it a run is no configuration, and one that was run
        again doesn't count.
        """
        for trial in record.counted(trials):
            if trial.run is None:
                continue
            self.start(trial.configuration)
            if trial.state in ENDED:
                self.end(trial)
        return self

    def next(self) -> int | None:
        """The configuration that gets another seed now; None if it is time for a new one.

        One whose complete trials all break a constraint gets none, and is behind all others.
        """
        for configuration in self.configurations.values():
            if configuration.able and configuration.started < self.seeds.first:
                return configuration.number
        for count in range(self.seeds.most - 1, self.seeds.first - 1, -1):
            field_ = [c for c in self.configurations.values() if len(c.scores) >= count]
            able = [c for c in field_ if c.able]
            leaders = self._ranked(able, count)[: int(len(field_) / self.seeds.reduction)]
            for configuration in leaders:
                if configuration.started == count and configuration.value("mean", count) > 0:
                    return configuration.number
        return None

    def ranked(self) -> list[Configuration]:
        """Those with a complete trial, best first.

        A few seeds may have been lucky, so each is drawn towards the mean of all configurations,
        as if that were the outcome of one seed more (a shrinkage estimate with one prior seed).
        """
        over = self.seeds.objective
        tried = [c for c in self.configurations.values() if c.scores]
        prior = statistics.fmean(c.value(over) for c in tried) if tried else 0.0

        def shrunk_mean(c: Configuration) -> float:
            return (len(c.scores) * c.value(over) + prior) / (len(c.scores) + 1)

        complete = [c for c in tried if c.complete]
        return sorted(self._ranked(complete), key=shrunk_mean, reverse=True)

    @property
    def best(self) -> TrialRecord | None:
        """The best trial of the best configuration."""
        ranked = self.ranked()
        return ranked[0].best if ranked else None

    def _ranked(
        self, configurations: Sequence[Configuration], seeds: int | None = None
    ) -> list[Configuration]:
        over = self.seeds.objective

        def key(c: Configuration) -> tuple[float, float, int]:
            return -c.value(over, seeds), -c.value("mean", seeds), c.number

        return sorted(configurations, key=key)


def best_trial(study: optuna.Study) -> TrialRecord | None:
    """The best trial of the best configuration."""
    return Leaderboard.of(study).best
