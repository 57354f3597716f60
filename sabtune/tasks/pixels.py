"""Sequential image classification, pixel by pixel or row by row."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sabtune.data import images, own_images, place
from sabtune.data.images import IMAGE_SETS, Images
from sabtune.data.labeled import check_splits
from sabtune.data.own_images import ImageContent
from sabtune.schema import check, check_whole
from sabtune.seeding import Stream
from sabtune.tasks.base import Task, TaskConfig, check_own, check_unchanged, settings_key
from sabtune.tasks.batch import CPU, Batch, classification, moved
from sabtune.tasks.source import Shuffled, Source

By = Literal["pixel", "row"]

SOLVED = {"digits": 0.95, "mnist": 0.95, "fashion-mnist": 0.85, "cifar10": 0.6}
"""The accuracies at which a length counts as solved. They are our choice."""

OWN_SOLVED = 0.95
"""The accuracy at which a length counts as solved with images of the user."""


class Pixels(Task):
    """Sequential image classification, pixel by pixel or row by row.

    Sequential MNIST, in order or under one fixed permutation, is from Le et al. (2015, arXiv
    1504.00941); Ke et al. (2018) and others use CIFAR-10 by pixel. The input of a step is a pixel's
    channels or a row, scaled to [0, 1]. Only the answer at the last step counts.

    Training, selection, test and confirmation have their own images; see `sabtune.data.images`. A
    length counts as solved at an accuracy of 0.95 for the digits and MNIST, of 0.85 for
    Fashion-MNIST, of 0.6 for CIFAR-10, and of 0.95 for images of your own. For these, chance is the
    share of the most frequent class in training.

    Args:
        config: The configuration. Its `build` method creates the task too.

    Example:
        >>> import sabtune as sab
        >>> task = sab.Pixels.Config(images="cifar10", length=1024).build()
        >>> task.inputs, task.outputs, task.steps(1024), task.solved
        (3, 10, 1024, 0.6)
    """

    loss_unit = "nats an image"
    loss_everywhere = False

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """The configuration of the image task.

        Args:
            length: The number of steps T, at least those of an image. Zeros follow the image.
            images: The set of images: "digits" (64 pixels, 8 rows), "mnist" or "fashion-mnist" (784
                pixels, 28 rows), "cifar10" (1,024 pixels, 32 rows), or the path of images of your
                own: an .npz file, an IDX file or a folder of these, or a folder with PNG files in a
                subfolder for each class. A relative path starts at the folder of the study file, or
                else at the current folder.
            by: What a step shows: "pixel" or "row".
            permutation: The number of a fixed permutation of every image's steps, at least 0. It is
                the same on every machine (`sabtune.data.images.fixed_order`). None keeps their
                order.
            splits: The shares of training, validation and test in images of your own without a test
                set; they add up to 1. Defaults to 0.8, 0.1 and 0.1. Half of the validation part is
                for selection and half for test; the test part is for confirmation.
            split_seed: The seed by which images of your own are divided into parts, at least 0.
            content: What images of your own hold. It is read from the files, and recorded.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.
            DataError: Images of your own can't be read.

        Example:
            >>> import sabtune as sab
            >>> config = sab.Pixels.Config(length=8, by="row", permutation=0)
            >>> config.shown, config.inputs, config.order
            (8, 8, [0, 6, 4, 2, 5, 3, 7, 1])
        """

        length: int = 64
        images: str | Path = "digits"
        by: By = "pixel"
        permutation: int | None = None
        splits: tuple[float, ...] | None = None
        split_seed: int = 0
        content: ImageContent | None = field(default=None, repr=False)

        data_paths = ("images",)

        def __post_init__(self) -> None:
            check_whole("split_seed", self.split_seed, least=0)
            if self.included is None:
                self._read()
            else:
                for name in ("splits", "split_seed", "content"):
                    value = getattr(self, name)
                    check(not value, name, value, f"nothing, since {self.images} has its own")
            if self.permutation is not None:
                check_whole("permutation", self.permutation, least=0)
            self.check_fits(self.length)

        def _read(self) -> None:
            """Fill in the absolute path and the content of the user's own images."""
            path = place.absolute(self.images)
            if self.splits is not None:
                check_splits(self.splits)
            content, key = self.content, settings_key(self.splits, self.split_seed)
            if content is not None and content.read_as not in ("", key):
                content = None  # a copy with other settings
            if content is None and place.is_code_only():
                content = own_images.MADE_UP
            elif content is None:
                kinds = "an .npz file, an IDX file, or a folder of IDX or PNG files"
                check_own("images", str(self.images), (*IMAGE_SETS,), path, kinds)
                content = own_images.read(path, self.splits, self.split_seed).content
                content = replace(content, read_as=key)
            object.__setattr__(self, "images", path)
            object.__setattr__(self, "content", content)

        @property
        def included(self) -> str | None:
            """The name of the set of images if it is not the user's own."""
            return (
                self.images if isinstance(self.images, str) and self.images in IMAGE_SETS else None
            )

        @property
        def size(self) -> tuple[int, int, int]:
            """The height, width and channels of an image."""
            known = self.content or IMAGE_SETS[str(self.images)]
            return known.height, known.width, known.channels

        @property
        def shown(self) -> int:
            """The number of steps of an image."""
            rows, columns, _ = self.size
            return rows if self.by == "row" else rows * columns

        @property
        def inputs(self) -> int:
            """The number of values of a step."""
            _, columns, channels = self.size
            return channels * (columns if self.by == "row" else 1)

        def load(self) -> Images:
            """Read the images. Raises DataError if they are missing, damaged or changed."""
            if self.included is not None:
                return images.load(self.included)
            assert self.content is not None
            check_unchanged(self.content.sha256, self.build().datasets())
            return own_images.read(str(self.images), self.splits, self.split_seed).parts

        @property
        def order(self) -> list[int]:
            """The step of the image that is shown at each step."""
            if self.permutation is None:
                return list(range(self.shown))
            return images.fixed_order(self.shown, self.permutation)

        def check_fits(self, length: int) -> None:
            """Check that an image has at most `length` steps.

            Raises:
                ConfigError: An image has more steps.
            """
            wanted = f"at least {self.shown}, the steps of an image of {self.images} by {self.by}"
            check(length >= self.shown, "length", length, wanted)

        def build(self) -> Pixels:
            return Pixels(self)

    def __init__(self, config: Config):
        self.config = config
        self.length = config.length
        self.inputs = config.inputs
        content = config.content
        if content is None:
            self.outputs, self.chance = images.CLASSES, 1 / images.CLASSES
            self.solved, self.top = SOLVED[str(config.images)], IMAGE_SETS[str(config.images)].top
        else:
            self.outputs, self.chance = len(content.classes), content.majority
            self.solved, self.top = OWN_SOLVED, own_images.TOP

    def steps(self, length: int) -> int:
        self.config.check_fits(length)
        return length

    def datasets(self) -> Mapping[str, str]:
        config = self.config
        if config.included is not None:
            return {config.included: images.identity(config.included)}
        return {Path(config.images).name: own_images.identity(str(config.images))}

    def batches(
        self,
        length: int,
        stream: Stream,
        generator: torch.Generator,
        device: torch.device = CPU,
    ) -> Source:
        T = self.steps(length)
        pixels, classes = _load_steps(self.config, stream, device, place.folder())

        def make(numbers: Tensor) -> Batch:
            return classification(pixels[numbers] / self.top, classes[numbers], T)

        return Shuffled(len(classes), make, generator, device)


@functools.lru_cache(maxsize=8)
def _load_steps(
    config: Pixels.Config, stream: Stream, device: torch.device, folder: Path
) -> tuple[Tensor, Tensor]:
    """Return a part's images as steps, uint8 (N, steps, inputs) in order, and classes (N,).

    Both are on `device`, and cached per process.
    """
    pixels, classes = config.load()[stream]
    steps = pixels.reshape(len(pixels), config.shown, config.inputs)
    return moved(steps[:, config.order].contiguous(), device), moved(classes, device)
