"""Readers of published formats. Each raises DataError, on one line, for a file that is damaged."""

from __future__ import annotations

import gzip
import io
import math
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sabtune.data.place import damaged

Bytes = NDArray[np.uint8]

IDX_BYTES = 0x08
"""The type code of unsigned bytes in an IDX file."""

MOST_BYTES = 1 << 28
"""Of what is in a file; the largest, CIFAR-10's, has 184 million."""

TOO_MUCH = f"it unpacks to more than {MOST_BYTES:,} bytes"

CIFAR_SHAPE = (3, 32, 32)
CIFAR_RECORD = 1 + math.prod(CIFAR_SHAPE)
CIFAR_CLASSES = 10


def read_idx(path: Path, dimensions: int) -> Bytes:
    """A gzipped IDX file of unsigned bytes, such as MNIST's (LeCun, Cortes and Burges).

    Two zero bytes, the type, the number of dimensions, each size as a big-endian 32-bit number,
    then the values, the last dimension fastest.
    """
    try:
        with gzip.open(path) as file:
            content = _bounded(file)
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
        with gzip.open(path) as file, tarfile.open(fileobj=_Counting(file), mode="r|") as archive:
            contents = _members(archive, members)
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as problem:
        raise damaged(path, " ".join(str(problem).split()) or "no whole archive") from None
    return [_cifar10(path, member, contents[member]) for member in members]


def _cifar10(path: Path, member: str, content: bytes) -> tuple[Bytes, Bytes]:
    if not content or len(content) % CIFAR_RECORD:
        wanted = f"{member} has {len(content)} bytes, not some times {CIFAR_RECORD}"
        raise damaged(path, wanted)
    records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR_RECORD)
    labels = records[:, 0]
    if labels.max() >= CIFAR_CLASSES:
        raise damaged(path, f"a label of {labels.max()} in {member}, where 0 to 9 are")
    return records[:, 1:].reshape(-1, *CIFAR_SHAPE), labels


def _members(archive: tarfile.TarFile, names: Sequence[str]) -> dict[str, bytes]:
    """What these files hold, read one after the other and never unpacked to a disk. Raises TarError
    if one isn't there, or is no plain file."""
    contents: dict[str, bytes] = {}
    for member in archive:
        if member.name in names and member.name not in contents:
            opened = archive.extractfile(member) if member.isreg() else None
            if opened is None:
                raise tarfile.TarError(f"{member.name} is no file")
            contents[member.name] = opened.read()
        if len(contents) == len(names):
            break
    for name in names:
        if name not in contents:
            raise tarfile.TarError(f"{name} isn't in it")
    return contents


class _Counting(io.BufferedIOBase):
    """A file that is at most `MOST_BYTES` long; raises ValueError for more."""

    def __init__(self, file: gzip.GzipFile):
        self.file, self.left = file, MOST_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        piece = self.file.read(min(size, self.left + 1))
        self.left -= len(piece)
        if self.left < 0:
            raise ValueError(TOO_MUCH)
        return piece


def _bounded(file: IO[bytes] | gzip.GzipFile) -> bytes:
    """A file's content. Raises OSError if it is more than `MOST_BYTES`."""
    content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(TOO_MUCH)
    return content


def read_text(path: Path) -> str:
    """A text file in UTF-8."""
    try:
        with path.open("rb") as file:
            return _decoded(path, _bounded(file))
    except OSError as problem:
        raise damaged(path, str(problem)) from None


def read_zipped_text(path: Path, member: str) -> str:
    """A text file in UTF-8 out of a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(member).file_size > MOST_BYTES:
                raise OSError(TOO_MUCH)
            content = archive.read(member)
    except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, KeyError) as problem:
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
