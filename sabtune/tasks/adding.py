"""The adding task: of a sequence of numbers, the sum of the two that are marked.

Hochreiter and Schmidhuber (1997), in the form of Arjovsky et al. (2016, arXiv 1511.06464): `length`
numbers drawn evenly from [0, 1], beside each a mark that is 1 at one step of the first half and at
one of the second, else 0. The sum is asked for at the last step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from sabtune.schema import check
from sabtune.tasks.base import SyntheticTask, TaskConfig
from sabtune.tasks.batch import CPU, Batch, last, moved

TOLERANCE = 0.04
"""How far off an answer may be and count as right: Hochreiter and Schmidhuber's (1997)."""


class Adding(SyntheticTask):
    """Trained by the squared error. The sum of two even draws is nearest to 1 most often: who
    always says 1 errs by 1/6 and is right with probability 2·0.04 - 0.04²."""

    inputs = 2
    outputs = 1
    chance = 2 * TOLERANCE - TOLERANCE**2
    loss_unit = "squared error"
    loss_everywhere = False

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """length: T, how many numbers there are."""

        length: int = 50

        def __post_init__(self) -> None:
            self.build().steps(self.length)

        def build(self) -> Adding:
            return Adding(self)

    def steps(self, length: int) -> int:
        check(length >= 2, "length", length, "at least 2: there are two numbers to add")
        return length

    def batch(
        self, size: int, length: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Batch:
        half = length // 2
        numbers = torch.rand((size, length), generator=generator)
        first = torch.randint(0, half, (size, 1), generator=generator)
        second = torch.randint(half, length, (size, 1), generator=generator)
        at = torch.cat([first, second], dim=1)
        marks = torch.zeros(size, length).scatter_(1, at, 1.0)
        targets = torch.zeros(size, length)
        targets[:, -1] = numbers.gather(1, at).sum(dim=1)
        return Batch(
            x=moved(torch.stack([numbers, marks], dim=-1), device),
            targets=moved(targets, device),
            scored=last(1, length),
        )

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean squared error of answers (N, 1) against sums (N,)."""
        return mse_loss(logits.squeeze(-1), targets)

    def right(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Which answers (B, T, 1) are within `TOLERANCE`."""
        return (logits.squeeze(-1) - targets).abs() < TOLERANCE
