"""The adding task: add the two marked numbers of a sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from sabtune.schema import check
from sabtune.tasks.base import SyntheticTask, TaskConfig
from sabtune.tasks.batch import CPU, Batch, last, moved

TOLERANCE = 0.04
"""The largest error of a correct answer, from Hochreiter and Schmidhuber (1997)."""


class Adding(SyntheticTask):
    """The adding task: add the two marked numbers of a sequence.

    The task is from Hochreiter and Schmidhuber (1997), in the form of Arjovsky et al. (2016, arXiv
    1511.06464). At length L, each of L steps shows a number drawn uniformly from [0, 1] and a mark,
    which is 1 at one step of the first half and at one step of the second half, and 0 elsewhere.
    The target at the last step is the sum of the two marked numbers.

    Models are trained by the squared error. An answer is correct if its error is below 0.04. The
    best constant answer is 1, the mean and mode of the sum. Its mean squared error is 1/6, and it
    is correct with probability 2·0.04 - 0.04².

    Args:
        config: The configuration. Its `build` method creates the task too.

    Example:
        >>> import torch, sabtune as sab
        >>> task = sab.Adding.Config(length=50).build()
        >>> batch = task.batch(8, 50, torch.Generator().manual_seed(0))
        >>> batch.x.shape, batch.targets.shape, round(task.chance, 4)
        (torch.Size([8, 50, 2]), torch.Size([8, 50]), 0.0784)
    """

    inputs = 2
    outputs = 1
    chance = 2 * TOLERANCE - TOLERANCE**2
    loss_unit = "squared error"
    loss_everywhere = False

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """The configuration of the adding task.

        Args:
            length: The number of steps T, each of which shows a number; at least 2.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> task = sab.Adding.Config(length=50).build()
            >>> task.steps(200)
            200
        """

        length: int = 50

        def __post_init__(self) -> None:
            self.build().steps(self.length)

        def build(self) -> Adding:
            return Adding(self)

    def steps(self, length: int) -> int:
        check(length >= 2, "length", length, "at least 2, since there are two numbers to add")
        return length

    def batch(
        self, size: int, length: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Batch:
        half = length // 2
        numbers = torch.rand((size, length), generator=generator)
        first = torch.randint(0, half, (size, 1), generator=generator)
        second = torch.randint(half, length, (size, 1), generator=generator)
        marked = torch.cat([first, second], dim=1)
        marks = torch.zeros(size, length).scatter_(1, marked, 1.0)
        targets = torch.zeros(size, length)
        targets[:, -1] = numbers.gather(1, marked).sum(dim=1)
        return Batch(
            x=moved(torch.stack([numbers, marks], dim=-1), device),
            targets=moved(targets, device),
            scored=last(1, length),
        )

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean squared error of answers (N, 1) against sums (N,)."""
        return mse_loss(logits.squeeze(-1), targets)

    def right(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return whether each answer (B, T, 1) is within `TOLERANCE` of its target: (B, T)."""
        return (logits.squeeze(-1) - targets).abs() < TOLERANCE
