"""What a task is: sequences of a length that the caller chooses, and how answers are judged.

Shapes: B batch, T steps, I inputs, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sabtune.errors import ConfigError
from sabtune.schema import Config, check, check_whole
from sabtune.seeding import Stream
from sabtune.tasks.batch import CPU, Batch, Count, Tally
from sabtune.tasks.source import Drawn, Source

MEASURED = (Stream.SELECTION, Stream.TEST, Stream.CONFIRMATION)
"""What models are measured on, and never trained."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Config, ABC):
    """Each task's own values; `length` is the one that training uses and a ladder starts from."""

    length: int

    @abstractmethod
    def build(self) -> Task:
        """The task that this describes. Reads no data: a `Source` does."""


class Task(ABC):
    """Sequences to learn from, and how a model's answers to them are judged.

    As it stands, a choice among classes at every step, by cross-entropy.
    """

    inputs: int
    outputs: int
    chance: float
    """The accuracy of a model that has learned everything but what must be remembered."""

    length: int
    """The length that training uses."""

    solved: float = 0.99
    """The accuracy at which a length counts as solved."""

    loss_unit: str = "nats a step"
    """Of the loss, for people."""

    unit: float = 1.0
    """What one of what training minimises is in `loss_unit`."""

    loss_everywhere: bool = True
    """Whether the loss counts every step, or the scored ones alone."""

    memory_span: int | None = None
    """Where a batch may go on from the one before it: how many steps old a remembered state may
    be, then, to be carried over. None: each batch starts afresh."""

    phased: bool = True
    """Whether what is asked at a sequence's end may depend on the remainder of its length; not
    where every step is scored."""

    @abstractmethod
    def steps(self, length: int) -> int:
        """How many steps T a sequence of this length has. Raises ConfigError if none has it."""

    @property
    def remembered_steps(self) -> int:
        """The most steps that training can recall: of a sequence and what is carried into it."""
        return self.steps(self.length) + (self.memory_span or 0)

    @abstractmethod
    def batches(
        self,
        length: int,
        stream: Stream,
        generator: torch.Generator,
        device: torch.device = CPU,
    ) -> Source:
        """Sequences of this length, made on `device`.

        stream: what they are for; a task with data of its own has a part of it for each.
        generator: it alone decides which they are and in which order. Raises DataError if the
        task's data is missing or damaged, ConfigError if there is none of this length.
        """

    def varied(
        self, shortest: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Source:
        """For training: each batch has a length of its own, drawn evenly from `shortest` to the
        task's. Raises ConfigError where there are none so short, or where data says how long."""
        raise ConfigError(
            f"shortest is {shortest}: leave it out, this task's data has lengths of its own"
        )

    def batch(
        self, size: int, length: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Batch:
        """`size` sequences of this length, to look at: of those that a search tests on."""
        return self.batches(length, Stream.TEST, generator, device).batch(size)

    def prepare(self, lengths: Sequence[int]) -> None:
        """Sees to it that there are sequences of these lengths for every purpose.

        Raises as `batches` does: before a search, rather than in its trials.
        """
        self.batches(self.length, Stream.TRAINING, torch.Generator())
        for length in lengths:
            for stream in MEASURED:
                self.batches(length, stream, torch.Generator())

    def sources(self, x: Tensor) -> Tensor | None:
        """Where the truth lies in one sequence x (T, I), if the task knows.

        (N, 2): step t, from 1, is to recall what step i showed, as the pairs (t, i).
        """
        return None

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """What training minimises: the mean over the steps that count."""
        targets = batch.targets
        if not self.loss_everywhere:
            logits, targets = batch.at_scored(logits), batch.at_scored(targets)
        return self.criterion(logits.flatten(0, 1), targets.flatten())

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of logits (N, O) against targets (N,)."""
        return cross_entropy(logits, targets)

    def right(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Which of logits (B, T, O) count as right, (B, T)."""
        return logits.argmax(dim=-1) == targets

    def tally(self, logits: Tensor, batch: Batch) -> Tally:
        """How logits (B, T, O) do on the batch."""
        return self.count(logits, batch).tally()

    @torch.no_grad()
    def count(self, logits: Tensor, batch: Batch) -> Count:
        """The same, without waiting for it."""
        scored = batch.targets.shape[0] * int(batch.scored.sum())
        steps = batch.targets.numel() if self.loss_everywhere else scored
        if not steps:
            return Count(steps=0, scored=0)
        hits = self.right(batch.at_scored(logits), batch.at_scored(batch.targets))
        loss = self.loss(logits, batch)
        return Count(steps=steps, scored=scored, unit=self.unit, loss=loss, correct=hits.sum())

    def normalized_score(self, accuracy: float, loss: float) -> float:
        """How good that is, from 0 at chance to 1: scores are means of it.

        loss: in `loss_unit`.
        """
        return above_chance(accuracy, self.chance)


class SyntheticTask(Task):
    """Sequences that are made, not read: no end of them, of any length."""

    def __init__(self, config: TaskConfig):
        check_whole("length", config.length, least=1)
        self.length = config.length

    @abstractmethod
    def batch(
        self, size: int, length: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Batch:
        """`size` fresh sequences of this length, drawn on the CPU and laid out on `device`."""

    def batches(
        self,
        length: int,
        stream: Stream,
        generator: torch.Generator,
        device: torch.device = CPU,
    ) -> Source:
        self.steps(length)
        return Drawn(lambda size, drawn: self.batch(size, length, drawn, device), generator)

    def varied(
        self, shortest: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Source:
        check_whole("shortest", shortest, least=1)
        at_most = f"at most the task's length, {self.length}"
        check(shortest <= self.length, "shortest", shortest, at_most)
        self.steps(shortest)

        def draw(size: int, drawn: torch.Generator) -> Batch:
            length = int(torch.randint(shortest, self.length + 1, (), generator=drawn))
            return self.batch(size, length, drawn, device)

        return Drawn(draw, generator)


def above_chance(accuracy: float, chance: float) -> float:
    """(accuracy - chance) / (1 - chance), and no less than 0."""
    return max(0.0, (accuracy - chance) / (1 - chance))
