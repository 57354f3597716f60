"""The files of a checkpoint, each with its size and SHA-256 in a manifest that is written last.

manifest.json   {"format": 4, "files": {NAME: {"size": bytes, "sha256": hex}}}

Checkpoints of formats 2 and 3 have no manifest. What is read is what was hashed: a file is opened
once, no link is followed, and nothing but a regular file is opened.
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
"""What `read` looks at beside what it returns."""

FORMAT = 4
WITHOUT_MANIFEST = (2, 3)

LARGEST_MANIFEST_BYTES = 2**20
LARGEST_JSON_BYTES = 2**28

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
"""What comes of content that isn't what it should be; RecursionError is a RuntimeError."""

INSTEAD = "use another checkpoint"


@dataclass(frozen=True)
class Content:
    """Files of a checkpoint by name. `verified`: each is the one that was saved."""

    files: Mapping[str, bytes]
    verified: bool


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write these files into `directory`, which is made if need be, and then their manifest."""
    directory.mkdir(parents=True, exist_ok=True)
    entries = {}
    for name, data in files.items():
        (directory / name).write_bytes(data)
        entries[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    part = directory / f"{MANIFEST}.part"
    part.write_text(json.dumps({"format": FORMAT, "files": entries}, indent=2) + "\n")
    part.replace(directory / MANIFEST)


def read(directory: Path, names: Sequence[str]) -> Content:
    """Return these files of a checkpoint.

    Raises CheckpointError, with the file and what is wrong with it, if one is missing or isn't
    what was saved.
    """
    entries = _entries(directory)
    if entries is None:
        files = {name: _bytes(directory / name, _limit(name)) for name in names}
        return Content(files, verified=False)
    return Content({name: _checked(directory / name, entries) for name in names}, verified=True)


def json_object(directory: Path, name: str, data: bytes) -> dict[str, Any]:
    """Parse a file. Raises CheckpointError if it holds no JSON object."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError, MemoryError) as problem:
        raise damaged(directory / name, problem) from None
    if not isinstance(content, dict):
        raise damaged(directory / name, ValueError("it holds no JSON object"))
    return content


def damaged(path: Path, problem: BaseException) -> CheckpointError:
    """Say in one line that a file, or a whole checkpoint, can't be read."""
    words = getattr(problem, "strerror", None) or " ".join(str(problem).split())
    words = words[:200] or type(problem).__name__
    return CheckpointError(f"{path} can't be read ({words}): {INSTEAD}")


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Turn what content of another kind raises into CheckpointError."""
    try:
        yield
    except torch.OutOfMemoryError:  # the device's
        raise
    except JUNK as problem:
        raise damaged(path, problem) from None


def _entries(directory: Path) -> Mapping[str, Any] | None:
    """Return what the manifest says of each file; None where a checkpoint has none."""
    if not os.path.lexists(directory / MANIFEST):
        if _needs_manifest(directory):
            raise CheckpointError(f"{directory} lacks {MANIFEST}: {INSTEAD}")
        return None
    data = _bytes(directory / MANIFEST, LARGEST_MANIFEST_BYTES)
    content = json_object(directory, MANIFEST, data)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{directory / MANIFEST} has format {str(content.get('format'))[:20]}, "
            f"and this version reads {FORMAT}: {INSTEAD}"
        )
    entries = content.get("files")
    if not isinstance(entries, dict):
        raise CheckpointError(f"{directory / MANIFEST} names no files: {INSTEAD}")
    return entries


def _needs_manifest(directory: Path) -> bool:
    """Return whether a checkpoint without a manifest must have had one."""
    try:
        data = _bytes(directory / PROGRESS, LARGEST_JSON_BYTES)
        number = json_object(directory, PROGRESS, data).get("format")
    except CheckpointError:
        return False  # who needs that file finds out
    return isinstance(number, int) and number > max(WITHOUT_MANIFEST)


def _checked(path: Path, entries: Mapping[str, Any]) -> bytes:
    """Return a file that is as its entry says."""
    entry = entries.get(path.name)
    if not isinstance(entry, dict) or type(entry.get("size")) is not int:
        raise CheckpointError(f"{path} isn't in its manifest: {INSTEAD}")
    data = _bytes(path, entry["size"])
    if len(data) != entry["size"] or hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise CheckpointError(f"{path} isn't what was saved (another SHA-256): {INSTEAD}")
    return data


def _limit(name: str) -> int | None:
    return LARGEST_JSON_BYTES if name.endswith(".json") else None


def _bytes(path: Path, limit: int | None) -> bytes:
    """Return what a file holds. Raises CheckpointError if it has more than `limit` bytes."""
    try:
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path} is no regular file: {INSTEAD}")
            if limit is not None and status.st_size > limit:
                raise CheckpointError(
                    f"{path} has {status.st_size} bytes, more than {limit}: {INSTEAD}"
                )
            return file.read()
    except (OSError, MemoryError) as problem:
        link = getattr(problem, "errno", None) == errno.ELOOP
        raise damaged(path, OSError(0, "a symbolic link") if link else problem) from problem


def _open(path: str, flags: int) -> int:
    """Open a file, not what a link leads to, and without waiting for who would write to a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
