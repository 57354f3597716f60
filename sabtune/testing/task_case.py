"""What the checks of a task share: the task, its sources and its batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from sabtune.seeding import Stream, generator
from sabtune.tasks import Batch, Source, Task, TaskConfig
from sabtune.tasks.base import SyntheticTask
from sabtune.tasks.batch import CPU
from sabtune.testing.result import name_of

Guess = Callable[[Task, Batch], Tensor]
"""A function from a task and a batch to logits (B, T, O)."""

SIZES = (1, 3)
"""The batch sizes of the checks."""


class TaskCase:
    """A task that is being checked."""

    def __init__(self, config: TaskConfig, guess: Guess | None):
        self.task_config, self.guess = config, guess
        self.lengths: list[int] = []  # that the task has
        self.refused: list[int] = []  # that it does not have
        self.rows: list[Batch] = []  # many sequences of the test stream
        self.sequences_per_second: float | None = None

    @cached_property
    def task(self) -> Task:
        return self.task_config.build()

    def named(self, attribute: str) -> str:
        """Return the name of an attribute of the task, as in "Copying.steps"."""
        return f"{name_of(type(self.task))}.{attribute}"

    @property
    def drawing(self) -> str:
        """The name of the method that makes sequences."""
        return self.named("batch" if isinstance(self.task, SyntheticTask) else "batches")

    def source(
        self,
        stream: Stream = Stream.TEST,
        *,
        seed: int = 0,
        length: int | None = None,
        device: torch.device = CPU,
    ) -> Source:
        at = self.task.length if length is None else length
        return self.task.batches(at, stream, generator(seed, stream), device)

    @cached_property
    def batch(self) -> Batch:
        return self.source().batch(max(SIZES))

    def logits(self, batch: Batch) -> Tensor:
        """Return random logits (B, T, O) for a batch."""
        shape = (*batch.targets.shape, self.task.outputs)
        return torch.randn(shape, generator=generator(1, Stream.TEST))

    @property
    def classifies(self) -> bool:
        """Whether the targets are classes and the logits have one number for each class."""
        return self.task.outputs > 1 and not self.batch.targets.is_floating_point()


def same_batch(one: Batch, other: Batch) -> bool:
    """Return whether two batches have the same sequences, targets and scored steps."""
    return all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("x", "targets", "scored")
    )
