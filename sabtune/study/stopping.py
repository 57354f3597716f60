"""Rules that end a search before its number of trials.

A rule is judged from the leaderboard of a study alone, and so from the record of its trials. A
search that is resumed, or that runs again, comes to the same judgment.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sabtune.schema import Config, PartTable, check, check_whole
from sabtune.study.configurations import Configuration, Leaderboard, Over, Seeds
from sabtune.wording import counted

TOLERANCE = 1e-12
"""The largest rounding error of a probability."""

MAX_SCORE = 1.0
"""The highest score of a trial; see `Task.normalized_score`."""


@dataclass(frozen=True, kw_only=True)
class StoppingRule(Config):
    """The base of the rules that end a search."""

    label: ClassVar[str]
    """The name of the rule in a list of studies."""

    @property
    @abstractmethod
    def words(self) -> str:
        """The condition in words, as in "ends early by WORDS"."""

    def check_reachable(self, seeds: Seeds) -> None:
        """Raise ConfigError if no configuration with so few seeds can fulfill the rule."""

    @abstractmethod
    def reason(self, leaderboard: Leaderboard, startup: int) -> str:
        """Return in words how the study fulfills the rule; "" if it doesn't.

        startup: the number of the study's first trials that are drawn at random.
        """


@dataclass(frozen=True, kw_only=True)
class NoImprovement(StoppingRule):
    """End a search if the last configurations were no better than the best one before them.

    The rule counts the configurations that have ended since the best one did. Several seeds of a
    configuration count once, when the first `Seeds.first` of them have ended. Pruned configurations
    count. Not counted are configurations whose seeds all failed, parameters that the space
    rejected, and the first `Study.startup` trials, which are drawn at random. With several
    objectives, a configuration is an improvement if it joins the Pareto front.

    Args:
        configurations: The number of configurations without an improvement, at least 1.

    Raises:
        ConfigError: The field is missing, out of range or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> sab.NoImprovement(configurations=20).words
        'no better configuration within 20 configurations'
    """

    label: ClassVar[str] = "no improvement"

    configurations: int

    def __post_init__(self) -> None:
        check_whole("configurations", self.configurations, least=1)

    @property
    def words(self) -> str:
        return f"no better configuration within {counted(self.configurations, 'configuration')}"

    def reason(self, leaderboard: Leaderboard, startup: int) -> str:
        latest = leaderboard.latest_improvement()
        if latest is None or leaderboard.ended_after(latest, startup) < self.configurations:
            return ""
        if leaderboard.has_front:
            return f"{self.words} (the last on the Pareto front is #{latest.number})"
        return f"{self.words} (best #{latest.number}, {_value(latest, leaderboard.seeds)})"


@dataclass(frozen=True, kw_only=True)
class Target(StoppingRule):
    """End a search once a configuration reaches a score with enough of its seeds.

    The rule holds for a configuration if, with the given confidence, the probability that a seed of
    it reaches the score is at least `share`: the lower bound of the exact one-sided interval of
    Clopper and Pearson (Biometrika 26, 1934) is at least `share`. Only complete trials that violate
    no constraint can reach the score. Pruned and failed trials count as seeds that don't.

    The confidence is that of one configuration. A search that tries many configurations finds one
    that reaches the score by chance more often; `confirm` measures it on fresh seeds.

    Args:
        score: The score to reach, at most 1.
        share: The least probability that a seed reaches the score, between 0 and 1.
        confidence: The confidence, between 0 and 1. With a share of 0.5, it takes 5 seeds that all
            reach the score for a confidence of 0.95, and one for a confidence of 0.5.

    Raises:
        ConfigError: A field is missing, unknown, out of range or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> sab.Target(score=0.9, share=0.5, confidence=0.95).least_seeds
        5
    """

    label: ClassVar[str] = "target reached"

    score: float
    share: float = 0.5
    confidence: float = 0.95

    def __post_init__(self) -> None:
        check(self.score <= MAX_SCORE, "score", self.score, f"a score of at most {MAX_SCORE:g}")
        for name in ("share", "confidence"):
            number = getattr(self, name)
            check(0 < number < 1, name, number, "a number between 0 and 1")

    @property
    def words(self) -> str:
        return (
            f"a score of {self.score:g} with at least {_percent(self.share)} of the seeds of one "
            f"configuration, at {_percent(self.confidence)} confidence"
        )

    @property
    def least_seeds(self) -> int:
        """The least number of seeds that fulfill the rule, if all of them reach the score."""
        seeds = math.log1p(-self.confidence) / math.log(self.share)
        return max(1, math.ceil(seeds - TOLERANCE))

    def check_reachable(self, seeds: Seeds) -> None:
        _check_seeds(self, self.least_seeds, seeds, "a lower share or confidence")

    def reason(self, leaderboard: Leaderboard, startup: int) -> str:
        for configuration in leaderboard.configurations.values():
            seeds = len(configuration.scores)
            if seeds < self.least_seeds:
                continue
            reached = sum(trial.score >= self.score for trial in configuration.complete)
            if self._is_sure(reached, seeds):
                return f"{self.words} (#{configuration.number}, {reached} of {_seeds(seeds)})"
        return ""

    def _is_sure(self, reached: int, seeds: int) -> bool:
        """Return whether the exact lower bound of the share is at least `share`.

        It is if so many seeds or more would reach the score with at most the probability
        1 - confidence, if the true share were `share`.
        """
        p = self.share
        tail = math.fsum(
            math.comb(seeds, k) * p**k * (1 - p) ** (seeds - k) for k in range(reached, seeds + 1)
        )
        return tail <= 1 - self.confidence + TOLERANCE


@dataclass(frozen=True, kw_only=True)
class Solved(StoppingRule):
    """End a search once enough seeds of one configuration solve every selection length.

    Only complete trials that violate no constraint count.

    Args:
        seeds: The number of seeds of one configuration, at least 1.

    Raises:
        ConfigError: The field is missing, out of range or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> sab.Solved(seeds=3).words
        '3 solved seeds of one configuration'
    """

    label: ClassVar[str] = "solved"

    seeds: int

    def __post_init__(self) -> None:
        check_whole("seeds", self.seeds, least=1)

    @property
    def words(self) -> str:
        return f"{counted(self.seeds, 'solved seed')} of one configuration"

    def check_reachable(self, seeds: Seeds) -> None:
        _check_seeds(self, self.seeds, seeds, "fewer seeds")

    def reason(self, leaderboard: Leaderboard, startup: int) -> str:
        for configuration in leaderboard.configurations.values():
            if configuration.solving >= self.seeds:
                solving = f"{configuration.solving} of {_seeds(len(configuration.scores))}"
                return f"{self.words} (#{configuration.number}, {solving})"
        return ""


RULES = PartTable({"no_improvement": NoImprovement, "target": Target, "solved": Solved})
"""The stopping rules, by the names under which studies store them."""

OneRule = NoImprovement | Target | Solved


class Stopping:
    """The judgment whether the stopping rules of a study end its search.

    rules: the rules; the search ends if any of them is fulfilled. startup: the number of the
    study's first trials that are drawn at random. leaderboard: that of the study, which changes
    while trials end.
    """

    def __init__(self, rules: Sequence[StoppingRule], startup: int, leaderboard: Leaderboard):
        self.rules, self.startup, self.leaderboard = rules, startup, leaderboard
        self._judged, self._fulfilled = -1, ("", "")

    @property
    def fulfilled(self) -> tuple[str, str]:
        """The label of the first fulfilled rule and how it is fulfilled; "" and "" if none is."""
        if self.rules and self._judged != self.leaderboard.ended:
            self._judged, self._fulfilled = self.leaderboard.ended, self._judge()
        return self._fulfilled

    @property
    def reason(self) -> str:
        """How the study fulfills a rule, in words; "" if it fulfills none."""
        return self.fulfilled[1]

    def _judge(self) -> tuple[str, str]:
        for rule in self.rules:
            reason = rule.reason(self.leaderboard, self.startup)
            if reason:
                return rule.label, reason
        return "", ""


def _check_seeds(rule: StoppingRule, needed: int, seeds: Seeds, other: str) -> None:
    check(
        needed <= seeds.most,
        "stop",
        rule,
        f"seeds=Seeds(most={needed}) too, because the rule needs {_seeds(needed)} of one "
        f"configuration and the study has at most {seeds.most}; or {other}",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.6g}%"


def _seeds(count: int) -> str:
    return counted(count, "seed")


VALUES: dict[Over, str] = {"mean": "mean score", "median": "median score", "solve": "P(solve)"}
"""The values by which configurations are compared, in words."""


def _value(configuration: Configuration, seeds: Seeds) -> str:
    """Return the value by which a configuration is ranked, in words."""
    count, value = len(configuration.scores), configuration.value(seeds.objective)
    if count == 1 and seeds.objective != "solve":
        return f"score {value:.3f}"
    return f"{VALUES[seeds.objective]} {value:.3f} over {_seeds(count)}"
