"""Sequences, what a model should say to them, and how what it said is counted.

Shapes: B batch, T steps, I inputs, S scored steps.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import embedding

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Sequences and what a model should say to them."""

    x: Tensor  # (B, T, I)
    targets: Tensor  # (B, T), the right class at every step, or the right number
    scored: Tensor  # (T,), True where accuracy counts; on the CPU, so that nobody waits to know
    continues: bool = False  # row by row it goes on where the batch before it ended

    def windows(self, steps: int) -> Iterator[Self]:
        """The batch cut along time into stretches of `steps`, the last one shorter."""
        for start in range(0, self.x.shape[1], steps):
            span = slice(start, start + steps)
            yield type(self)(
                x=self.x[:, span],
                targets=self.targets[:, span],
                scored=self.scored[span],
                continues=self.continues or start > 0,
            )

    def at_scored(self, values: Tensor) -> Tensor:
        """Of `values` (B, T, …) those at the scored steps, (B, S, …)."""
        return values.index_select(1, moved(self.scored.nonzero().flatten(), values.device))


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Sums over predictions; `+` joins those of several batches or stretches."""

    loss: float = 0.0  # in the task's unit, summed over `steps`
    steps: int = 0  # at which the loss counts
    correct: int = 0  # of `scored` predictions
    scored: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            loss=self.loss + other.loss,
            steps=self.steps + other.steps,
            correct=self.correct + other.correct,
            scored=self.scored + other.scored,
        )

    @property
    def mean_loss(self) -> float:
        """In the task's unit."""
        return self.loss / self.steps

    @property
    def accuracy(self) -> float:
        """The share of scored predictions that are right."""
        return self.correct / self.scored


@dataclass(frozen=True, kw_only=True, eq=False)
class Count:
    """A tally that is yet to be read, from a GPU that hasn't come to it, maybe."""

    steps: int
    scored: int
    unit: float = 1.0
    loss: Tensor | None = None  # mean over `steps`; None where there are none
    correct: Tensor | None = None

    def tally(self) -> Tally:
        """Waits for the device."""
        if self.loss is None or self.correct is None:
            return Tally()
        return Tally(
            loss=float(self.loss) * self.unit * self.steps,
            steps=self.steps,
            correct=int(self.correct),
            scored=self.scored,
        )


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`; a GPU copies it when it comes to it, and nobody waits."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def one_hot(symbols: Tensor, count: int) -> Tensor:
    """Whole numbers (…) below `count` as float vectors (…, count) with a single 1."""
    return embedding(symbols, _unit_vectors(count, symbols.device))


@functools.lru_cache(maxsize=64)
def _unit_vectors(count: int, device: torch.device) -> Tensor:
    return torch.eye(count, device=device)


@functools.lru_cache(maxsize=64)
def last(count: int, steps: int) -> Tensor:
    """Of `steps` steps the last `count`, (T,); shared: not to be written to."""
    return torch.arange(steps) >= steps - count
