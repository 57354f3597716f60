"""Sets of labeled images, each divided into a fixed part for each purpose.

Training, selection, test and confirmation (`seeding.Stream`) have one part each:

digits     1,797 images of 8 × 8 from scikit-learn (part of the UCI optical digits of Alpaydin and
           Kaynak), in a fixed random order: 1,097, 200, 200 and 300
mnist      the first 10/12, the next 1/12 and the last 1/12 of the published training file (50,000,
           5,000 and 5,000), and for confirmation the published test file (10,000)
fashion-mnist
           Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017), divided like MNIST
cifar10    the first 18/20, the next 1/20 and the last 1/20 of the five published training batches
           (45,000, 2,500 and 2,500), and for confirmation the published test batch (10,000)

Only confirmations read the published test data. A search never does. The content of the files is
checked against the published digests: other content is refused (`sabtune.data.published`).
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

from sabtune.data import place, published
from sabtune.data.catalogue import DATA_SETS
from sabtune.data.formats import Bytes, read_cifar10, read_idx
from sabtune.errors import DataError
from sabtune.seeding import Stream

PARTS = (Stream.TRAINING, Stream.SELECTION, Stream.TEST, Stream.CONFIRMATION)
CLASSES = 10
"""The number of classes, the same in all sets."""

Images = Mapping[Stream, tuple[Tensor, Tensor]]
"""For each purpose, images uint8 (N, height, width, channels), and their classes int64 (N,)."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A set of images: its sizes, and the function that reads it from the data folder.

    height, width: of an image, in pixels. top: the largest pixel value.
    """

    height: int
    width: int
    channels: int
    top: int
    read: Callable[[Path], Images]


def load(name: str) -> Images:
    """Return the images of a set, cached per process.

    Raises DataError if files are missing, damaged or inconsistent.
    """
    return _load(name, place.folder())


@functools.lru_cache(maxsize=2)
def _load(name: str, folder: Path) -> Images:
    parts = IMAGE_SETS[name].read(folder)
    if name in DATA_SETS:
        published.check(name, folder)
    return parts


def identity(name: str) -> str:
    """Return the SHA-256 of a set of images. Raises DataError if its files are missing."""
    if name in DATA_SETS:
        return published.identity(name, place.folder())
    return _digest(name)


@functools.lru_cache
def _digest(name: str) -> str:
    """Return the digest of a set that comes with a package: of its images, then its labels."""
    digest = hashlib.sha256()
    for tensors in zip(*load(name).values(), strict=True):
        for tensor in tensors:
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def fixed_order(count: int, name: object) -> list[int]:
    """Return a permutation of 0 to `count` - 1 that depends only on `count` and `name`.

    The numbers are sorted by the BLAKE2 digest of `name` and the number, so the permutation is the
    same on every machine and in every version.
    """

    def rank(number: int) -> bytes:
        return hashlib.blake2b(f"{name}/{number}".encode(), digest_size=8).digest()

    return sorted(range(count), key=rank)


def read_digits(folder: Path) -> Images:
    """Read the digits from scikit-learn. Raises DataError if it is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from None
    digits = load_digits()
    order = fixed_order(len(digits.images), "digits")
    images = digits.images[order].astype(np.uint8)[..., None]
    cuts = np.cumsum([1097, 200, 200]).tolist()
    return dict(zip(PARTS, cut(images, digits.target[order], cuts), strict=True))


def read_mnist(folder: Path, name: str = "mnist") -> Images:
    """Read MNIST, or a set in its format.

    Raises DataError if a file is missing, damaged or inconsistent.
    """
    images, labels = _mnist(folder, name, "train")
    parts = cut(images, labels, shares(len(labels), 10 / 12, 11 / 12))
    return dict(zip(PARTS, [*parts, *cut(*_mnist(folder, name, "t10k"))], strict=True))


def _mnist(folder: Path, name: str, part: str) -> tuple[Bytes, Bytes]:
    """Read the images (N, 28, 28, 1) and labels of a pair of published files."""
    images_path = place.file(name, f"{part}-images-idx3-ubyte.gz", folder)
    labels_path = place.file(name, f"{part}-labels-idx1-ubyte.gz", folder)
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (28, 28):
        size = f"{images.shape[1]} × {images.shape[2]}"
        raise place.damaged(images_path, f"images of {size}, not 28 × 28")
    if len(images) != len(labels):
        raise place.damaged(labels_path, f"{len(labels)} labels for {len(images)} images")
    if not len(labels):
        raise place.damaged(images_path, "it has no images")
    if labels.max() >= CLASSES:
        raise place.damaged(labels_path, f"a label of {labels.max()}, not 0 to 9")
    return images[..., None], labels


def read_cifar(folder: Path) -> Images:
    """Read CIFAR-10. Raises DataError if the archive is missing or damaged."""
    path = place.file("cifar10", "cifar-10-binary.tar.gz", folder)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    files = read_cifar10(path, [f"cifar-10-batches-bin/{name}" for name in names])
    *batches, test = [(images.transpose(0, 2, 3, 1), labels) for images, labels in files]
    images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    parts = cut(images, labels, shares(len(labels), 18 / 20, 19 / 20))
    return dict(zip(PARTS, [*parts, *cut(*test)], strict=True))


def shares(count: int, *ends: float) -> list[int]:
    """Return the indices that cut `count` items into pieces, which end at the shares `ends`."""
    return [round(count * end) for end in ends]


def cut(images: Bytes, labels: Bytes, at: Sequence[int] = ()) -> list[tuple[Tensor, Tensor]]:
    """Return images and labels as tensors, in pieces cut at these indices."""
    return [
        (torch.tensor(images[a:b]), torch.tensor(labels[a:b], dtype=torch.long))
        for a, b in pairwise([0, *at, len(labels)])
    ]


IMAGE_SETS = {
    "digits": ImageSet(height=8, width=8, channels=1, top=16, read=read_digits),
    "mnist": ImageSet(height=28, width=28, channels=1, top=255, read=read_mnist),
    "fashion-mnist": ImageSet(
        height=28,
        width=28,
        channels=1,
        top=255,
        read=functools.partial(read_mnist, name="fashion-mnist"),
    ),
    "cifar10": ImageSet(height=32, width=32, channels=3, top=255, read=read_cifar),
}
