"""Character-level language modeling: predict the next character."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from sabtune.data import own_text, place, texts
from sabtune.data.labeled import check_splits
from sabtune.data.own_text import TextContent
from sabtune.data.texts import TEXT_SETS
from sabtune.schema import check, check_whole
from sabtune.seeding import Stream
from sabtune.tasks.base import Task, TaskConfig, check_own, check_unchanged, settings_key
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
    parts of the text; see `sabtune.data.texts`. A text of your own is read as it is, and its
    alphabet is that of its training part.

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
            text: "pydoc", the help topics of Python; "ptb", Penn Treebank; "text8"; or the path of
                a text of your own in UTF-8. Three paths give its files for training, validation and
                test. A relative path starts at the folder of the study file, or else at the current
                folder.
            memory_span: The largest age in steps of a memory that is carried to the next update, at
                least 0.
            splits: The shares of training, validation and test in a text of your own that is one
                file; they add up to 1. Defaults to 0.9, 0.05 and 0.05. Half of the validation part
                is for selection and half for test; the test part is for confirmation.
            alphabet: The characters of a text of your own. Defaults to those of its training part.
            content: What a text of your own holds. It is read from the files, and recorded.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.
            DataError: A text of your own can't be read.

        Example:
            >>> import sabtune as sab
            >>> task = sab.Language.Config(text="text8").build()
            >>> task.loss_unit, round(task.normalized_score(accuracy=0.5, loss=1.0), 2)
            ('bits per character', 0.79)
        """

        length: int = 100
        text: str | Path | tuple[str | Path, ...] = "pydoc"
        memory_span: int = 400
        splits: tuple[float, ...] | None = None
        alphabet: str = field(default="", repr=False)
        content: TextContent | None = field(default=None, repr=False)

        data_paths = ("text",)

        def __post_init__(self) -> None:
            check_whole("length", self.length, least=1)
            check_whole("memory_span", self.memory_span, least=0)
            if self.included is not None:
                for name in ("splits", "alphabet", "content"):
                    value = getattr(self, name)
                    check(not value, name, value, f"nothing, since {self.text} has its own")
                return
            several = isinstance(self.text, tuple)
            given = self.text if isinstance(self.text, tuple) else (self.text,)
            check(not several or len(given) == 3, "text", self.text, "one path, or three")
            files = tuple(map(place.absolute, given))
            object.__setattr__(self, "text", files if several else files[0])
            if several:
                check(self.splits is None, "splits", self.splits, "nothing, since text has files")
            if self.splits is not None:
                check_splits(self.splits)
            distinct = len(set(self.alphabet)) == len(self.alphabet) != 1
            check(distinct, "alphabet", self.alphabet, "at least two different characters")
            key = settings_key(self.splits)
            if self.content is not None and self.content.read_as:  # perhaps of a copy
                read_as, derived = json.loads(self.content.read_as)
                if read_as != key:
                    object.__setattr__(self, "content", None)
                    if derived == self.alphabet:
                        object.__setattr__(self, "alphabet", "")
            if self.content is None and place.is_code_only():
                object.__setattr__(self, "alphabet", self.alphabet or "ab")
                content = TextContent(sha256="", characters=(0, 0, 0, 0))
                object.__setattr__(self, "content", content)
            elif self.content is None:
                for file, value in zip(files, given, strict=True):
                    check_own("text", str(value), () if several else (*TEXT_SETS,), file, "a text")
                read = own_text.read(files, self.splits, self.alphabet)
                derived = None if self.alphabet else read.alphabet
                content = replace(read.content, read_as=json.dumps([key, derived]))
                object.__setattr__(self, "alphabet", read.alphabet)
                object.__setattr__(self, "content", content)

        @property
        def included(self) -> str | None:
            """The name of the text if it is not the user's own."""
            return self.text if isinstance(self.text, str) and self.text in TEXT_SETS else None

        @property
        def files(self) -> tuple[str, ...]:
            """The absolute paths of the user's own text."""
            return tuple(map(str, self.text if isinstance(self.text, tuple) else (self.text,)))

        @property
        def symbols(self) -> str:
            """The alphabet of the text."""
            return self.alphabet if self.included is None else TEXT_SETS[self.included].alphabet

        def build(self) -> Language:
            return Language(self)

    def __init__(self, config: Config):
        self.config = config
        self.length = config.length
        self.memory_span = config.memory_span
        self.inputs = self.outputs = len(config.symbols)
        self.chance = 1 / self.outputs

    def steps(self, length: int) -> int:
        return length

    def normalized_score(self, accuracy: float, loss: float) -> float:
        """Return 1 - loss / log2(alphabet), the share of bits saved over a uniform prediction."""
        return max(0.0, 1 - loss / math.log2(self.outputs))

    def datasets(self) -> Mapping[str, str]:
        config = self.config
        if config.included is not None:
            return {config.included: texts.identity(config.included)}
        return {own_text.name_of(config.files): own_text.identity(config.files)}

    def batches(
        self,
        length: int,
        stream: Stream,
        generator: torch.Generator,
        device: torch.device = CPU,
    ) -> Source:
        text = _on_device(self.config, stream, device, place.folder())
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
def _on_device(
    config: Language.Config, stream: Stream, device: torch.device, folder: Path
) -> Tensor:
    """Return a part of a text (N,) on `device`, cached per process."""
    if config.included is not None:
        return moved(texts.load(config.included)[stream], device)
    assert config.content is not None
    check_unchanged(config.content.sha256, config.build().datasets())
    read = own_text.read(config.files, config.splits, config.alphabet)
    return moved(read.parts[stream], device)
