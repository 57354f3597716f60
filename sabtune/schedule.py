"""Sparsity schedules: k_top, the number of memories kept a step, over the progress of training.

A schedule ends at the model's own `k_top`, the value it is evaluated with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from sabtune.schema import Config, check, check_whole


@dataclass(frozen=True, kw_only=True)
class Schedule(Config, ABC):
    """How k_top gets from the start of training to its final value."""

    @abstractmethod
    def k_top(self, progress: float, final: int) -> int:
        """k_top in force after the share `progress` (0 to 1) of the updates; `final` at 1."""


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The final value from the first update on, as in the paper."""

    def k_top(self, progress: float, final: int) -> int:
        return final


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """From `start` to the final value in a straight line over the first `share` of training."""

    start: int
    share: float = 0.5

    def __post_init__(self) -> None:
        check_whole("start", self.start, least=1)
        check(0 < self.share <= 1, "share", self.share, "a share of training, above 0 and up to 1")

    def k_top(self, progress: float, final: int) -> int:
        travelled = min(progress / self.share, 1.0)
        return round(self.start + (final - self.start) * travelled)


SCHEDULES: dict[str, type[Schedule]] = {"constant": Constant, "linear": Linear}
