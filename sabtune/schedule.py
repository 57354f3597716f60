"""Sparsity schedules: k_top, the number of memories kept a step, over the progress of training.

A schedule ends at the model's own `k_top`, the value it is evaluated with.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from sabtune.schema import Config, check, check_whole


@dataclass(frozen=True, kw_only=True)
class Schedule(Config, ABC):
    """How k_top gets from the start of training to its final value."""

    @abstractmethod
    def k_top(self, progress: float, final: int, dense: int) -> int:
        """k_top in force after the share `progress` (0 to 1) of the updates; `final` at 1.

        dense: the k_top that keeps every memory of a training sequence.
        """


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The final value from the first update on, as in the paper."""

    def k_top(self, progress: float, final: int, dense: int) -> int:
        return final


@dataclass(frozen=True, kw_only=True)
class Moving(Schedule):
    """What the schedules that move have in common.

    start: k_top at first, a number or "all", which is dense attention. warmup: the share of the
    updates that it is held. share: the share of the updates after which the final value is reached.
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
        way = (progress - self.warmup) / (self.share - self.warmup)
        return round(self.between(start, final, min(max(way, 0.0), 1.0)))

    @abstractmethod
    def between(self, start: int, final: int, way: float) -> float:
        """The value after the share `way` (0 to 1) of the way from `start` to `final`."""


@dataclass(frozen=True, kw_only=True)
class Linear(Moving):
    """A straight line."""

    def between(self, start: int, final: int, way: float) -> float:
        return start + (final - start) * way


@dataclass(frozen=True, kw_only=True)
class Cosine(Moving):
    """Half a cosine: slow at both ends."""

    def between(self, start: int, final: int, way: float) -> float:
        return start + (final - start) * (1 - math.cos(math.pi * way)) / 2


@dataclass(frozen=True, kw_only=True)
class Exponential(Moving):
    """By the same factor in the same time: fast at first, slow where few are left."""

    def between(self, start: int, final: int, way: float) -> float:
        return float(start * (final / start) ** way)


@dataclass(frozen=True, kw_only=True)
class Stepwise(Moving):
    """In `steps` jumps of the same size, the last of them onto the final value."""

    steps: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("steps", self.steps, least=1)

    def between(self, start: int, final: int, way: float) -> float:
        return start + (final - start) * math.floor(way * self.steps) / self.steps


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "exponential": Exponential,
    "stepwise": Stepwise,
}
