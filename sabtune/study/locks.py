"""One search at a time writes to a study."""

from __future__ import annotations

import errno
import fcntl
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import filelock
from sqlalchemy.exc import SQLAlchemyError

from sabtune.databases import advisory_key, failure
from sabtune.errors import SabtuneError, StoreError, UnexpectedError
from sabtune.redaction import redact
from sabtune.storage import server
from sabtune.storage.store import Store
from sabtune.study.database_lock import DatabaseLock

MOST = 300
"""Characters of an exception that are shown."""

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""What a disk says that takes no more."""


OBJECT_STORE = ("AWS Error", "google::cloud")
"""What stands in the problems of an object store."""

LOOK_SECONDS = 1.0
"""How long a lock is waited for: who looks whether it is held holds it for a moment."""


@contextmanager
def locked(name: str, store: Store) -> Iterator[DatabaseLock | None]:
    """Holds the study, on this machine and in a shared database, whose lock is yielded. Raises
    StoreError if it is held, and if the store fails while it is: a disk that is full, a database
    that went away. Raises UnexpectedError for what nobody foresaw, its traceback in a file of the
    store.

    Both locks end with the process that holds them.
    """
    try:
        lock = filelock.FileLock(store.lock(name), timeout=LOOK_SECONDS)
        with lock, _in_database(name, store) as held:
            yield held
    except filelock.Timeout:
        raise _held(name, store) from None
    except SabtuneError:
        raise
    except Exception as problem:
        failure = _failure(problem, store) or _unexpected(problem, store, store.error_log(name))
        raise failure from problem


def _failure(problem: BaseException | None, store: Store) -> StoreError | None:
    """What to say if a problem came of the store, however Tune and Optuna have wrapped it."""
    while problem is not None:
        if isinstance(problem, StoreError):
            return problem
        if isinstance(problem, SQLAlchemyError):
            return StoreError(failure(store.shown, problem, store.optuna_url))
        if isinstance(problem, OSError) and problem.errno in DISK:
            return StoreError(
                f"the store {store.root} can't be written ({problem.strerror}): "
                "make room, then search again; nothing that it holds is lost"
            )
        if isinstance(problem, OSError) and any(sign in str(problem) for sign in OBJECT_STORE):
            return store.place.failure(problem, "used")
        problem = problem.__cause__ or problem.__context__
    return None


def _unexpected(problem: Exception, store: Store, log: Path) -> UnexpectedError:
    """What to say of any other problem, once its traceback is written down."""
    lines = "".join(traceback.format_exception(problem))
    try:
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(
                f"{datetime.now().astimezone().isoformat()}\n{redact(lines, store.optuna_url)}\n"
            )
        where = f"its traceback is in {log}"
    except OSError as refused:
        where = f"its traceback can't be written to {log} ({refused.strerror})"
    words = " ".join(f"{type(problem).__name__}: {problem}".split())[:MOST]
    return UnexpectedError(
        f"an unexpected problem ended the search ({redact(words, store.optuna_url)}); {where}: "
        "nothing that the store holds is lost, search again to go on"
    )


def is_held(name: str, store: Store) -> bool:
    """Whether a search is writing to the study right now; nothing is written to find out."""
    try:
        with store.lock(name).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody has searched here
        pass
    try:
        with _in_database(name, store):
            return False
    except StoreError:
        return True


@contextmanager
def _in_database(name: str, store: Store) -> Iterator[DatabaseLock | None]:
    if not server.is_server(store.optuna_url):
        yield None
        return
    lock = DatabaseLock(name, store, advisory_key(name), _held(name, store))
    try:
        lock.take()
    except SQLAlchemyError as problem:
        raise StoreError(failure(store.shown, problem, store.optuna_url)) from problem
    try:
        yield lock
    finally:
        lock.close()


def _held(name: str, store: Store) -> StoreError:
    return StoreError(
        f"study {name!r} in {store.shown} is being searched by another process: "
        "wait for it, or give another --store"
    )
