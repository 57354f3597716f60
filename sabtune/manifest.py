"""The files of a checkpoint, with a manifest of their sizes and SHA-256 digests.

manifest.json   {"format": 4, "files": {NAME: {"size": bytes, "sha256": hex}}}

The manifest is written last. Checkpoints of formats 2 and 3 have none. `read` returns the bytes
that it hashes, because it opens each file only once. It refuses symbolic links and everything else
that is not a regular file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sabtune.errors import CheckpointError

MANIFEST, PROGRESS = "manifest.json", "progress.json"

FILES = (MANIFEST, PROGRESS)
"""The files that `read` needs besides those that it returns."""

FORMAT = 4
WITHOUT_MANIFEST = (2, 3)
"""The formats that have no manifest."""

LARGEST_MANIFEST_BYTES = 2**20
LARGEST_JSON_BYTES = 2**28
MAX_REASON_CHARACTERS = 200
"""The maximum length of the cause in a message, in characters."""

JUNK = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RuntimeError,
)
"""The exceptions that parsing invalid content raises. RecursionError is a RuntimeError."""

INSTEAD = "use another checkpoint"


@dataclass(frozen=True)
class Content:
    """The content of files of a checkpoint.

    files: the bytes of each file, by name. verified: whether they match a manifest; False if the
    checkpoint has none.
    """

    files: Mapping[str, bytes]
    verified: bool


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write files and then their manifest to `directory`, which is created if needed."""
    directory.mkdir(parents=True, exist_ok=True)
    entries = {}
    for name, data in files.items():
        (directory / name).write_bytes(data)
        entries[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    part = directory / f"{MANIFEST}.part"
    part.write_text(json.dumps({"format": FORMAT, "files": entries}, indent=2) + "\n")
    part.replace(directory / MANIFEST)


def read(directory: Path, names: Sequence[str]) -> Content:
    """Read files of a checkpoint and verify them.

    Raises CheckpointError, which names the file and the problem, if a file is missing or differs
    from its manifest entry.
    """
    entries = _read_entries(directory)
    if entries is None:
        files = {name: _read_bytes(directory / name, _size_limit(name)) for name in names}
        return Content(files, verified=False)
    return Content(
        {name: _read_verified(directory / name, entries) for name in names}, verified=True
    )


def json_object(directory: Path, name: str, data: bytes) -> dict[str, Any]:
    """Parse the content of a file. Raises CheckpointError if it is not a JSON object."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError, MemoryError) as problem:
        raise damaged(directory / name, problem) from None
    if not isinstance(content, dict):
        raise damaged(directory / name, ValueError("not a JSON object"))
    return content


def damaged(path: Path, problem: BaseException) -> CheckpointError:
    """Return the error, on one line, for a file or a whole checkpoint that cannot be read."""
    reason = getattr(problem, "strerror", None) or " ".join(str(problem).split())
    reason = reason[:MAX_REASON_CHARACTERS] or type(problem).__name__
    return CheckpointError(f"{path} can't be read ({reason}): {INSTEAD}")


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Convert the exceptions that invalid content raises into CheckpointError."""
    try:
        yield
    except torch.OutOfMemoryError:  # the device is full; the content may be valid
        raise
    except JUNK as problem:
        raise damaged(path, problem) from None


def _read_entries(directory: Path) -> Mapping[str, Any] | None:
    """Return the manifest's entries by file name; None for a checkpoint of a format without one.

    Raises CheckpointError if the manifest is missing or damaged, or has another format.
    """
    if not os.path.lexists(directory / MANIFEST):
        if _needs_manifest(directory):
            raise CheckpointError(f"{directory} lacks {MANIFEST}: {INSTEAD}")
        return None
    data = _read_bytes(directory / MANIFEST, LARGEST_MANIFEST_BYTES)
    content = json_object(directory, MANIFEST, data)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{directory / MANIFEST} has format {str(content.get('format'))[:20]}, "
            f"and this version of sabtune reads {FORMAT}: {INSTEAD}"
        )
    entries = content.get("files")
    if not isinstance(entries, dict):
        raise CheckpointError(f"{directory / MANIFEST} lists no files: {INSTEAD}")
    return entries


def _needs_manifest(directory: Path) -> bool:
    """Return whether a checkpoint without a manifest must have had one."""
    try:
        data = _read_bytes(directory / PROGRESS, LARGEST_JSON_BYTES)
        number = json_object(directory, PROGRESS, data).get("format")
    except CheckpointError:
        return False  # reading that file for its content reports the problem
    return isinstance(number, int) and number > max(WITHOUT_MANIFEST)


def _read_verified(path: Path, entries: Mapping[str, Any]) -> bytes:
    """Read a file. Raises CheckpointError if it differs from its manifest entry."""
    entry = entries.get(path.name)
    if not isinstance(entry, dict) or type(entry.get("size")) is not int:
        raise CheckpointError(f"{path} isn't in its manifest: {INSTEAD}")
    data = _read_bytes(path, entry["size"])
    if len(data) != entry["size"] or hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise CheckpointError(f"{path} isn't what was saved (another SHA-256): {INSTEAD}")
    return data


def _size_limit(name: str) -> int | None:
    return LARGEST_JSON_BYTES if name.endswith(".json") else None


def _read_bytes(path: Path, limit: int | None) -> bytes:
    """Read a regular file. Raises CheckpointError if it has more than `limit` bytes."""
    try:
        with open(path, "rb", opener=_open_regular) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path} is not a regular file: {INSTEAD}")
            if limit is not None and status.st_size > limit:
                raise CheckpointError(
                    f"{path} has {status.st_size} bytes, more than {limit}: {INSTEAD}"
                )
            return file.read()
    except (OSError, MemoryError) as problem:
        is_link = getattr(problem, "errno", None) == errno.ELOOP
        raise damaged(path, OSError(0, "a symbolic link") if is_link else problem) from problem


def _open_regular(path: str, flags: int) -> int:
    """Open a file without following a link, and without waiting for the writer of a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
