"""Classification of labeled sequences of the user, such as time series."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from sabtune.data import place, sequences
from sabtune.data.labeled import check_splits
from sabtune.data.sequences import SequenceContent
from sabtune.schema import check, check_whole
from sabtune.seeding import Stream
from sabtune.tasks.base import Task, TaskConfig, check_own, check_unchanged, settings_key
from sabtune.tasks.batch import CPU, Batch, classification, moved
from sabtune.tasks.source import Shuffled, Source

SOLVED = 0.95
"""The accuracy at which a length counts as solved. It is our choice."""


class Sequences(Task):
    """Classification of labeled sequences of your own, such as those of the UCR and UEA archives.

    A step shows the values of the sequence at that step, as they are in the file. Only the answer
    at the last step counts. Chance is the share of the most frequent class in training, and a
    length counts as solved at an accuracy of 0.95.

    Training, selection, test and confirmation have their own sequences. If the file has a test set,
    it is for confirmation, and ten twelfths of the training set are for training, one for selection
    and one for test. All parts have about the same share of each class.

    Args:
        config: The configuration. Its `build` method creates the task too.

    Example:
        >>> import numpy as np, sabtune as sab, tempfile
        >>> y = np.arange(200) % 2
        >>> x = np.random.default_rng(0).normal(y[:, None, None], size=(200, 30, 3))
        >>> path = tempfile.mkdtemp() + "/waves.npz"
        >>> np.savez(path, x=x, y=y)
        >>> task = sab.Sequences.Config(data=path).build()
        >>> task.inputs, task.outputs, task.length, task.chance
        (3, 2, 30, 0.5)
    """

    loss_unit = "nats a sequence"
    loss_everywhere = False
    solved = SOLVED

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """The configuration of the task of labeled sequences.

        Args:
            length: The number of steps T, at least those of a sequence of the file. Zeros follow
                the sequence. Defaults to the steps of a sequence.
            data: The path of an .npz file with the arrays x, numbers (N, T, I) or (N, T), and y,
                labels (N,); or x_train, y_train, x_test and y_test. A relative path starts at the
                folder of the study file, or else at the current folder.
            splits: The shares of training, validation and test in a file without a test set; they
                add up to 1. Defaults to 0.8, 0.1 and 0.1. Half of the validation part is for
                selection and half for test; the test part is for confirmation.
            split_seed: The seed of the division into parts, at least 0.
            content: What the file holds. It is read from the file, and recorded.

        Raises:
            ConfigError: A field is missing, unknown, out of range or of the wrong type.
            DataError: The file can't be read.

        Example:
            >>> import numpy as np, sabtune as sab, tempfile
            >>> path = tempfile.mkdtemp() + "/waves.npz"
            >>> np.savez(path, x=np.random.default_rng(0).random((90, 20)), y=["a", "b", "c"] * 30)
            >>> config = sab.Sequences.Config(data=path, splits=(0.6, 0.2, 0.2))
            >>> config.length, config.content.classes, config.content.sequences
            (20, ('a', 'b', 'c'), (54, 9, 9, 18))
        """

        length: int = 0
        data: str | Path
        splits: tuple[float, ...] | None = None
        split_seed: int = 0
        content: SequenceContent | None = field(default=None, repr=False)

        data_paths = ("data",)

        def __post_init__(self) -> None:
            check_whole("length", self.length, least=0)
            check_whole("split_seed", self.split_seed, least=0)
            path = place.absolute(self.data)
            if self.splits is not None:
                check_splits(self.splits)
            content, key = self.content, settings_key(self.splits, self.split_seed)
            if content is not None and content.read_as not in ("", key):
                content = None  # a copy with other settings
            if content is None and place.is_code_only():
                content = sequences.MADE_UP
            elif content is None:
                check_own("data", str(self.data), (), path, "an .npz file")
                content = sequences.read(path, self.splits, self.split_seed).content
                content = replace(content, read_as=key)
            values = {"data": path, "content": content, "length": self.length or content.steps}
            for name, value in values.items():
                object.__setattr__(self, name, value)
            self.check_fits(self.length)

        @property
        def held(self) -> SequenceContent:
            """The content of the file."""
            assert self.content is not None
            return self.content

        def check_fits(self, length: int) -> None:
            """Check that a sequence of the file has at most `length` steps.

            Raises:
                ConfigError: A sequence has more steps.
            """
            steps = self.held.steps
            wanted = f"at least {steps}, the steps of a sequence of {Path(self.data).name}"
            check(length >= steps, "length", length, wanted)

        def read(self) -> sequences.OwnSequences:
            """Read the file.

            Raises:
                DataError: It is missing or damaged.
            """
            return sequences.read(str(self.data), self.splits, self.split_seed)

        def build(self) -> Sequences:
            return Sequences(self)

    def __init__(self, config: Config):
        self.config = config
        self.length = config.length
        self.inputs = config.held.inputs
        self.outputs = len(config.held.classes)
        self.chance = config.held.majority

    def steps(self, length: int) -> int:
        self.config.check_fits(length)
        return length

    def datasets(self) -> Mapping[str, str]:
        return {Path(self.config.data).name: sequences.identity(str(self.config.data))}

    def batches(
        self,
        length: int,
        stream: Stream,
        generator: torch.Generator,
        device: torch.device = CPU,
    ) -> Source:
        T = self.steps(length)
        values, classes = _on_device(self.config, stream, device, place.folder())

        def make(numbers: Tensor) -> Batch:
            return classification(values[numbers], classes[numbers], T)

        return Shuffled(len(classes), make, generator, device)


@functools.lru_cache(maxsize=8)
def _on_device(
    config: Sequences.Config, stream: Stream, device: torch.device, folder: Path
) -> tuple[Tensor, Tensor]:
    """Return a part's sequences (N, steps, I) and classes (N,) on `device`, cached per process."""
    check_unchanged(config.held.sha256, config.build().datasets())
    values, classes = config.read().parts[stream]
    return moved(values, device), moved(classes, device)
