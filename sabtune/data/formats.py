"""Readers of published file formats. They raise DataError for a damaged file."""

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

MAX_BYTES = 1 << 28
"""The limit on a file's uncompressed size. The largest, CIFAR-10, has 184 million bytes."""

TOO_LARGE = f"it unpacks to more than {MAX_BYTES:,} bytes"

CIFAR_SHAPE = (3, 32, 32)
CIFAR_RECORD_BYTES = 1 + math.prod(CIFAR_SHAPE)
CIFAR_CLASSES = 10


def read_idx(path: Path, dimensions: int) -> Bytes:
    """Read an IDX file of unsigned bytes, such as MNIST's (LeCun, Cortes and Burges).

    The file has two zero bytes, the type, the number of dimensions, the size of each dimension as a
    big-endian 32-bit integer, and the values in row-major order. A file whose name ends in ".gz" is
    uncompressed. Returns the values, uint8, in the shape of the file. Raises DataError if the file
    is damaged or has another number of dimensions.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = _read_limited(file)
    except (OSError, EOFError, zlib.error) as problem:
        kind = "gzip" if path.suffix == ".gz" else "IDX"
        raise damaged(path, f"not a complete {kind} file: {problem}") from None
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
    """Read the images (N, 3, 32, 32) and labels (N,) of files in an archive of CIFAR-10.

    path: the archive of the binary version (Krizhevsky, 2009). members: the paths of files in it.
    These have records of 3,073 bytes: a label from 0 to 9, then the red, green and blue values, row
    by row. Returns uint8 arrays for each file. Raises DataError if the archive is damaged or lacks
    a file.
    """
    try:
        with (
            gzip.open(path) as file,
            tarfile.open(fileobj=_LimitedFile(file), mode="r|") as archive,
        ):
            contents = _members(archive, members)
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as problem:
        raise damaged(path, " ".join(str(problem).split()) or "not a complete archive") from None
    return [_cifar10(path, member, contents[member]) for member in members]


def _cifar10(path: Path, member: str, content: bytes) -> tuple[Bytes, Bytes]:
    if not content or len(content) % CIFAR_RECORD_BYTES:
        raise damaged(
            path, f"{member} has {len(content)} bytes, not a multiple of {CIFAR_RECORD_BYTES}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR_RECORD_BYTES)
    labels = records[:, 0]
    if labels.max() >= CIFAR_CLASSES:
        raise damaged(path, f"a label of {labels.max()} in {member}, not 0 to 9")
    return records[:, 1:].reshape(-1, *CIFAR_SHAPE), labels


def _members(archive: tarfile.TarFile, names: Sequence[str]) -> dict[str, bytes]:
    """Return the contents of these files by name, without unpacking them to disk.

    Raises TarError if one is missing or is not a regular file.
    """
    contents: dict[str, bytes] = {}
    for member in archive:
        if member.name in names and member.name not in contents:
            file = archive.extractfile(member) if member.isreg() else None
            if file is None:
                raise tarfile.TarError(f"{member.name} is not a file")
            contents[member.name] = file.read()
        if len(contents) == len(names):
            break
    for name in names:
        if name not in contents:
            raise tarfile.TarError(f"{name} is missing in the archive")
    return contents


class _LimitedFile(io.BufferedIOBase):
    """A file that raises ValueError when more than `MAX_BYTES` are read."""

    def __init__(self, file: gzip.GzipFile):
        self.file, self.remaining = file, MAX_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        data = self.file.read(min(size, self.remaining + 1))
        self.remaining -= len(data)
        if self.remaining < 0:
            raise ValueError(TOO_LARGE)
        return data


def _read_limited(file: IO[bytes] | gzip.GzipFile) -> bytes:
    """Read a file. Raises OSError if it has more than `MAX_BYTES`."""
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(TOO_LARGE)
    return content


def read_text(path: Path) -> str:
    """Read a text file in UTF-8. Raises DataError if it is damaged."""
    try:
        with path.open("rb") as file:
            return _decode(path, _read_limited(file))
    except OSError as problem:
        raise damaged(path, str(problem)) from None


def read_zipped_text(path: Path, member: str) -> str:
    """Read a text file in UTF-8 from a zip archive. Raises DataError if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(member).file_size > MAX_BYTES:
                raise OSError(TOO_LARGE)
            content = archive.read(member)
    except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, KeyError) as problem:
        raise damaged(path, " ".join(str(problem).split())) from None
    return _decode(path, content)


def _decode(path: Path, content: bytes) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise damaged(path, f"not UTF-8 at byte {problem.start:,}") from None
    if not text.strip():
        raise damaged(path, "empty")
    return text
