"""Read labeled images of the user, from IDX files, an .npz file, or folders of PNG files."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sabtune.data import place
from sabtune.data.digests import Stamp, combined, content_digest, stamp, unreadable
from sabtune.data.formats import read_idx
from sabtune.data.images import Images
from sabtune.data.labeled import (
    Array,
    check_pair,
    classes_of,
    majority,
    npz_digest,
    parts_of,
    read_arrays,
)
from sabtune.data.place import damaged
from sabtune.schema import Config

TOP = 255
"""The largest pixel value."""

MAX_CHANNELS = 4

IDX_IMAGES = re.compile(r"images([-.])idx[34]")
"""The part of the name of an IDX file by which it holds images; its labels differ in it."""

MODES = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB"}
"""The modes of a PNG file that can be read, and the mode that each is converted to."""

Pairs = tuple[tuple[Array, Array], "tuple[Array, Array] | None"]
"""Images and labels of the training set and, if there is one, the test set."""


@dataclass(frozen=True, kw_only=True)
class ImageContent(Config):
    """The content of a set of images of the user, as it was first read.

    sha256: the digest of the files. height, width: of an image in pixels. classes: the labels, in
    the order of the classes. images: the number of images for training, selection, test and
    confirmation. majority: the share of the most frequent class in training. read_as: the settings
    that it was read with.
    """

    sha256: str
    height: int
    width: int
    channels: int
    classes: tuple[str, ...]
    images: tuple[int, ...]
    majority: float
    read_as: str = ""


MADE_UP = ImageContent(
    sha256="", height=1, width=1, channels=1, classes=("a", "b"), images=(), majority=0.5
)
"""The content of images that aren't read, see `place.code_only`."""


@dataclass(frozen=True)
class OwnImages:
    """Images that were read, by part, and what they hold."""

    parts: Images
    content: ImageContent


def identity(location: str) -> str:
    """Return the SHA-256 of images: of the arrays of an .npz file, or else of the files' content.

    Raises DataError if a file is missing or can't be read.
    """
    path = place.own(location)
    if path.is_dir():
        files = _files(path)
    elif path.suffix == ".npz":
        return npz_digest(path)
    else:
        files = [path, *_labels_of(path)]
    folder = path if path.is_dir() else path.parent
    return combined(
        {str(f.relative_to(folder)).removesuffix(".gz"): content_digest(f) for f in files}
    )


def read(location: str, splits: Sequence[float] | None, seed: int) -> OwnImages:
    """Read images, cached per process until a file changes.

    location: an .npz file, an IDX file of images with its labels next to it, or a folder of IDX
    files or of PNG files. splits, seed: how the images are divided if there is no test set, see
    `labeled.divide`.

    Raises DataError if a file is missing, damaged or inconsistent, and ConfigError if there are
    both splits and a test set.
    """
    path = place.own(location)
    return _read(str(path), _stamps(path), None if splits is None else tuple(splits), seed)


def _stamps(path: Path) -> tuple[Stamp, ...]:
    return tuple(map(stamp, _files(path) if path.is_dir() else [path, *_labels_of(path)]))


def _files(folder: Path) -> list[Path]:
    """Return the visible files of a folder that belong to its images: IDX files, or all."""
    if idx := _idx_files(folder):
        return sorted({*idx, *(labels for file in idx for labels in _labels_of(file))})
    return [file for entry in _entries(folder) for file in _tree(entry)]


def _tree(entry: Path) -> Iterator[Path]:
    """Yield a file, or the visible files below a folder."""
    if entry.is_dir():
        for inner in _entries(entry):
            yield from _tree(inner)
    else:
        yield entry


def _idx_files(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if IDX_IMAGES.search(entry.name)]


@functools.lru_cache(maxsize=2)
def _read(
    location: str, stamps: tuple[Stamp, ...], splits: tuple[float, ...] | None, seed: int
) -> OwnImages:
    path = Path(location)
    (x, y), test = _pairs(path)
    for images, labels in ((x, y), *([test] if test else [])):
        _check_images(path, images)
        check_pair(path, images, labels)
        if images.shape[1:] != x.shape[1:]:
            raise damaged(path, f"images of {_size(images)} and of {_size(x)}")
    names, train_classes, test_classes = classes_of(path, y, test[1] if test else None)
    pairs = parts_of(
        path,
        (x, train_classes),
        None if test is None or test_classes is None else (test[0], test_classes),
        splits,
        seed,
    )
    parts = {
        stream: (
            torch.tensor(pixels.reshape(*pixels.shape[:3], -1)),
            torch.tensor(labels),
        )
        for stream, (pixels, labels) in pairs.items()
    }
    training, classes = next(iter(parts.values()))
    height, width, channels = training.shape[1:]
    content = ImageContent(
        sha256=identity(location),
        height=height,
        width=width,
        channels=channels,
        classes=names,
        images=tuple(len(labels) for _, labels in parts.values()),
        majority=majority(classes.numpy()),
    )
    return OwnImages(parts, content)


def _check_images(path: Path, images: Array) -> None:
    """Raise DataError unless images are uint8 (N, H, W) or (N, H, W, C)."""
    if images.dtype != np.uint8:
        raise damaged(path, f"images of type {images.dtype}, not uint8 from 0 to {TOP}")
    channels = images.shape[3] if images.ndim == 4 else 1
    if images.ndim not in (3, 4) or not 1 <= channels <= MAX_CHANNELS or 0 in images.shape[1:]:
        raise damaged(path, f"images of shape {images.shape}, not (N, H, W) or (N, H, W, C)")


def _size(images: Array) -> str:
    return " × ".join(map(str, images.shape[1:]))


def _pairs(path: Path) -> Pairs:
    """Read the images and labels at a path, of whatever kind."""
    if path.is_dir():
        idx = _idx_files(path)
        return _idx_folder(path, idx) if idx else _png_folder(path)
    if path.suffix == ".npz":
        return read_arrays(path)
    if IDX_IMAGES.search(path.name):
        return _idx_pair(path), None
    raise damaged(
        path,
        "not an .npz file, a folder, or an IDX file named like train-images-idx3-ubyte",
    )


def _labels_of(path: Path) -> list[Path]:
    """Return the path of the labels that belong to an IDX file of images, if they are there."""
    labels = path.with_name(IDX_IMAGES.sub(r"labels\1idx1", path.name))
    return [labels] if labels != path and labels.is_file() else []


def _idx_pair(path: Path) -> tuple[Array, Array]:
    """Read IDX files of images and of their labels."""
    labels = _labels_of(path)
    if not labels:
        name = IDX_IMAGES.sub(r"labels\1idx1", path.name)
        raise damaged(path, f"there is no {name} with its labels next to it")
    return read_idx(path, 4 if "idx4" in path.name else 3), read_idx(labels[0], 1)


def _idx_folder(folder: Path, files: Sequence[Path]) -> Pairs:
    """Read the IDX files of a folder: one pair, or a training pair and a test pair."""
    stems = [file.name.removesuffix(".gz") for file in files]
    for stem in stems:
        if stems.count(stem) > 1:
            raise damaged(folder, f"it has both {stem} and {stem}.gz")
    if len(files) == 1:
        return _idx_pair(files[0]), None
    train = [file for file in files if "train" in file.name]
    test = [file for file in files if re.search("t10k|test", file.name)]
    if len(files) > 2 or len(train) != 1 or len(test) != 1 or train == test:
        names = ", ".join(stems)
        raise damaged(folder, f"{names} are not one training set and one test set")
    return _idx_pair(train[0]), _idx_pair(test[0])


def _png_folder(folder: Path) -> Pairs:
    """Read a folder with a subfolder of PNG files for each class, or with train and test.

    The folders train and test, if both are there, have such subfolders.
    """
    names = [entry.name for entry in _entries(folder)]
    roles = ("train", "test") if {"train", "test"} <= set(names) else ("",)
    if len(roles) == 2 and len(names) > 2:
        raise damaged(folder, f"it has {', '.join(sorted(names))}, not train and test alone")
    pairs = []
    for role in roles:
        images, labels = [], []
        for directory in _entries(folder / role):
            if not directory.is_dir():
                raise damaged(directory, "not a folder of PNG files that is named for a class")
            for file in _entries(directory):
                images.append(_png(file))
                labels.append(directory.name)
                if images[-1].shape != images[0].shape:
                    sizes = (" × ".join(map(str, image.shape)) for image in (images[-1], images[0]))
                    raise damaged(file, "an image of {}, and others of {}".format(*sizes))
        if not images:
            raise damaged(folder / role, "no folder in it has a PNG file")
        pairs.append((np.stack(images), np.array(labels)))
    return pairs[0], pairs[1] if len(pairs) == 2 else None


def _entries(folder: Path) -> list[Path]:
    """Return the visible entries of a folder, sorted."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as problem:
        raise unreadable(folder, problem) from None


def _png(path: Path) -> Array:
    """Read a PNG file as (H, W) or (H, W, 3). Raises DataError if it is damaged."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            mode = MODES.get(image.mode)
            if mode is None:
                raise damaged(path, f"a PNG file of mode {image.mode}, not gray or RGB of 8 bits")
            return np.asarray(image.convert(mode))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        reason = " ".join(str(problem).split()).replace(str(path), path.name)
        raise damaged(path, f"not a complete PNG file: {reason}") from None
