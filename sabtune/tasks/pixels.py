"""Sequential image classification, pixel by pixel or row by row."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sabtune.data import images, place
from sabtune.data.images import IMAGE_SETS
from sabtune.schema import check, check_whole
from sabtune.seeding import Stream
from sabtune.tasks.base import Task, TaskConfig
from sabtune.tasks.batch import CPU, Batch, last, moved
from sabtune.tasks.source import Shuffled, Source

By = Literal["pixel", "row"]

SOLVED = {"digits": 0.95, "mnist": 0.95, "fashion-mnist": 0.85, "cifar10": 0.6}
"""The accuracies at which a length counts as solved. They are our choice."""


class Pixels(Task):
    """Sequential image classification, pixel by pixel or row by row.

    Sequential MNIST, in order or under one fixed permutation, is from Le et al. (2015, arXiv
    1504.00941); Ke et al. (2018) and others use CIFAR-10 by pixel. The input of a step is a pixel's
    channels or a row, scaled to [0, 1]. Only the answer at the last step counts.

    Training, selection, test and confirmation have their own images; see `sabtune.data.images`. A
    length counts as solved at an accuracy of 0.95 for the digits and MNIST, of 0.85 for
    Fashion-MNIST, and of 0.6 for CIFAR-10.

    Args:
        config: The configuration. Its `build` method creates the task too.

    Example:
        >>> import sabtune as sab
        >>> task = sab.Pixels.Config(images="cifar10", length=1024).build()
        >>> task.inputs, task.outputs, task.steps(1024), task.solved
        (3, 10, 1024, 0.6)
    """

    outputs = images.CLASSES
    chance = 1 / images.CLASSES
    loss_unit = "nats an image"
    loss_everywhere = False

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """The configuration of the image task.

        Args:
            length: The number of steps T, at least those of an image. Zeros follow the image.
            images: The set of images: "digits" (64 pixels, 8 rows), "mnist" or "fashion-mnist" (784
                pixels, 28 rows), or "cifar10" (1,024 pixels, 32 rows).
            by: What a step shows: "pixel" or "row".
            permutation: The number of a fixed permutation of every image's steps, at least 0. It is
                the same on every machine (`sabtune.data.images.fixed_order`). None keeps their
                order.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> config = sab.Pixels.Config(length=8, by="row", permutation=0)
            >>> config.shown, config.inputs, config.order
            (8, 8, [0, 6, 4, 2, 5, 3, 7, 1])
        """

        length: int = 64
        images: Literal["digits", "mnist", "fashion-mnist", "cifar10"] = "digits"
        by: By = "pixel"
        permutation: int | None = None

        def __post_init__(self) -> None:
            if self.permutation is not None:
                check_whole("permutation", self.permutation, least=0)
            self.check_fits(self.length)

        @property
        def shown(self) -> int:
            """The number of steps of an image."""
            image_set = IMAGE_SETS[self.images]
            rows, columns = image_set.height, image_set.width
            return rows if self.by == "row" else rows * columns

        @property
        def inputs(self) -> int:
            """The number of values of a step."""
            image_set = IMAGE_SETS[self.images]
            return image_set.channels * (image_set.width if self.by == "row" else 1)

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
        self.solved = SOLVED[config.images]
        self.inputs = config.inputs

    def steps(self, length: int) -> int:
        self.config.check_fits(length)
        return length

    def datasets(self) -> Mapping[str, str]:
        return {self.config.images: images.identity(self.config.images)}

    def batches(
        self,
        length: int,
        stream: Stream,
        generator: torch.Generator,
        device: torch.device = CPU,
    ) -> Source:
        T, shown = self.steps(length), self.config.shown
        pixels, classes = _load_steps(self.config, stream, device, place.folder())
        top = IMAGE_SETS[self.config.images].top

        def make(numbers: Tensor) -> Batch:
            x = torch.zeros(len(numbers), T, self.inputs, device=device)
            x[:, :shown] = pixels[numbers] / top
            targets = torch.zeros(len(numbers), T, dtype=torch.long, device=device)
            targets[:, -1] = classes[numbers]
            return Batch(x=x, targets=targets, scored=last(1, T))

        return Shuffled(len(classes), make, generator, device)


@functools.lru_cache(maxsize=8)
def _load_steps(
    config: Pixels.Config, stream: Stream, device: torch.device, folder: Path
) -> tuple[Tensor, Tensor]:
    """Return a part's images as steps, uint8 (N, steps, inputs) in order, and classes (N,).

    Both are on `device`, and cached per process.
    """
    pixels, classes = images.load(config.images)[stream]
    steps = pixels.reshape(len(pixels), config.shown, config.inputs)
    return moved(steps[:, config.order].contiguous(), device), moved(classes, device)
