"""The interface of a task: sequences of any given length, and the measures of a model's answers.

Shapes: B batch, T steps, I inputs, O outputs.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sabtune.data import digests, place
from sabtune.errors import ConfigError, DataError
from sabtune.schema import Config, check, check_whole, shown
from sabtune.seeding import Stream
from sabtune.tasks.batch import CPU, Batch, Count, Tally
from sabtune.tasks.source import Drawn, Source

MEASURED = (Stream.SELECTION, Stream.TEST, Stream.CONFIRMATION)
"""The streams that models are evaluated on, and never trained on."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Config, ABC):
    """The base of every task's configuration, a frozen dataclass that builds the task.

    Args:
        length: The training length, which is also the first length of a ladder.

    Raises:
        ConfigError: A field is missing, unknown, out of range or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> config = sab.Copying.Config(length=50)
        >>> isinstance(config, sab.TaskConfig), config.build().length
        (True, 50)
    """

    length: int

    data_paths: ClassVar[tuple[str, ...]] = ()
    """The fields that may hold paths of the user's data. A configuration with such data has a field
    `content` with a `sha256`, which identifies the data wherever it is."""

    @abstractmethod
    def build(self) -> Task:
        """Build the task. This reads no data; creating a `Source` does."""


class Task(ABC):
    """Sequences to learn from, and the measures of a model's answers.

    The defaults are those of classification at every step, trained by cross-entropy. A task of your
    own that generates its sequences derives from `SyntheticTask`. One that reads data derives from
    `Task`, sets `inputs`, `outputs`, `chance` and `length`, and defines `steps`, `datasets` and
    `batches`, which returns a `Source` such as `Shuffled`.

    Example:
        >>> import torch, sabtune as sab
        >>> task = sab.Copying.Config(length=5).build()
        >>> isinstance(task, sab.Task), task.inputs, task.outputs, task.steps(5)
        (True, 10, 9, 25)
    """

    inputs: int
    """I, the number of inputs of a step."""

    outputs: int
    """O, the number of outputs of a step."""

    chance: float
    """The accuracy of a model that has learned everything except to remember."""

    length: int
    """The training length."""

    solved: float = 0.99
    """The accuracy at which a length counts as solved."""

    loss_unit: str = "nats a step"
    """The unit of the reported loss, as shown to users."""

    unit: float = 1.0
    """The factor that converts the training loss into `loss_unit`."""

    loss_everywhere: bool = True
    """Whether the loss covers every step, or only the scored ones."""

    memory_span: int | None = None
    """The largest age in steps of a memory that is carried to the next batch. None: batches do not
    continue each other, and every batch starts from a new state."""

    phased: bool = True
    """Whether results may depend on the phase of a length (its number of steps modulo k_att). They
    do not if every step is scored."""

    @abstractmethod
    def steps(self, length: int) -> int:
        """Return the number of steps T of a sequence of this length.

        Raises:
            ConfigError: The task has no sequences of this length.
        """

    @property
    def remembered_steps(self) -> int:
        """The largest number of steps that training can recall, including a carried state."""
        return self.steps(self.length) + (self.memory_span or 0)

    @abstractmethod
    def batches(
        self,
        length: int,
        stream: Stream,
        generator: torch.Generator,
        device: torch.device = CPU,
    ) -> Source:
        """Return a source of sequences of this length on `device`.

        Args:
            length: The length of the sequences.
            stream: The purpose of the sequences. A task that reads data has a separate part for
                each.
            generator: The random generator that determines the sequences and their order.
            device: The device of the batches.

        Raises:
            DataError: The task's data is missing or damaged.
            ConfigError: The task has no sequences of this length.
        """

    def varied(
        self, shortest: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Source:
        """Return a source for training whose batches vary in length.

        The length of a batch is drawn uniformly from `shortest` to the training length. Raises
        ConfigError if the task has no sequences that short, or if its data determines the length.
        """
        raise ConfigError(
            f"shortest is {shortest}: leave it out, this task's data has no variable lengths"
        )

    def batch(
        self, size: int, length: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Batch:
        """Return `size` sequences of this length from the test stream, for inspection.

        Returns:
            A batch with the fields `x` (B, T, I), `targets` (B, T), and `scored`, (T,) or (B, T),
            whether accuracy counts a step.
        """
        return self.batches(length, Stream.TEST, generator, device).batch(size)

    def prepare(self, lengths: Sequence[int]) -> None:
        """Check that there are sequences of these lengths for every purpose.

        A search calls this before its first trial. Raises DataError and ConfigError as `batches`
        does.
        """
        self.batches(self.length, Stream.TRAINING, torch.Generator())
        for length in lengths:
            for stream in MEASURED:
                self.batches(length, stream, torch.Generator())

    def datasets(self) -> Mapping[str, str]:
        """Return the SHA-256 of the content of each data set that the task reads, by name.

        A search records the digests with its trials. Workers, a resumed search and `reproduce`
        compare them with the data that they find. The default, {}, is for a task that generates its
        sequences.

        Raises:
            DataError: The task's data is missing or damaged.
        """
        return {}

    def sources(self, x: Tensor) -> Tensor | None:
        """Return which steps of one sequence x (T, I) hold the answers.

        The result (N, 2) has a row (t, i) for each step t that must recall step i, counted from 1.
        It is None if the task does not define such steps.
        """
        return None

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the training loss, the mean over the steps that it covers."""
        targets = batch.targets
        if not self.loss_everywhere:
            logits, targets = batch.at_scored(logits), batch.at_scored(targets)
        return self.criterion(logits.flatten(0, 1), targets.flatten())

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean loss of logits (N, O) against targets (N,)."""
        return cross_entropy(logits, targets)

    def right(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return whether each answer of logits (B, T, O) is correct: (B, T)."""
        return logits.argmax(dim=-1) == targets

    def tally(self, logits: Tensor, batch: Batch) -> Tally:
        """Measure logits (B, T, O) on a batch, and wait for the device."""
        return self.count(logits, batch).tally()

    @torch.no_grad()
    def count(self, logits: Tensor, batch: Batch) -> Count:
        """Measure logits (B, T, O) on a batch without waiting for the device."""
        scored = batch.answers
        steps = batch.targets.numel() if self.loss_everywhere else scored
        if not steps:
            return Count(steps=0, scored=0)
        hits = self.right(batch.at_scored(logits), batch.at_scored(batch.targets))
        loss = self.loss(logits, batch)
        return Count(steps=steps, scored=scored, unit=self.unit, loss=loss, correct=hits.sum())

    def normalized_score(self, accuracy: float, loss: float) -> float:
        """Return the score of a result, from 0 at chance to 1. Other scores are means of it.

        Args:
            accuracy: The accuracy, from 0 to 1.
            loss: The loss, in `loss_unit`.
        """
        return above_chance(accuracy, self.chance)


class SyntheticTask(Task):
    """A task that generates its sequences: any number, of any length.

    A task of your own defines `inputs`, `outputs`, `chance` and `batch`. Every random number must
    come from the generator that `batch` gets.

    Args:
        config: The configuration, of which the base class reads `length`.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch, sabtune as sab
        >>> class FirstBit(sab.SyntheticTask):
        ...     "Answer at the last step with the bit of the first one."
        ...     inputs, outputs, chance, loss_everywhere = 1, 2, 0.5, False
        ...
        ...     @dataclass(frozen=True, kw_only=True)
        ...     class Config(sab.TaskConfig):
        ...         def build(self):
        ...             return FirstBit(self)
        ...
        ...     def batch(self, size, length, generator, device=torch.device("cpu")):
        ...         x = torch.randint(0, 2, (size, length, 1), generator=generator)
        ...         targets = x[:, :1, 0].expand(size, length).to(device)
        ...         scored = torch.arange(length) == length - 1
        ...         return sab.Batch(x=x.float().to(device), targets=targets, scored=scored)
        >>> task = FirstBit.Config(length=10).build()
        >>> task.batch(8, 10, torch.Generator().manual_seed(0)).x.shape
        torch.Size([8, 10, 1])
    """

    def __init__(self, config: TaskConfig):
        check_whole("length", config.length, least=1)
        self.length = config.length

    def steps(self, length: int) -> int:
        """Return the number of steps T of a sequence of this length: `length` by default.

        Raises:
            ConfigError: The task has no sequences of this length.
        """
        return length

    @abstractmethod
    def batch(
        self, size: int, length: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Batch:
        """Draw `size` new sequences of this length on the CPU, and return them on `device`.

        Returns:
            A batch with the fields `x` (B, T, I), `targets` (B, T), and `scored`, (T,) or (B, T),
            whether accuracy counts a step.
        """

    def batches(
        self,
        length: int,
        stream: Stream,
        generator: torch.Generator,
        device: torch.device = CPU,
    ) -> Source:
        self.steps(length)
        return Drawn(lambda size, generator: self.batch(size, length, generator, device), generator)

    def varied(
        self, shortest: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Source:
        check_whole("shortest", shortest, least=1)
        wanted = f"at most the task's length, {self.length}"
        check(shortest <= self.length, "shortest", shortest, wanted)
        self.steps(shortest)

        def draw(size: int, generator: torch.Generator) -> Batch:
            length = int(torch.randint(shortest, self.length + 1, (), generator=generator))
            return self.batch(size, length, generator, device)

        return Drawn(draw, generator)


def check_own(field: str, value: object, names: Sequence[str], path: str, kinds: str) -> None:
    """Raise ConfigError unless there is data of the user at `path`.

    names: the data sets that the field may name instead. kinds: what may be at a path, in words.
    """
    known = f"{', '.join(names)}, or " if names else ""
    missing = f"; there is no {shown(path)}" if value else ""
    there = bool(value) and place.exists(path)
    check(there, field, value, f"{known}the path of {kinds}{missing}")


def settings_key(*settings: object) -> str:
    """Return the settings that data of the user is read with, as text for `read_as`."""
    return json.dumps(settings, default=str)


def check_unchanged(recorded: str, datasets: Mapping[str, str]) -> None:
    """Raise DataError if the data of the user has another SHA-256 than was recorded."""
    for name, present in datasets.items():
        if present != recorded:
            raise DataError(
                f"{name} has changed: its SHA-256 was {digests.shown(recorded)} and is "
                f"{digests.shown(present)} now: restore it, or create the configuration again"
            )


def above_chance(accuracy: float, chance: float) -> float:
    """Return (accuracy - chance) / (1 - chance), but at least 0."""
    return max(0.0, (accuracy - chance) / (1 - chance))
