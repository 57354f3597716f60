"""Rank configurations over their seeds, and choose which configuration gets another seed.

The scores of one configuration vary between seeds as much as the scores of different
configurations do. A study therefore judges a configuration over several seeds, and gives promising
configurations more seeds than others. This method is successive halving over seeds instead of
updates (Li et al., MLSys 2020, arXiv 1810.05934).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Self, get_args

from optuna.trial import TrialState

from sabtune.schema import Config, check, check_name, check_whole
from sabtune.study.states import ENDED
from sabtune.study.trial_record import TrialRecord, counted

Over = Literal["mean", "median", "solve"]


@dataclass(frozen=True, kw_only=True)
class Seeds(Config):
    """The number of seeds of a configuration. Each seed is a trial.

    Every configuration gets `first` seeds. A configuration with n ended seeds then gets another
    one, up to `most` seeds, if it is among the best 1/reduction of all configurations with at least
    n ended seeds, and if its mean score is above 0. A configuration whose complete trials all
    violate a constraint gets no further seeds. This is successive halving over seeds instead of
    updates (Li et al., MLSys 2020, arXiv 1810.05934).

    Args:
        first: The number of seeds that every configuration gets, at least 1.
        most: The largest number of seeds of a configuration, at least `first`.
        reduction: The best 1/reduction of the configurations get another seed; above 1.
        objective: The value by which configurations are compared. "mean" and "median" are those of
            the scores of the seeds. "solve" is P(solve), the fraction of seeds that solve every
            selection length.

    Raises:
        ConfigError: A field is unknown, out of range or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> sab.Seeds(first=2, most=5, objective="solve")  # at most 5 seeds each
        Seeds(first=2, most=5, reduction=3, objective='solve')
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
    """A configuration, with the results of its seeds in the order in which they ended."""

    number: int  # the number of the configuration's first trial
    started: int = 0  # the number of seeds that have started
    scores: list[float] = field(default_factory=list)
    solved: list[bool] = field(default_factory=list)
    complete: list[TrialRecord] = field(default_factory=list)  # complete and feasible trials
    infeasible: int = 0  # the number of complete trials that violate a constraint
    failed: int = 0  # the number of failed trials
    solving: int = 0  # the number of complete, feasible trials that solve every selection length
    times: list[datetime] = field(default_factory=list)  # when each seed ended
    _values: dict[tuple[Over, int], float] = field(default_factory=dict, repr=False, compare=False)

    @property
    def able(self) -> bool:
        """Return whether the configuration can still be the best.

        It can't if it has complete trials and all of them are infeasible.
        """
        return bool(self.complete) or not self.infeasible

    def ended(self, first: int) -> datetime | None:
        """Return when the first `first` seeds had ended; None if they haven't.

        A configuration that can't be the best gets no further seeds, and has ended with its last
        one.
        """
        if len(self.times) >= first:
            return min(self.times) if first == 1 else sorted(self.times)[first - 1]
        is_over = not self.able and self.started == len(self.times)
        return max(self.times) if is_over else None

    def value(self, over: Over, seeds: int | None = None) -> float:
        """Return the mean, median or P(solve) over the first `seeds` seeds, or over all of them."""
        key = (over, len(self.scores) if seeds is None else seeds)
        if key not in self._values:
            self._values[key] = self._value(over, seeds)
        return self._values[key]

    def _value(self, over: Over, seeds: int | None) -> float:
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
        """Return the complete, feasible trial with the highest score; the first of equal ones."""
        return max(self.complete, key=lambda trial: trial.score)


@dataclass
class Leaderboard:
    """The ranking of a study's configurations, which decides which one gets another seed."""

    seeds: Seeds
    configurations: dict[int, Configuration] = field(default_factory=dict)
    ended: int = 0  # the number of trials that have ended
    front: list[TrialRecord] = field(default_factory=list)  # only with several objectives

    def start(self, configuration: int) -> None:
        """Record that a seed of a configuration has started."""
        entry = self.configurations.setdefault(configuration, Configuration(number=configuration))
        entry.started += 1

    def end(self, trial: TrialRecord) -> None:
        """Record that a trial has ended.

        A failed trial counts with a score of 0, a pruned trial with its last score. A complete
        trial that violates a constraint counts too, but is never the best.
        """
        configuration, solved = self.configurations[trial.configuration], trial.solved
        self.ended += 1
        configuration.scores.append(trial.score)
        configuration.solved.append(solved)
        configuration.times.append(trial.ended or datetime.min)
        configuration.failed += trial.state == TrialState.FAIL
        if trial.state == TrialState.COMPLETE and trial.feasible:
            configuration.complete.append(trial)
            configuration.solving += solved
            self._join_front(trial)
        elif trial.state == TrialState.COMPLETE:
            configuration.infeasible += 1

    def _join_front(self, trial: TrialRecord) -> None:
        """Add a complete trial to the Pareto front, unless another one is at least as good."""
        if len(trial.values) > 1 and not any(_as_good(other, trial) for other in self.front):
            self.front = [other for other in self.front if not _as_good(trial, other)] + [trial]

    def add(self, trials: Iterable[TrialRecord]) -> Self:
        """Add the trials of an earlier search, and return the leaderboard itself.

        It ignores trials that were run again, and trials that ended before the space gave them a
        configuration.
        """
        for trial in counted(trials):
            if trial.run is None:
                continue
            self.start(trial.configuration)
            if trial.state in ENDED:
                self.end(trial)
        return self

    def next(self) -> int | None:
        """Return the number of the configuration that gets another seed; None if a new one is due.

        A configuration whose complete trials all violate a constraint gets no further seeds.
        """
        for configuration in self.configurations.values():
            if configuration.able and configuration.started < self.seeds.first:
                return configuration.number
        for count in range(self.seeds.most - 1, self.seeds.first - 1, -1):
            compared = [c for c in self.configurations.values() if len(c.scores) >= count]
            able = [c for c in compared if c.able]
            leaders = self._sorted(able, count)[: int(len(compared) / self.seeds.reduction)]
            for configuration in leaders:
                if configuration.started == count and configuration.value("mean", count) > 0:
                    return configuration.number
        return None

    def ranked(self) -> list[Configuration]:
        """Return the configurations with a complete, feasible trial, best first.

        The value of a configuration with few seeds may be high by chance. Therefore each value is
        shrunk toward the mean of all configurations, which weighs as much as one seed.
        """
        over = self.seeds.objective
        scored = [c for c in self.configurations.values() if c.scores]
        prior = statistics.fmean(c.value(over) for c in scored) if scored else 0.0

        def shrunk_mean(c: Configuration) -> float:
            return (len(c.scores) * c.value(over) + prior) / (len(c.scores) + 1)

        complete = [c for c in scored if c.complete]
        return sorted(self._sorted(complete), key=shrunk_mean, reverse=True)

    @property
    def best(self) -> TrialRecord | None:
        """Return the best trial of the best configuration; None if no trial qualifies."""
        ranked = self.ranked()
        return ranked[0].best if ranked else None

    @property
    def has_front(self) -> bool:
        """Return whether the study has several objectives and a complete, feasible trial."""
        return bool(self.front)

    def latest_improvement(self) -> Configuration | None:
        """Return the configuration that was the latest improvement; None if no trial qualifies.

        It is the best configuration. With several objectives, it is the one of the Pareto front
        that ended last.
        """
        if not self.has_front:
            ranked = self.ranked()
            return ranked[0] if ranked else None
        numbers = {trial.configuration for trial in self.front}
        return max((self.configurations[number] for number in numbers), key=self._when)

    def ended_after(self, configuration: Configuration, startup: int) -> int:
        """Return the number of configurations that have ended after another one.

        Configurations whose seeds all failed don't count, nor those of the first `startup` trials.
        """
        time = self._when(configuration)
        return sum(
            c.number >= startup and c.failed < len(c.scores) and time < self._when(c) < NEVER
            for c in self.configurations.values()
        )

    def _when(self, configuration: Configuration) -> tuple[datetime, int]:
        """Return when a configuration ended, and its number; NEVER or later if it hasn't."""
        ended = configuration.ended(self.seeds.first)
        return (datetime.max if ended is None else ended), configuration.number

    def _sorted(
        self, configurations: Sequence[Configuration], seeds: int | None = None
    ) -> list[Configuration]:
        """Sort configurations by the values of their first `seeds` seeds, best first."""
        over = self.seeds.objective

        def key(c: Configuration) -> tuple[float, float, int]:
            return -c.value(over, seeds), -c.value("mean", seeds), c.number

        return sorted(configurations, key=key)


NEVER = (datetime.max, -1)
"""The time at which a configuration ends that hasn't ended yet."""


def _as_good(trial: TrialRecord, other: TrialRecord) -> bool:
    """Return whether a trial is at least as good as another one in every objective.

    The first objective, the score, is maximized, and the others are minimized.
    """
    score, *costs = trial.values
    other_score, *other_costs = other.values
    return score >= other_score and all(a <= b for a, b in zip(costs, other_costs, strict=True))
