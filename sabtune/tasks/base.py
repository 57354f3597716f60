"""What a task is: sequences of any length, drawn from a generator, and how they are judged.

Shapes: B batch, T steps, I inputs, O outputs (classes).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sabtune.schema import Config


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Config, ABC):
    """Each task's own values; `length` is the one that training uses and a ladder starts from."""

    length: int

    @abstractmethod
    def build(self) -> Task:
        """The task that this describes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Sequences and what a model should say to them."""

    x: Tensor  # (B, T, I)
    targets: Tensor  # (B, T), the right class at every step
    scored: Tensor  # (T,), True where accuracy counts; the loss counts every step

    def to(self, device: torch.device) -> Self:
        """The batch on another device."""
        return type(self)(
            x=self.x.to(device), targets=self.targets.to(device), scored=self.scored.to(device)
        )

    def windows(self, steps: int) -> Iterator[Self]:
        """The batch cut along time into stretches of `steps`, the last one shorter."""
        for start in range(0, self.x.shape[1], steps):
            span = slice(start, start + steps)
            yield type(self)(
                x=self.x[:, span], targets=self.targets[:, span], scored=self.scored[span]
            )


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Sums over predictions; `+` joins those of several batches or stretches."""

    loss: float = 0.0  # nats, summed over `steps`
    steps: int = 0
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
        """Nats a step."""
        return self.loss / self.steps

    @property
    def accuracy(self) -> float:
        """The share of scored predictions that are right."""
        return self.correct / self.scored


class Task(ABC):
    """Sequences to learn from, of a length that the caller chooses."""

    inputs: int
    outputs: int
    chance: float
    """The accuracy of a model that has learned everything but what must be remembered."""

    length: int
    """The length that training uses."""

    loss_unit: str = "nats a step"
    """Of the loss, for people."""

    @abstractmethod
    def steps(self, length: int) -> int:
        """How many steps T a sequence of this length has."""

    @abstractmethod
    def batch(self, size: int, length: int, generator: torch.Generator) -> Batch:
        """`size` fresh sequences of this length."""

    def sources(self, x: Tensor) -> Tensor | None:
        """Where the truth lies in one sequence x (T, I), if the task knows.

        (N, 2): step t, from 1, is to recall what step i showed, as the pairs (t, i).
        """
        return None

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """What training minimises: cross-entropy in nats, the mean over every step."""
        return cross_entropy(logits.flatten(0, 1), batch.targets.flatten())

    @torch.no_grad()
    def tally(self, logits: Tensor, batch: Batch) -> Tally:
        """How logits (B, T, O) do on the batch."""
        hits = (logits.argmax(dim=-1) == batch.targets)[:, batch.scored]
        return Tally(
            loss=float(self.loss(logits, batch)) * batch.targets.numel(),
            steps=batch.targets.numel(),
            correct=int(hits.sum()),
            scored=hits.numel(),
        )
