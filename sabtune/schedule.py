"""Sparsity schedules: how k_top changes during training.

k_top is the number of memories that a step attends to. A schedule ends at the model's own
`k_top`, which evaluation uses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from sabtune.schema import Config, check, check_whole


@dataclass(frozen=True, kw_only=True)
class Schedule(Config, ABC):
    """How k_top changes from the start of training to its final value."""

    @abstractmethod
    def k_top(self, progress: float, final: int, dense: int) -> int:
        """Return k_top at a point of training.

        progress: the share of the updates that are done, from 0 to 1. final: the value of k_top at
        `progress` 1. dense: the k_top that selects every memory of a training sequence.
        """


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The final value at every update, as in Ke et al. (2018)."""

    def k_top(self, progress: float, final: int, dense: int) -> int:
        return final


@dataclass(frozen=True, kw_only=True)
class Moving(Schedule):
    """The base class of the schedules that change k_top.

    start: the initial k_top, a number or "all", which is dense attention. warmup: the share of the
    updates for which k_top stays at `start`. share: the share of the updates after which k_top has
    its final value.
    """

    start: int | Literal["all"] = "all"
    warmup: float = 0.0
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.start != "all":
            check_whole("start", self.start, least=1)
        check(0 < self.share <= 1, "share", self.share, "a share of training, above 0 and up to 1")
        check(
            0 <= self.warmup < self.share,
            "warmup",
            self.warmup,
            f"a share of training, from 0 to less than `share`, {self.share:g}",
        )

    def k_top(self, progress: float, final: int, dense: int) -> int:
        start = dense if self.start == "all" else self.start
        fraction = (progress - self.warmup) / (self.share - self.warmup)
        return round(self.between(start, final, min(max(fraction, 0.0), 1.0)))

    @abstractmethod
    def between(self, start: int, final: int, fraction: float) -> float:
        """Interpolate from `start` at fraction 0 to `final` at fraction 1."""


@dataclass(frozen=True, kw_only=True)
class Linear(Moving):
    """Linear interpolation."""

    def between(self, start: int, final: int, fraction: float) -> float:
        return start + (final - start) * fraction


@dataclass(frozen=True, kw_only=True)
class Cosine(Moving):
    """Half a cosine, which is slow at both ends."""

    def between(self, start: int, final: int, fraction: float) -> float:
        return start + (final - start) * (1 - math.cos(math.pi * fraction)) / 2


@dataclass(frozen=True, kw_only=True)
class Exponential(Moving):
    """A change by a constant factor per update. It is fast for a large k_top."""

    def between(self, start: int, final: int, fraction: float) -> float:
        return float(start * (final / start) ** fraction)


@dataclass(frozen=True, kw_only=True)
class Stepwise(Moving):
    """`steps` equal jumps, the last of which reaches the final value."""

    steps: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("steps", self.steps, least=1)

    def between(self, start: int, final: int, fraction: float) -> float:
        return start + (final - start) * math.floor(fraction * self.steps) / self.steps


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "exponential": Exponential,
    "stepwise": Stepwise,
}
