"""SHA-256 digests of data, computed once per process for each state of a file.

The digest of a file is that of its content, so a file that was compressed again keeps its digest.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from sabtune.errors import DataError

GZIP = b"\x1f\x8b"
"""The first bytes of a gzip file."""

MAX_CONTENT_BYTES = 1 << 32
"""The limit on a file's uncompressed size."""

SHOWN_CHARACTERS = 16
"""The number of characters of a digest in messages."""

Stamp = tuple[str, int, int]
"""A file's path, its size in bytes, and its time of modification in ns."""


def stamp(path: Path) -> Stamp:
    """Return what changes when a file changes. Raises DataError if the file can't be read."""
    try:
        status = path.stat()
    except OSError as problem:
        raise unreadable(path, problem) from None
    return str(path), status.st_size, status.st_mtime_ns


def unreadable(path: Path, problem: OSError) -> DataError:
    """Return the error to raise for a file that the system can't read."""
    return DataError(f"{path} can't be read ({problem.strerror or problem}): give a readable file")


def file_digest(path: Path) -> str:
    """Return the digest of a file as it is stored. Raises DataError if it can't be read."""
    return _digest(stamp(path), False)


def content_digest(path: Path) -> str:
    """Return the digest of a file's content, which is uncompressed if it is a gzip file.

    Raises DataError if it can't be read, or if it is a damaged gzip file.
    """
    return _digest(stamp(path), True)


@functools.lru_cache(maxsize=1 << 17)
def _digest(state: Stamp, unpack: bool) -> str:
    path = Path(state[0])
    try:
        with path.open("rb") as file:
            packed = unpack and file.read(len(GZIP)) == GZIP
            file.seek(0)
            return _sha256(gzip.GzipFile(fileobj=file) if packed else file, packed)
    except (gzip.BadGzipFile, EOFError, zlib.error) as problem:
        raise DataError(f"{path} is not a complete gzip file ({problem}): replace it") from None
    except OSError as problem:
        raise unreadable(path, problem) from None


def _sha256(file: IO[bytes] | gzip.GzipFile, packed: bool) -> str:
    digest, read = hashlib.sha256(), 0
    while chunk := file.read(1 << 20):
        digest.update(chunk)
        read += len(chunk)
        if packed and read > MAX_CONTENT_BYTES:
            raise gzip.BadGzipFile(f"it unpacks to more than {MAX_CONTENT_BYTES:,} bytes")
    return digest.hexdigest()


def combined(digests: Mapping[str, str]) -> str:
    """Return one digest for several files, by name.

    It is the digest of the lines "DIGEST  NAME", which `sha256sum` prints, sorted by name. For a
    single file, it is the file's own.
    """
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def differences(
    recorded: Mapping[str, str], present: Mapping[str, str]
) -> list[tuple[str, str, str | None]]:
    """Return the name, recorded digest and present digest of each data set that changed.

    The present digest is None if no data set has the name. Equal data under other names is no
    difference.
    """
    renamed = recorded.keys().isdisjoint(present)
    if renamed and sorted(recorded.values()) == sorted(present.values()):
        return []
    return [
        (name, digest, present.get(name))
        for name, digest in recorded.items()
        if present.get(name) != digest
    ]


def shown(digest: str) -> str:
    """Return a digest for a message."""
    return f"{digest[:SHOWN_CHARACTERS]}…"
