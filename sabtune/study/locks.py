"""Lock a study, so that only one search at a time writes to it."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import filelock
from sqlalchemy.exc import SQLAlchemyError

from sabtune.databases import advisory_key, failure
from sabtune.errors import ConfigError, SabtuneError, StoreError, UnexpectedError
from sabtune.redaction import redact
from sabtune.storage import locking
from sabtune.storage.store import Store
from sabtune.study.database_lock import DatabaseLock, held_keys

MAX_ERROR_CHARACTERS = 300
"""The maximum number of characters of an exception in a message."""

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""The error numbers of a disk that can't be written."""

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""The error numbers of a file system without locks."""

OBJECT_STORE_SIGNS = ("AWS Error", "google::cloud")
"""Words that occur in the errors of an object store."""

LOCK_TIMEOUT_SECONDS = 1.0
"""The seconds that a search waits for the lock.

A call of `is_held` in another process may hold the lock for a moment."""

LOCK_VARIABLE = "SABTUNE_LOCK_SECONDS"
"""The environment variable with a longer time to wait.

A file server keeps the locks of a machine that was lost for a while, NFS for 90 seconds."""


@contextmanager
def locked(name: str, store: Store) -> Iterator[DatabaseLock | None]:
    """Lock a study on this machine and, if the store has a database server, in the database.

    Yields the lock in the database, or None. Both locks are released when the process ends.

    Raises StoreError if another process holds a lock, or if the store fails inside the block, for
    example because the disk is full. Raises UnexpectedError for any other exception, and writes its
    traceback to a file of the store.
    """
    seconds = _timeout()
    try:
        # a file in place of a lock would outlive a killed search
        file_lock = filelock.FileLock(store.lock(name), timeout=seconds, fallback_to_soft=False)
        with file_lock, _locked_in_database(name, store, seconds) as database_lock:
            yield database_lock
    except filelock.Timeout:
        _check_can_lock(store.lock(name).parent)
        raise _held_error(name, store) from None
    except SabtuneError:
        raise
    except Exception as problem:
        if isinstance(problem, OSError) and problem.errno in NO_LOCKS:
            _check_can_lock(store.lock(name).parent)
        error: SabtuneError | None = _store_error(problem, store)
        error = error or _unexpected_error(problem, store, store.error_log(name))
        raise error from problem


def _timeout() -> float:
    """Return the seconds to wait for a lock. Raises ConfigError if the variable is invalid."""
    text = os.environ.get(LOCK_VARIABLE, str(LOCK_TIMEOUT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"{LOCK_VARIABLE} is {text!r}: give a number of seconds, or unset it")
    return max(seconds, LOCK_TIMEOUT_SECONDS)


def _check_can_lock(folder: Path) -> None:
    """Raise StoreError if the file system of a folder has no locks; ignore other problems."""
    try:
        with locking.held_locks(folder):
            pass
    except OSError as problem:
        if problem.errno in NO_LOCKS:
            raise StoreError(
                f"files in {folder} can't be locked ({problem.strerror}): mount its file system "
                "with locks (Lustre with flock, NFS without nolock), or give another --store"
            ) from None


def _store_error(problem: BaseException | None, store: Store) -> StoreError | None:
    """Return the error to raise if the store caused a problem; None if it didn't.

    Ray Tune and Optuna may have wrapped the exception of the store.
    """
    while problem is not None:
        if isinstance(problem, StoreError):
            return problem
        if isinstance(problem, SQLAlchemyError):
            return StoreError(failure(store.shown, problem, store.optuna_url))
        if isinstance(problem, OSError) and problem.errno in DISK_ERRORS:
            return StoreError(
                f"the store {store.root} can't be written ({problem.strerror}): "
                "make room, then search again; nothing in the store is lost"
            )
        if isinstance(problem, OSError) and any(
            sign in str(problem) for sign in OBJECT_STORE_SIGNS
        ):
            return store.place.failure(problem, "used")
        problem = problem.__cause__ or problem.__context__
    return None


def _unexpected_error(problem: Exception, store: Store, log: Path) -> UnexpectedError:
    """Write the traceback of a problem to `log`, and return the error to raise."""
    lines = "".join(traceback.format_exception(problem))
    try:
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(
                f"{datetime.now().astimezone().isoformat()}\n{redact(lines, store.optuna_url)}\n"
            )
        where = f"its traceback is in {log}"
    except OSError as error:
        where = f"its traceback can't be written to {log} ({error.strerror})"
    words = " ".join(f"{type(problem).__name__}: {problem}".split())[:MAX_ERROR_CHARACTERS]
    return UnexpectedError(
        f"an unexpected problem ended the search ({redact(words, store.optuna_url)}); {where}: "
        "nothing in the store is lost, search again to resume"
    )


def is_held(name: str, store: Store) -> bool:
    """Return whether a search is writing to a study; see `held_names`."""
    return bool(held_names([name], store))


def held_names(names: Iterable[str], store: Store) -> set[str]:
    """Return the studies to which a search is writing, among `names`.

    The check itself writes nothing, and doesn't take the lock in a database server, not even for a
    moment: a search that has lost its connection must be able to take it again. Raises StoreError
    if the server can't be reached.
    """
    names = list(names)
    held = {name for name in names if _is_file_locked(store.lock(name))}
    if store.optuna.is_shared:
        try:
            keys = held_keys(store)
        except SQLAlchemyError as problem:
            raise StoreError(failure(store.shown, problem, store.optuna_url)) from problem
        held |= {name for name in names if advisory_key(name) in keys}
    return held


def _is_file_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no lock file: nobody has searched here
        pass
    return False


def refuse_held(name: str, store: Store) -> None:
    """Raise StoreError if a search is writing to a study. The check itself writes nothing."""
    if is_held(name, store):
        raise _held_error(name, store)


@contextmanager
def _locked_in_database(
    name: str, store: Store, seconds: float = 0.0
) -> Iterator[DatabaseLock | None]:
    """Lock a study in a database server, and yield the lock; None if the store has no server.

    seconds: how long to wait while another process holds the lock.
    """
    if not store.optuna.is_shared:
        yield None
        return
    held, end = _held_error(name, store), time.monotonic() + seconds
    while True:
        lock = DatabaseLock(name, store, advisory_key(name), held)
        try:
            lock.take()
            break
        except SQLAlchemyError as problem:
            raise StoreError(failure(store.shown, problem, store.optuna_url)) from problem
        except StoreError as problem:
            if problem is not held or time.monotonic() >= end:
                raise
            time.sleep(LOCK_TIMEOUT_SECONDS)
    try:
        yield lock
    finally:
        lock.close()


def _held_error(name: str, store: Store) -> StoreError:
    return StoreError(
        f"study {name!r} in {store.shown} is being searched by another process: "
        "wait for it, or give another --store"
    )
