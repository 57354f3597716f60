"""Batches of sequences with their targets, and the counts that measure a model on them.

Shapes: B batch, T steps, I inputs, S scored steps, N answers of a batch.
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
    """Sequences and their targets.

    Args:
        x: (B, T, I), the inputs.
        targets: (B, T), the correct class at every step (int64), or the correct number.
        scored: Whether accuracy counts a step: (T,), or (B, T) if the sequences differ in it. It is
            on the CPU.
        continues: Whether each row continues the same row of the previous batch.

    Example:
        >>> import torch, sabtune as sab
        >>> x = torch.randn(8, 20, 1)  # 8 sequences of 20 steps
        >>> targets = (x.sum(dim=1) > 0).long().expand(8, 20)  # one class for each sequence
        >>> batch = sab.Batch(x=x, targets=targets, scored=torch.arange(20) == 19)
        >>> batch.at_scored(batch.targets).shape  # the answer after the last step
        torch.Size([8, 1])
    """

    x: Tensor  # (B, T, I)
    targets: Tensor  # (B, T), the correct class at every step, or the correct number
    scored: Tensor  # (T,) or (B, T), whether accuracy counts a step; on the CPU: no read waits
    continues: bool = False  # whether each row continues that row of the previous batch

    def windows(self, steps: int) -> Iterator[Self]:
        """Yield the batch in consecutive windows of `steps` steps; the last may be shorter."""
        for start in range(0, self.x.shape[1], steps):
            span = slice(start, start + steps)
            yield type(self)(
                x=self.x[:, span],
                targets=self.targets[:, span],
                scored=self.scored[..., span],
                continues=self.continues or start > 0,
            )

    def at_scored(self, values: Tensor) -> Tensor:
        """Return the entries of `values` (B, T, …) at the scored steps: (B, S, …).

        If the sequences differ in their scored steps, the result is (1, N, …), with the entries of
        all sequences in one row.
        """
        index = moved(self.scored.flatten().nonzero().flatten(), values.device)
        if self.scored.dim() == 2:
            return values.flatten(0, 1).index_select(0, index).unsqueeze(0)
        return values.index_select(1, index)

    @property
    def scored_by_row(self) -> Tensor:
        """Whether accuracy counts a step of each sequence: (B, T), on the CPU."""
        return self.scored.expand(self.targets.shape)

    @property
    def answers(self) -> int:
        """The number of scored steps of all sequences."""
        each = int(self.scored.sum())
        return each if self.scored.dim() == 2 else each * len(self.targets)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Sums over predictions. Use `+` to combine several batches or windows."""

    loss: float = 0.0  # in the task's loss unit, summed over `steps`
    steps: int = 0  # number of steps that the loss covers
    correct: int = 0  # number of correct predictions among the scored ones
    scored: int = 0  # number of scored predictions

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            loss=self.loss + other.loss,
            steps=self.steps + other.steps,
            correct=self.correct + other.correct,
            scored=self.scored + other.scored,
        )

    @property
    def mean_loss(self) -> float:
        """The mean loss in the task's loss unit."""
        return self.loss / self.steps

    @property
    def accuracy(self) -> float:
        """The share of scored predictions that are correct."""
        return self.correct / self.scored


@dataclass(frozen=True, kw_only=True, eq=False)
class Count:
    """A tally that a GPU may still be computing."""

    steps: int
    scored: int
    unit: float = 1.0
    loss: Tensor | None = None  # mean over `steps`; None if there are none
    correct: Tensor | None = None

    def tally(self) -> Tally:
        """Wait for the device and return the tally."""
        if self.loss is None or self.correct is None:
            return Tally()
        return Tally(
            loss=float(self.loss) * self.unit * self.steps,
            steps=self.steps,
            correct=int(self.correct),
            scored=self.scored,
        )


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device`; a copy to a GPU is asynchronous."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def one_hot(symbols: Tensor, count: int) -> Tensor:
    """Return integers (…) below `count` as one-hot float vectors (…, count)."""
    return embedding(symbols, _unit_vectors(count, symbols.device))


@functools.lru_cache(maxsize=64)
def _unit_vectors(count: int, device: torch.device) -> Tensor:
    return torch.eye(count, device=device)


@functools.lru_cache(maxsize=64)
def last(count: int, steps: int) -> Tensor:
    """Return a mask (T,) of the last `count` of T = `steps` steps.

    Calls share the tensor, so do not write to it.
    """
    return torch.arange(steps) >= steps - count


def distinct(size: int, count: int, below: int, generator: torch.Generator) -> Tensor:
    """Draw `count` different integers below `below` for each sequence, in random order.

    Returns:
        The integers (size, count).
    """
    if count**2 > below:
        return torch.rand((size, below), generator=generator).topk(count).indices
    drawn = torch.randint(below, (size, count), generator=generator)
    while True:  # at most two in five rows have equal integers, and are drawn again
        in_order = drawn.sort(dim=1).values
        repeated = (in_order[:, 1:] == in_order[:, :-1]).any(dim=1).nonzero().flatten()
        if not len(repeated):
            return drawn
        drawn[repeated] = torch.randint(below, (len(repeated), count), generator=generator)


def classification(steps: Tensor, classes: Tensor, length: int) -> Batch:
    """Return sequences (B, T', I) of classes (B,) that are asked for after `length` steps.

    Zeros follow the sequences. The targets before the last step are 0, and don't count.
    """
    size, shown, inputs = steps.shape
    x = torch.zeros(size, length, inputs, device=steps.device)
    x[:, :shown] = steps
    targets = torch.zeros(size, length, dtype=torch.long, device=steps.device)
    targets[:, -1] = classes
    return Batch(x=x, targets=targets, scored=last(1, length))
