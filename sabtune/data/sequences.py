"""Read labeled sequences of the user from an .npz file."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sabtune.data import place
from sabtune.data.digests import Stamp, stamp
from sabtune.data.labeled import Array, classes_of, majority, npz_digest, parts_of, read_arrays
from sabtune.data.place import damaged
from sabtune.schema import Config
from sabtune.seeding import Stream


@dataclass(frozen=True, kw_only=True)
class SequenceContent(Config):
    """The content of a file of sequences, as it was first read.

    sha256: the digest of the arrays. steps, inputs: of each sequence. classes: the labels, in the
    order of the classes. sequences: the number of sequences for training, selection, test and
    confirmation. majority: the share of the most frequent class in training. read_as: the settings
    that it was read with.
    """

    sha256: str
    steps: int
    inputs: int
    classes: tuple[str, ...]
    sequences: tuple[int, ...]
    majority: float
    read_as: str = ""


MADE_UP = SequenceContent(
    sha256="", steps=1, inputs=1, classes=("a", "b"), sequences=(), majority=0.5
)
"""The content of sequences that aren't read, see `place.code_only`."""


@dataclass(frozen=True)
class OwnSequences:
    """Sequences that were read: for each part x, float32 (N, T, I), and classes (N,)."""

    parts: Mapping[Stream, tuple[Tensor, Tensor]]
    content: SequenceContent


def identity(location: str) -> str:
    """Return the SHA-256 of the arrays of a file.

    Raises DataError if it is missing, damaged or has other arrays.
    """
    return npz_digest(place.own(location))


def read(location: str, splits: Sequence[float] | None, seed: int) -> OwnSequences:
    """Read sequences, cached per process until the file changes.

    splits, seed: how the sequences are divided if there is no test set, see `labeled.divide`.
    Raises DataError if the file is missing, damaged or inconsistent, or if a value is not finite,
    and ConfigError if there are both splits and a test set.
    """
    return _read(stamp(place.own(location)), None if splits is None else tuple(splits), seed)


@functools.lru_cache(maxsize=2)
def _read(state: Stamp, splits: tuple[float, ...] | None, seed: int) -> OwnSequences:
    path = Path(state[0])
    if path.suffix != ".npz":
        raise damaged(path, "not an .npz file")
    (x, y), test = read_arrays(path)
    train = _values(path, x)
    tested = None if test is None else _values(path, test[0])
    if tested is not None and tested.shape[1:] != train.shape[1:]:
        raise damaged(
            path,
            f"test sequences of shape {tested.shape[1:]} and training sequences of shape "
            f"{train.shape[1:]}",
        )
    names, train_classes, test_classes = classes_of(path, y, test[1] if test else None)
    pairs = parts_of(
        path,
        (train, train_classes),
        None if tested is None or test_classes is None else (tested, test_classes),
        splits,
        seed,
    )
    parts = {
        stream: (torch.tensor(values), torch.tensor(labels))
        for stream, (values, labels) in pairs.items()
    }
    _, classes = next(iter(parts.values()))
    content = SequenceContent(
        sha256=npz_digest(path),
        steps=train.shape[1],
        inputs=train.shape[2],
        classes=names,
        sequences=tuple(len(labels) for _, labels in parts.values()),
        majority=majority(classes.numpy()),
    )
    return OwnSequences(parts, content)


def _values(path: Path, x: Array) -> Array:
    """Return sequences as float32 (N, T, I). Raises DataError unless they are finite numbers."""
    if x.dtype.kind not in "fiu":
        raise damaged(path, f"sequences of type {x.dtype}, not numbers")
    if x.ndim not in (2, 3) or 0 in x.shape:
        raise damaged(path, f"sequences of shape {x.shape}, not (N, T, I) or (N, T)")
    with np.errstate(over="ignore"):
        values = x.reshape(*x.shape[:2], -1).astype(np.float32)
    invalid = np.argwhere(~np.isfinite(values))
    if len(invalid):
        n, t, i = invalid[0]
        value = x.reshape(*x.shape[:2], -1)[n, t, i]
        raise damaged(path, f"x[{n}, {t}, {i}] is {value}, not a finite number of 32 bits")
    return values
