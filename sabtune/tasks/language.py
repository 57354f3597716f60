"""Character-level language modeling: predict the next character."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sabtune.data import place, texts
from sabtune.data.texts import TEXT_SETS
from sabtune.schema import check, check_whole
from sabtune.seeding import Stream
from sabtune.tasks.base import Task, TaskConfig
from sabtune.tasks.batch import CPU, Batch, last, moved, one_hot
from sabtune.tasks.source import Passes, Shuffled, Source


class Language(Task):
    """Character-level language modeling: predict the next character.

    As in Ke et al. (2018), the loss is the mean of -log2 of the probability of each next character,
    in bits per character. For training, the text is split into one stream per row of a batch. An
    update reads `length` characters of each stream, and the state is carried to the next update. In
    an evaluation, each sequence starts from an empty state, so a character of a longer sequence has
    more context on average.

    After every `length` characters, in training and in evaluation, memories that are more than
    `memory_span` steps old are dropped. Training, selection, test and confirmation have their own
    parts of the text; see `sabtune.data.texts`.

    Args:
        config: The configuration. Its `build` method creates the task too.

    Example:
        >>> import torch, sabtune as sab
        >>> task = sab.Language.Config(length=100, text="pydoc").build()
        >>> batch = task.batch(8, 100, torch.Generator().manual_seed(0))
        >>> batch.x.shape, batch.targets.shape
        (torch.Size([8, 100, 70]), torch.Size([8, 100]))
    """

    loss_unit = "bits per character"
    unit = 1 / math.log(2)
    phased = False

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """The configuration of the language task.

        Args:
            length: The number of characters of each stream that an update reads, at least 1.
            text: "pydoc", the help topics of Python; "ptb", Penn Treebank; or "text8".
            memory_span: The largest age in steps of a memory that is carried to the next update, at
                least 0.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> task = sab.Language.Config(text="text8").build()
            >>> task.loss_unit, round(task.normalized_score(accuracy=0.5, loss=1.0), 2)
            ('bits per character', 0.79)
        """

        length: int = 100
        text: Literal["pydoc", "ptb", "text8"] = "pydoc"
        memory_span: int = 400

        def __post_init__(self) -> None:
            check_whole("length", self.length, least=1)
            check_whole("memory_span", self.memory_span, least=0)

        def build(self) -> Language:
            return Language(self)

    def __init__(self, config: Config):
        self.config = config
        self.length = config.length
        self.memory_span = config.memory_span
        self.inputs = self.outputs = len(TEXT_SETS[config.text].alphabet)
        self.chance = 1 / self.outputs

    def steps(self, length: int) -> int:
        return length

    def normalized_score(self, accuracy: float, loss: float) -> float:
        """Return 1 - loss / log2(alphabet), the share of bits saved over a uniform prediction."""
        return max(0.0, 1 - loss / math.log2(self.outputs))

    def datasets(self) -> Mapping[str, str]:
        return {self.config.text: texts.identity(self.config.text)}

    def batches(
        self,
        length: int,
        stream: Stream,
        generator: torch.Generator,
        device: torch.device = CPU,
    ) -> Source:
        text = _on_device(self.config.text, stream, device, place.folder())
        longest = len(text) - 1
        wanted = f"at most {longest}, the length of the text's part for {stream.name}"
        check(length <= longest, "length", length, wanted)
        if stream == Stream.TRAINING:
            return Streams(text, self.outputs, length, generator)

        def make(numbers: Tensor) -> Batch:
            return next_characters(text, numbers * length, length, self.outputs)

        return Shuffled(longest // length, make, generator, device)


class Streams(Passes):
    """A text split into one stream per row, read in windows of `length` characters.

    Each pass over the text starts at a random offset below `length`.
    """

    def __init__(self, text: Tensor, symbols: int, length: int, generator: torch.Generator):
        super().__init__(generator)
        self.text, self.symbols, self.length = text, symbols, length

    def begin(self, size: int) -> None:
        windows = (len(self.text) - self.length) // self.length
        wanted = f"at most {windows}, the number of windows in the text"
        check(size <= windows, "batch_size", size, wanted)
        self.offset = int(torch.randint(self.length, (), generator=self.generator))
        self.stream_length = (len(self.text) - 1 - self.offset) // size

    def take(self, size: int) -> Batch | None:
        start = self.cursor * self.length
        if start + self.length > self.stream_length:
            return None
        starts = torch.arange(size, device=self.text.device) * self.stream_length
        starts += self.offset + start
        self.cursor += 1
        return next_characters(self.text, starts, self.length, self.symbols, continues=start > 0)


def next_characters(
    text: Tensor, starts: Tensor, length: int, symbols: int, *, continues: bool = False
) -> Batch:
    """Return a batch of the windows at `starts` (B,), with each next character as the target."""
    positions = starts.unsqueeze(1) + torch.arange(length + 1, device=text.device)
    rows = text[positions].long()
    return Batch(
        x=one_hot(rows[:, :-1], symbols),
        targets=rows[:, 1:],
        scored=last(length, length),
        continues=continues,
    )


@functools.lru_cache(maxsize=8)
def _on_device(name: str, stream: Stream, device: torch.device, folder: Path) -> Tensor:
    """Return a part of a text (N,) on `device`, cached per process."""
    return moved(texts.load(name)[stream], device)
