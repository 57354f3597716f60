"""One search at a time writes to a study."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import filelock
import sqlalchemy

from sabtune.errors import StoreError
from sabtune.search import record
from sabtune.store import Store


@contextmanager
def locked(name: str, store: Store) -> Iterator[None]:
    """Holds the study, on this machine and in a shared database. Raises StoreError if it is held.

    Both locks end with the process that holds them.
    """
    try:
        with filelock.FileLock(store.lock(name), timeout=0), _in_database(name, store):
            yield
    except filelock.Timeout:
        raise _held(name, store) from None


def is_held(name: str, store: Store) -> bool:
    """Whether a search is writing to the study right now."""
    try:
        with locked(name, store):
            return False
    except StoreError:
        return True


@contextmanager
def _in_database(name: str, store: Store) -> Iterator[None]:
    if store.database is None or not store.database.startswith("postgresql"):
        yield
        return
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)
    with record.store_of(store).engine.connect() as connection:
        ask = sqlalchemy.text("SELECT pg_try_advisory_lock(:key)")
        if not connection.execute(ask, {"key": key}).scalar():
            raise _held(name, store)
        connection.commit()  # the lock is the connection's, not the transaction's
        yield


def _held(name: str, store: Store) -> StoreError:
    return StoreError(
        f"study {name!r} in {store.shown} is being searched by another process: "
        "wait for it, or give another --store"
    )
