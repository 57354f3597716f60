"""The locks of files, which a network file system may lack, or keep to one machine.

A search holds a lock of the kind flock, and SQLite locks records of its file. A file system may
treat the two kinds differently, so both are tried.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

TAKE: Mapping[str, Callable[[int, int], object]] = {
    "flock": fcntl.flock,
    "SQLite": fcntl.lockf,
}
"""The function that takes a lock, for each kind of lock."""


@contextmanager
def held_locks(folder: Path) -> Iterator[dict[str, str]]:
    """Hold a lock of each kind on a new file of its own, and yield the files' paths by kind.

    Raises OSError if the folder can't be written, or if its file system has no such locks.
    """
    with ExitStack() as stack:
        paths = {}
        for kind, take in TAKE.items():
            file = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix=".lock-"))
            take(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            paths[kind] = file.name
        yield paths


def problem(folder: Path) -> str:
    """Return why files in a folder can't be locked, or "" if they can."""
    try:
        with held_locks(folder):
            return ""
    except OSError as problem:
        return problem.strerror or str(problem)


def not_seen(paths: Mapping[str, str]) -> tuple[str, ...]:
    """Return the kinds of the locks in `paths` that don't hold on this machine.

    paths: what `held_locks` yielded in another process, such as one on another machine. Raises
    OSError if a file can't be opened.
    """
    taken = []
    for kind, path in paths.items():
        file = os.open(path, os.O_RDWR)
        try:
            TAKE[kind](file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken.append(kind)
        except OSError:
            pass
        finally:
            os.close(file)
    return tuple(taken)
