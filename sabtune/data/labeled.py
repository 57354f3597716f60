"""Labeled examples of the user: checks, classes, and the division into parts."""

from __future__ import annotations

import functools
import hashlib
import lzma
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sabtune.data.digests import MAX_CONTENT_BYTES, Stamp, stamp, unreadable
from sabtune.data.images import fixed_order
from sabtune.data.place import damaged
from sabtune.data.texts import PARTS
from sabtune.schema import check
from sabtune.seeding import Stream

Array = NDArray[Any]
Labels = NDArray[np.int64]

SPLITS = (0.8, 0.1, 0.1)
"""The shares of training, validation and test in examples that have no test set."""

WITH_TEST_SET = (10 / 12, 2 / 12, 0.0)
"""The shares of training, validation and test in a training set, if there is a test set too."""

PAIR = ("x", "y")
TWO_PAIRS = ("x_train", "y_train", "x_test", "y_test")


BROKEN_ZIP = (
    *(zipfile.BadZipFile, EOFError, KeyError, zlib.error, lzma.LZMAError),
    *(RuntimeError, MemoryError),  # encrypted, an unknown compression, or an absurd size
)
"""The exceptions that reading a damaged .npz file raises, besides ValueError and OSError."""


def check_splits(splits: Sequence[float]) -> None:
    """Raise ConfigError unless `splits` are three shares above 0 that add up to 1."""
    valid = len(splits) == 3 and min(splits) > 0 and math.isclose(sum(splits), 1, abs_tol=1e-6)
    wanted = "the shares of training, validation and test, such as (0.8, 0.1, 0.1), which add up"
    check(valid, "splits", splits, f"{wanted} to 1")


def part_ends(splits: Sequence[float]) -> tuple[float, float, float]:
    """Return where the parts for training, selection and test end, as shares of the whole.

    Half of the validation share is for selection and half for test.
    """
    train, valid, _ = splits
    return train, train + valid / 2, train + valid


def read_arrays(path: Path) -> tuple[tuple[Array, Array], tuple[Array, Array] | None]:
    """Read the labeled examples of an .npz file, and the test set if it has one.

    The arrays are x and y, or x_train, y_train, x_test and y_test. Raises DataError if the file is
    damaged, holds Python objects, or has other arrays or another number of labels than examples.
    """
    arrays = list(_load(path).values())
    pairs = list(zip(arrays[::2], arrays[1::2], strict=True))
    for x, y in pairs:
        check_pair(path, x, y)
    return pairs[0], pairs[1] if len(pairs) == 2 else None


def npz_digest(path: Path) -> str:
    """Return the SHA-256 of the arrays that `read_arrays` reads, cached until the file changes.

    It does not depend on their compression. Raises DataError if the file is damaged, holds Python
    objects or has other arrays.
    """
    return _npz_digest(stamp(path))


@functools.lru_cache
def _npz_digest(state: Stamp) -> str:
    return arrays_digest(_load(Path(state[0])))


def _load(path: Path) -> dict[str, Array]:
    """Load the arrays of labeled examples in the order of their names in `PAIR` or `TWO_PAIRS`."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_CONTENT_BYTES:
                raise damaged(path, f"it unpacks to more than {MAX_CONTENT_BYTES:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
            known = names & {*TWO_PAIRS, *PAIR}
            wanted = next((keys for keys in (TWO_PAIRS, PAIR) if known == set(keys)), None)
            if wanted is None:
                held = ", ".join(sorted(names)) or "nothing"
                raise damaged(
                    path, f"it has {held}, not x and y, or x_train, y_train, x_test and y_test"
                )
            arrays = {name: file[name] for name in wanted}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise damaged(path, f"{name} is no array")
        return arrays
    except ValueError as problem:
        if "allow_pickle" in str(problem):
            reason = "an array holds Python objects, such as sequences of unequal lengths"
            raise damaged(path, reason) from None
        raise damaged(path, " ".join(str(problem).split())) from None
    except BROKEN_ZIP as problem:
        raise damaged(path, f"not a complete .npz file: {problem}") from None
    except OSError as problem:
        raise unreadable(path, problem) from None


def arrays_digest(arrays: Mapping[str, Array]) -> str:
    """Return the SHA-256 of arrays by name, with their types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def check_pair(path: Path, x: Array, y: Array) -> None:
    """Raise DataError unless there is one label, a whole number or a text, for each example."""
    if y.ndim != 1:
        raise damaged(path, f"labels of shape {y.shape}, not (N,)")
    if y.dtype.kind not in "iuUb":
        raise damaged(path, f"labels of type {y.dtype}, not whole numbers or texts")
    if x.ndim < 1 or len(x) != len(y):
        raise damaged(path, f"{len(y)} labels for {len(x) if x.ndim else 0} examples")
    if not len(y):
        raise damaged(path, "it has no examples")


def classes_of(
    path: Path, train: Array, test: Array | None
) -> tuple[tuple[str, ...], Labels, Labels | None]:
    """Return the names of the classes, and the class of each label, from 0.

    The classes are the distinct labels of the training set, sorted. Raises DataError if there is
    only one, or if the test set has others.
    """
    distinct, numbers = np.unique(train, return_inverse=True)
    names = tuple(str(label) for label in distinct)
    if len(names) < 2:
        raise damaged(path, f"all its examples are of class {names[0]}")
    if test is None:
        return names, numbers.astype(np.int64), None
    if (train.dtype.kind == "U") != (test.dtype.kind == "U"):
        raise damaged(path, f"labels of type {train.dtype} and {test.dtype}")
    unknown = np.setdiff1d(test, distinct)
    if len(unknown):
        raise damaged(path, f"class {unknown[0]} is in the test set but not in the training set")
    return names, numbers.astype(np.int64), np.searchsorted(distinct, test).astype(np.int64)


def majority(labels: Labels) -> float:
    """Return the share of the most frequent class."""
    return float(np.bincount(labels).max() / len(labels))


def divide(
    path: Path, labels: Labels, splits: Sequence[float] | None, seed: int
) -> list[NDArray[np.int64]]:
    """Return the indices of the examples for training, selection, test and confirmation.

    splits: the shares of training, validation and test; None if there is a test set, which is for
    confirmation: then the list has three entries. Every part has about the same share of each
    class. Which examples it has depends only on `seed`, on every machine and in every version.
    Raises DataError if there are too few examples.
    """
    order = _spread(labels, seed)
    ends = part_ends(splits or WITH_TEST_SET)
    cuts = [0, *(round(len(order) * end) for end in ends)]
    parts = [np.sort(order[a:b]) for a, b in pairwise([*cuts, len(order)])]
    if splits is None:
        parts = parts[:3]
    missing = np.setdiff1d(labels, labels[parts[0]])
    if len(parts[0]) and len(missing):
        few = "1 class has" if len(missing) == 1 else f"{len(missing)} classes have"
        raise damaged(path, f"{few} too few examples: none is left for TRAINING")
    for part, stream in zip(parts, PARTS, strict=False):
        if not len(part):
            raise damaged(
                path, f"{len(labels)} examples are too few: none is left for {stream.name}"
            )
    return parts


def _spread(labels: Labels, seed: int) -> NDArray[np.int64]:
    """Return a fixed order of examples in which each class is spread evenly."""
    place = np.empty(len(labels))
    for number in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == number)
        ranks = np.asarray(fixed_order(len(members), f"{seed}/{number}"), dtype=np.int64)
        place[members[ranks]] = (np.arange(len(members)) + 0.5) / max(len(members), 1)
    ties = np.empty(len(labels), np.int64)
    ties[np.asarray(fixed_order(len(labels), f"{seed}"), dtype=np.int64)] = np.arange(len(labels))
    return np.lexsort((ties, place)).astype(np.int64)


def parts_of(
    path: Path,
    train: tuple[Array, Labels],
    test: tuple[Array, Labels] | None,
    splits: Sequence[float] | None,
    seed: int,
) -> dict[Stream, tuple[Array, Labels]]:
    """Return the examples and the classes of each part.

    splits: None for `SPLITS`, if there is no test set. Raises ConfigError if there are both splits
    and a test set, and DataError if there are too few examples.
    """
    unused = splits is None or test is None
    check(unused, "splits", splits, f"nothing, since {path.name} has a test set")
    x, y = train
    indices = divide(path, y, (splits or SPLITS) if test is None else None, seed)
    parts = [(x[index], y[index]) for index in indices]
    return dict(zip(PARTS, [*parts, *([test] if test is not None else [])], strict=True))
