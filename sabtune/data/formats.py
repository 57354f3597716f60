"""Readers of published formats. Each raises DataError, on one line, for a file that is damaged."""

from __future__ import annotations

import gzip
import math
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sabtune.data.place import damaged

Bytes = NDArray[np.uint8]

IDX_BYTES = 0x08
"""The type code of unsigned bytes in an IDX file."""

CIFAR_SHAPE = (3, 32, 32)
CIFAR_RECORD = 1 + math.prod(CIFAR_SHAPE)
CIFAR_CLASSES = 10


def read_idx(path: Path, dimensions: int) -> Bytes:
    """A gzipped IDX file of unsigned bytes, such as MNIST's (LeCun, Cortes and Burges).

    Two zero bytes, the type, the number of dimensions, each size as a big-endian 32-bit number,
    then the values, the last dimension fastest.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as problem:
        raise damaged(path, f"no whole gzip file: {problem}") from None
    if not content:
        raise damaged(path, "empty")
    magic, header = bytes([0, 0, IDX_BYTES, dimensions]), 4 + 4 * dimensions
    if content[:4] != magic:
        raise damaged(path, f"magic number {content[:4].hex()}, not {magic.hex()}")
    if len(content) < header:
        raise damaged(path, f"{len(content)} bytes, less than its header")
    shape = np.frombuffer(content, ">u4", dimensions, offset=4).tolist()
    if len(content) - header != math.prod(shape):
        size = " × ".join(map(str, shape))
        raise damaged(path, f"{len(content) - header} values where its header says {size}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_cifar10(path: Path, members: Sequence[str]) -> list[tuple[Bytes, Bytes]]:
    """Of each of these files in the archive of CIFAR-10's binary version (Krizhevsky, 2009) the
    images (N, 3, 32, 32) and labels (N,).

    A file is records of 3,073 bytes: a label from 0 to 9, then the red, the green and the blue
    values, row by row.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            contents = [_member(archive, member) for member in members]
    except (OSError, EOFError, zlib.error, tarfile.TarError, KeyError) as problem:
        raise damaged(path, " ".join(str(problem).split()) or "no whole archive") from None
    return [_cifar10(path, *pair) for pair in zip(members, contents, strict=True)]


def _cifar10(path: Path, member: str, content: bytes) -> tuple[Bytes, Bytes]:
    if not content or len(content) % CIFAR_RECORD:
        wanted = f"{member} has {len(content)} bytes, not some times {CIFAR_RECORD}"
        raise damaged(path, wanted)
    records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR_RECORD)
    labels = records[:, 0]
    if labels.max() >= CIFAR_CLASSES:
        raise damaged(path, f"a label of {labels.max()} in {member}, where 0 to 9 are")
    return records[:, 1:].reshape(-1, *CIFAR_SHAPE), labels


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    opened = archive.extractfile(name)
    if opened is None:
        raise tarfile.TarError(f"{name} is no file")
    return opened.read()


def read_text(path: Path) -> str:
    """A text file in UTF-8."""
    return _decoded(path, path.read_bytes())


def read_zipped_text(path: Path, member: str) -> str:
    """A text file in UTF-8 out of a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(member)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, KeyError) as problem:
        raise damaged(path, " ".join(str(problem).split())) from None
    return _decoded(path, content)


def _decoded(path: Path, content: bytes) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise damaged(path, f"not UTF-8 at byte {problem.start:,}") from None
    if not text.strip():
        raise damaged(path, "empty")
    return text
