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
    """How k_top changes from the start of training to its final value.

    A schedule of your own is a frozen dataclass that defines `k_top`. Its fields, if it has any,
    are its settings.

    Raises:
        ConfigError: A field is unknown, out of range or of the wrong type.

    Example:
        >>> from dataclasses import dataclass
        >>> import sabtune as sab
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Halfway(sab.Schedule):
        ...     def k_top(self, progress, final, dense):
        ...         return dense if progress < 0.5 else final
        >>> [Halfway().k_top(progress, final=5, dense=21) for progress in (0, 0.4, 0.5, 1)]
        [21, 21, 5, 5]
    """

    @abstractmethod
    def k_top(self, progress: float, final: int, dense: int) -> int:
        """Return k_top at a point of training.

        Args:
            progress: The share of the updates that are done, from 0 to 1.
            final: The value of k_top at `progress` 1. It may be larger than `dense`.
            dense: The k_top that selects every memory of a training sequence.
        """


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """A schedule with the final k_top at every update, as in Ke et al. (2018).

    It has no fields.

    Raises:
        ConfigError: A field is given.

    Example:
        >>> import sabtune as sab
        >>> sab.Constant().k_top(0.0, final=5, dense=21)
        5
    """

    def k_top(self, progress: float, final: int, dense: int) -> int:
        return final


@dataclass(frozen=True, kw_only=True)
class Moving(Schedule):
    """The base class of the schedules that change k_top.

    Args:
        start: The initial k_top, at least 1, or "all", which is dense attention.
        warmup: The share of the updates for which k_top keeps its initial value, at least 0 and
            less than the value of share.
        share: The share of the updates after which k_top has its final value, above 0 and up to 1.

    Raises:
        ConfigError: A field is unknown, out of range or of the wrong type.
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
        """Interpolate from the start at fraction 0 to the final value at fraction 1."""


@dataclass(frozen=True, kw_only=True)
class Linear(Moving):
    """A schedule that changes k_top linearly.

    Args:
        start: The initial k_top, at least 1, or "all", which is dense attention.
        warmup: The share of the updates for which k_top keeps its initial value, at least 0 and
            less than the value of share.
        share: The share of the updates after which k_top has its final value, above 0 and up to 1.

    Raises:
        ConfigError: A field is unknown, out of range or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> sab.Linear(start="all", share=0.5).k_top(0.25, final=5, dense=21)
        13
    """

    def between(self, start: int, final: int, fraction: float) -> float:
        return start + (final - start) * fraction


@dataclass(frozen=True, kw_only=True)
class Cosine(Moving):
    """A schedule that changes k_top along half a cosine, which is slow at both ends.

    Args:
        start: The initial k_top, at least 1, or "all", which is dense attention.
        warmup: The share of the updates for which k_top keeps its initial value, at least 0 and
            less than the value of share.
        share: The share of the updates after which k_top has its final value, above 0 and up to 1.

    Raises:
        ConfigError: A field is unknown, out of range or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> cosine = sab.Cosine(start="all", share=0.5)
        >>> [cosine.k_top(p, final=5, dense=21) for p in (0, 0.125, 0.25, 0.5)]
        [21, 19, 13, 5]
    """

    def between(self, start: int, final: int, fraction: float) -> float:
        return start + (final - start) * (1 - math.cos(math.pi * fraction)) / 2


@dataclass(frozen=True, kw_only=True)
class Exponential(Moving):
    """A schedule that changes k_top by a constant factor per update.

    It is fast for a large k_top.

    Args:
        start: The initial k_top, at least 1, or "all", which is dense attention.
        warmup: The share of the updates for which k_top keeps its initial value, at least 0 and
            less than the value of share.
        share: The share of the updates after which k_top has its final value, above 0 and up to 1.

    Raises:
        ConfigError: A field is unknown, out of range or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> exponential = sab.Exponential(start=128, share=0.5)
        >>> [exponential.k_top(p, final=2, dense=200) for p in (0, 0.125, 0.25, 0.5)]
        [128, 45, 16, 2]
    """

    def between(self, start: int, final: int, fraction: float) -> float:
        return float(start * (final / start) ** fraction)


@dataclass(frozen=True, kw_only=True)
class Stepwise(Moving):
    """A schedule that changes k_top in `steps` equal jumps, the last one to the final value.

    Args:
        start: The initial k_top, at least 1, or "all", which is dense attention.
        warmup: The share of the updates for which k_top keeps its initial value, at least 0 and
            less than the value of share.
        share: The share of the updates after which k_top has its final value, above 0 and up to 1.
        steps: The number of jumps, at least 1.

    Raises:
        ConfigError: A field is unknown, out of range or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> stepwise = sab.Stepwise(start=21, share=0.5, steps=2)
        >>> [stepwise.k_top(p, final=5, dense=99) for p in (0, 0.2, 0.3, 0.5)]
        [21, 21, 13, 5]
    """

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
