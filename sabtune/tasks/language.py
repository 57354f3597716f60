"""Language, character by character: which comes next?

As in Ke et al. (2018): the loss is the mean of -log2 of the probability given to each character
that comes next, bits per character. In training the text is cut into as many streams as a batch has
rows, each read in stretches of `length` characters, the state carried from one to the next. A model
is measured on sequences of a length that begin with an empty state: the longer, the more context a
character has on average.
"""

from __future__ import annotations

import functools
import math
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
    """Each purpose has a part of the text of its own: `data.texts` says which.

    What is shown with t characters behind it may rest on a state remembered `memory_span` steps
    ago at most, wherever a stretch of `length` ends: in training and when measured.
    """

    loss_unit = "bits per character"
    unit = 1 / math.log(2)
    phased = False

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """length: characters that an update goes over, of each stream.

        text: "pydoc", "ptb" or "text8". memory_span: steps; remembered states that are older are
        dropped where a stretch ends.
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
        """The share that is saved of the bits of one who knows nothing, log2 of the alphabet."""
        return max(0.0, 1 - loss / math.log2(self.outputs))

    def batches(
        self,
        length: int,
        stream: Stream,
        generator: torch.Generator,
        device: torch.device = CPU,
    ) -> Source:
        text = _on_device(self.config.text, stream, device, place.folder())
        most = len(text) - 1
        check(
            length <= most, "length", length, f"at most {most}: the text's part for {stream.name}"
        )
        if stream == Stream.TRAINING:
            return Streams(text, self.outputs, length, generator)

        def make(numbers: Tensor) -> Batch:
            return next_characters(text, numbers * length, length, self.outputs)

        return Shuffled(most // length, make, generator, device)


class Streams(Passes):
    """A text as one stream a row, read side by side, stretch by stretch; each pass begins a little
    further on in the text, by less than a stretch."""

    def __init__(self, text: Tensor, symbols: int, length: int, generator: torch.Generator):
        super().__init__(generator)
        self.text, self.symbols, self.length = text, symbols, length

    def begin(self, size: int) -> None:
        most = (len(self.text) - self.length) // self.length
        check(size <= most, "batch_size", size, f"at most {most}, the stretches of the text")
        self.first = int(torch.randint(self.length, (), generator=self.generator))
        self.apart = (len(self.text) - 1 - self.first) // size  # the characters of a stream

    def take(self, size: int) -> Batch | None:
        done = self.cursor * self.length
        if done + self.length > self.apart:
            return None
        starts = torch.arange(size, device=self.text.device) * self.apart + (self.first + done)
        self.cursor += 1
        return next_characters(self.text, starts, self.length, self.symbols, continues=done > 0)


def next_characters(
    text: Tensor, starts: Tensor, length: int, symbols: int, *, continues: bool = False
) -> Batch:
    """The stretches that begin at `starts` (B,), and after each character the one that follows."""
    places = starts.unsqueeze(1) + torch.arange(length + 1, device=text.device)
    rows = text[places].long()
    return Batch(
        x=one_hot(rows[:, :-1], symbols),
        targets=rows[:, 1:],
        scored=last(length, length),
        continues=continues,
    )


@functools.lru_cache(maxsize=8)
def _on_device(name: str, stream: Stream, device: torch.device, folder: Path) -> Tensor:
    """A part of a text (N,), on `device`, once a process."""
    return moved(texts.load(name)[stream], device)
