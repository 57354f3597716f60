"""Sets of images with their classes, in fixed parts, one for each purpose.

Training, selection, test and confirmation (`seeding.Stream`) have a part each, of

digits     1,797 images of 8 × 8 from scikit-learn (part of the UCI optical digits of Alpaydin and
           Kaynak), in one fixed order: 1,097, 200, 200 and 300
mnist      of the published training file the first 10 of 12 parts, the 11th and the 12th (50,000,
           5,000 and 5,000); for confirmation the published test file (10,000)
cifar10    of the five published training batches the first 18 of 20 parts, the 19th and the 20th
           (45,000, 2,500 and 2,500); for confirmation the published test batch (10,000)

What was published for tests is so for confirmation alone: no search reads it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sabtune.data import place
from sabtune.data.formats import Bytes, read_cifar10, read_idx
from sabtune.errors import DataError
from sabtune.seeding import Stream

PARTS = (Stream.TRAINING, Stream.SELECTION, Stream.TEST, Stream.CONFIRMATION)
CLASSES = 10
"""Of each of the sets."""

Images = Mapping[Stream, tuple[Tensor, Tensor]]
"""For each purpose the images, uint8 (N, height, width, channels), and their classes (N,)."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A set by its sizes, and how it is read from the data folder; values go from 0 to `top`."""

    height: int
    width: int
    channels: int
    top: int
    read: Callable[[Path], Images]


def load(name: str) -> Images:
    """The images of a set, read once a process.

    Raises DataError if files are missing, damaged, or don't belong together.
    """
    return _load(name, place.folder())


@functools.lru_cache(maxsize=2)
def _load(name: str, folder: Path) -> Images:
    return IMAGE_SETS[name].read(folder)


def fixed_order(count: int, name: object) -> list[int]:
    """0 to count - 1 in an order that `name` alone decides, on every machine and in every version:
    by the BLAKE2 digest of name and number."""

    def rank(number: int) -> bytes:
        return hashlib.blake2b(f"{name}/{number}".encode(), digest_size=8).digest()

    return sorted(range(count), key=rank)


def read_digits(folder: Path) -> Images:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            "the digits come with scikit-learn, which isn't here: pip install scikit-learn"
        ) from None
    found = load_digits()
    order = fixed_order(len(found.images), "digits")
    images = found.images[order].astype(np.uint8)[..., None]
    cuts = np.cumsum([1097, 200, 200]).tolist()
    return dict(zip(PARTS, cut(images, found.target[order], cuts), strict=True))


def read_mnist(folder: Path) -> Images:
    images, labels = _mnist(folder, "train")
    parts = cut(images, labels, shares(len(labels), 10 / 12, 11 / 12))
    return dict(zip(PARTS, [*parts, *cut(*_mnist(folder, "t10k"))], strict=True))


def _mnist(folder: Path, part: str) -> tuple[Bytes, Bytes]:
    """The images (N, 28, 28, 1) and labels of one of the published pairs of files."""
    at = place.file("mnist", f"{part}-images-idx3-ubyte.gz", folder)
    beside = place.file("mnist", f"{part}-labels-idx1-ubyte.gz", folder)
    images, labels = read_idx(at, 3), read_idx(beside, 1)
    if images.shape[1:] != (28, 28):
        raise place.damaged(at, f"images of {images.shape[1]} × {images.shape[2]}, not 28 × 28")
    if len(images) != len(labels):
        raise place.damaged(beside, f"{len(labels)} labels for {len(images)} images")
    if not len(labels):
        raise place.damaged(at, "no image in it")
    if labels.max() >= CLASSES:
        raise place.damaged(beside, f"a label of {labels.max()}, where 0 to 9 are")
    return images[..., None], labels


def read_cifar(folder: Path) -> Images:
    path = place.file("cifar10", "cifar-10-binary.tar.gz", folder)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    found = read_cifar10(path, [f"cifar-10-batches-bin/{name}" for name in names])
    *batches, test = [(images.transpose(0, 2, 3, 1), labels) for images, labels in found]
    images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    parts = cut(images, labels, shares(len(labels), 18 / 20, 19 / 20))
    return dict(zip(PARTS, [*parts, *cut(*test)], strict=True))


def shares(count: int, *ends: float) -> list[int]:
    """Where to cut `count` things so that the pieces end at these shares of all."""
    return [round(count * end) for end in ends]


def cut(images: Bytes, labels: Bytes, at: Sequence[int] = ()) -> list[tuple[Tensor, Tensor]]:
    """Images and labels as tensors, in pieces cut at these numbers."""
    return [
        (torch.tensor(images[a:b]), torch.tensor(labels[a:b], dtype=torch.long))
        for a, b in pairwise([0, *at, len(labels)])
    ]


IMAGE_SETS = {
    "digits": ImageSet(height=8, width=8, channels=1, top=16, read=read_digits),
    "mnist": ImageSet(height=28, width=28, channels=1, top=255, read=read_mnist),
    "cifar10": ImageSet(height=32, width=32, channels=3, top=255, read=read_cifar),
}
