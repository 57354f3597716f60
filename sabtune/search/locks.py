"""One search at a time writes to a study."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

import filelock
import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from sabtune.databases import advisory_key, failure
from sabtune.errors import SabtuneError, StoreError
from sabtune.search import record
from sabtune.store import Store

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""What a disk says that takes no more."""


OBJECT_STORE = ("AWS Error", "google::cloud")
"""What stands in the problems of an object store."""

LOOK_SECONDS = 1.0
"""How long a lock is waited for: who looks whether it is held holds it for a moment."""


@contextmanager
def locked(name: str, store: Store) -> Iterator[None]:
    """Holds the study, on this machine and in a shared database. Raises StoreError if it is held,
    and if the store fails while it is: a disk that is full, a database that went away.

    Both locks end with the process that holds them.
    """
    try:
        with filelock.FileLock(store.lock(name), timeout=LOOK_SECONDS), _in_database(name, store):
            yield
    except filelock.Timeout:
        raise _held(name, store) from None
    except SabtuneError:
        raise
    except Exception as problem:
        failure = _failure(problem, store)
        if failure is None:
            raise
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
        with _in_database(name, store, write=False):
            return False
    except StoreError:
        return True


@contextmanager
def _in_database(name: str, store: Store, *, write: bool = True) -> Iterator[None]:
    if store.database is None or not store.database.startswith("postgresql"):
        yield
        return
    key = advisory_key(name)
    engine = record.store_of(store, write=write).engine
    try:
        with engine.connect() as connection:
            ask = sqlalchemy.text("SELECT pg_try_advisory_lock(:key)")
            if not connection.execute(ask, {"key": key}).scalar():
                raise _held(name, store)
            connection.commit()  # the lock is the connection's, not the transaction's
            yield
    finally:
        engine.dispose()  # a connection that is only given back to the pool keeps the lock


def _held(name: str, store: Store) -> StoreError:
    return StoreError(
        f"study {name!r} in {store.shown} is being searched by another process: "
        "wait for it, or give another --store"
    )
