"""The lock of a study in PostgreSQL: an advisory lock, which ends with its connection.

A server, a firewall or an administrator may close that connection while a search runs. Therefore a
search checks its lock every few seconds, and before it commits a transaction. The regular checks
also keep the connection from being idle. A search that has lost its lock takes it again. If another
search holds the lock, or has held it in the meantime, this search ends and commits nothing more.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import sqlalchemy
from sqlalchemy import Connection, event
from sqlalchemy.exc import SQLAlchemyError

from sabtune.errors import StoreError
from sabtune.storage import server
from sabtune.storage.store import Store
from sabtune.study.attributes import SEARCHER

if TYPE_CHECKING:
    from sabtune.study.writer import StudyWriter

FRESH_SECONDS = 1.0
"""The seconds for which a successful check of the lock stays valid."""

PERIOD_SECONDS = 5.0
"""The interval in seconds between two checks while nothing is committed."""

LOCK = "SELECT pg_try_advisory_lock(:key)"

HOLDERS = """
SELECT a.pid, a.backend_start::text, a.pid = pg_backend_pid() AS own
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32) | l.objid::bigint = :key
"""

HELD_KEYS = """
SELECT (classid::bigint << 32) | objid::bigint
FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

OWN_BACKEND = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"


def held_keys(store: Store) -> set[int]:
    """Return the keys of all advisory locks in the store's database. This takes no lock.

    Raises SQLAlchemy's errors if the server can't be reached.
    """
    engine = sqlalchemy.create_engine(store.optuna_url, poolclass=sqlalchemy.NullPool)
    with server.opening(engine.connect) as connection:
        return {int(key) for (key,) in connection.execute(sqlalchemy.text(HELD_KEYS))}


class TakenError(StoreError):
    """An error raised when another search holds the lock of the study."""


class DatabaseLock:
    """A lock of a study in a database, held by one search. All methods are thread-safe.

    key: the key of the advisory lock. held: the error to raise if another process holds the lock.
    """

    def __init__(self, name: str, store: Store, key: int, held: StoreError):
        self.name, self.store, self.key, self.held = name, store, key, held
        self.engine = sqlalchemy.create_engine(
            store.optuna_url,
            poolclass=sqlalchemy.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args=server.connect_options(store.optuna_url),
        )
        self._guard = threading.RLock()  # protects the attributes below
        self._connection: Connection | None = None
        self._backend: tuple[Any, ...] = ()  # the server process that holds this search's lock
        self._checked_at = 0.0
        self._lost: TakenError | None = None
        self._study: StudyWriter | None = None
        self._token = uuid.uuid4().hex
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Take the lock. Raises the error `held` if another process holds it."""
        if not self._try():
            self.close()
            raise self.held

    def claim(self, study: StudyWriter, lost: Callable[[], None]) -> None:
        """Monitor the lock from now on, and refuse commits to the study while it isn't held.

        lost: called in a background thread when another search holds the lock, or has held it.
        Raises TakenError if another search holds the lock now.
        """
        with self._guard:
            if not self._holds() and not self._try():
                self._lose()
        searcher = {"token": self._token, "host": socket.gethostname(), "process": os.getpid()}
        study.optuna.set_user_attr(SEARCHER, searcher)
        self._study = study
        event.listen(study.internals.engine, "commit", lambda connection: self.check())
        self._thread = threading.Thread(target=self._watch, args=(lost,), daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Check that this search holds the lock, and take it again if it was lost.

        Raises TakenError if another search holds the lock, or has held it since it was lost.
        """
        with self._guard:
            if self._lost is not None:
                raise self._lost
            fresh = time.monotonic() - self._checked_at < FRESH_SECONDS
            if self._closed.is_set() or fresh or self._holds():
                return
            if not self._try():
                self._lose()
            self._refuse_successor()

    def close(self) -> None:
        """Stop monitoring, and release the lock."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        with self._guard:
            self._disconnect()
            self.engine.dispose()

    def _watch(self, lost: Callable[[], None]) -> None:
        while not self._closed.wait(PERIOD_SECONDS):
            try:
                self.check()
            except TakenError:
                lost()
                return
            except SQLAlchemyError:  # the server is unavailable; writes to the study wait for it
                continue

    def _holds(self) -> bool:
        """Return whether the connection is open and holds the lock."""
        if self._connection is None:
            return False
        try:
            held = any(own for *_, own in self._execute(HOLDERS, key=self.key))
        except SQLAlchemyError:
            held = False
        if held:
            self._checked_at = time.monotonic()
        return held

    def _try(self) -> bool:
        """Try to take the lock on a new connection, and return whether that succeeded.

        If a former connection of this search still holds the lock on the server, it is terminated.
        """
        self._disconnect()
        former, self._connection = self._backend, server.opening(self.engine.connect)
        ((taken,),) = self._execute(LOCK, key=self.key)
        if not taken:
            holders = self._execute(HOLDERS, key=self.key)
            if any(tuple(backend) == former for *backend, _ in holders):
                self._execute("SELECT pg_terminate_backend(:pid)", pid=former[0])
                for _ in range(20):
                    ((taken,),) = self._execute(LOCK, key=self.key)
                    if taken:
                        break
                    time.sleep(0.1)
        if taken:
            (backend,) = self._execute(OWN_BACKEND)
            self._backend, self._checked_at = tuple(backend), time.monotonic()
        return bool(taken)

    def _refuse_successor(self) -> None:
        """Give up the lock and raise TakenError if another search has held it in the meantime.

        Every search stores its token in the study when it claims the lock. If the study has another
        token, another search has claimed the lock.
        """
        assert self._study is not None
        rows = self._execute(
            "SELECT value_json FROM study_user_attributes WHERE study_id = :study AND key = :key",
            study=self._study.internals.study_id,
            key=SEARCHER,
        )
        if not any(self._token in str(value) for (value,) in rows):
            self._lose()

    def _lose(self) -> NoReturn:
        """Give up the lock for good, and raise TakenError."""
        self._disconnect()
        self._lost = TakenError(
            f"study {self.name!r} in {self.store.shown} is being searched by another process: the "
            "database closed this search's connection, and the other search took the lock. This "
            "search has ended and writes nothing more"
        )
        raise self._lost

    def _execute(self, statement: str, **values: Any) -> list[Any]:
        """Return the rows of a statement."""
        assert self._connection is not None
        return list(self._connection.execute(sqlalchemy.text(statement), values))

    def _disconnect(self) -> None:
        """Close the connection, which releases the lock."""
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                self._connection.close()
        self._connection = None
