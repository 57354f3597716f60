"""The right to search a study in PostgreSQL: an advisory lock, which ends with its connection.

A server, a firewall or an administrator may end that connection while a search runs. So the lock
is checked every few seconds, which also keeps the connection from being idle, and before a
transaction of the search is committed. If the lock is gone, it is taken again. If another search
has it, or had it in between, this search ends and commits nothing more.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import optuna
import sqlalchemy
from sqlalchemy import Connection, event
from sqlalchemy.exc import SQLAlchemyError

from sabtune.errors import StoreError
from sabtune.storage import server
from sabtune.storage.store import Store

FRESH_SECONDS = 1.0
"""How long after a look the lock is thought to be held."""

PERIOD_SECONDS = 5.0
"""Between two looks while nothing is committed."""

SEARCHER = "searcher"
"""The study's attribute that tells who has searched it last."""

LOCK = "SELECT pg_try_advisory_lock(:key)"

HOLDERS = """
SELECT a.pid, a.backend_start::text, a.pid = pg_backend_pid() AS own
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32) | l.objid::bigint = :key
"""

OWN = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"


class TakenError(StoreError):
    """Another search has the study."""


class DatabaseLock:
    """Holds a study in a database for one search. Every method may be called from any thread.

    key: of the advisory lock. held: what to raise where another process has it.
    """

    def __init__(self, name: str, store: Store, key: int, held: StoreError):
        self.name, self.store, self.key, self.held = name, store, key, held
        self.engine = sqlalchemy.create_engine(
            store.optuna_url,
            poolclass=sqlalchemy.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args=server.connect_options(store.optuna_url),
        )
        self._guard = threading.RLock()  # guards all below
        self._connection: Connection | None = None
        self._backend: tuple[Any, ...] = ()  # who holds it for us
        self._looked = 0.0
        self._lost: TakenError | None = None
        self._study: optuna.Study | None = None
        self._token = uuid.uuid4().hex
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Take the lock. Raises StoreError if another process has it."""
        if not self._try():
            self.close()
            raise self.held

    def claim(self, study: optuna.Study, lost: Callable[[], None]) -> None:
        """From here on look after the lock, and let nothing be committed without it.

        lost: is called once another search has the study.
        """
        with self._guard:
            if not self._holds() and not self._try():
                self._lose()
        searcher = {"token": self._token, "host": socket.gethostname(), "process": os.getpid()}
        study.set_user_attr(SEARCHER, searcher)
        self._study = study
        event.listen(_engine(study), "commit", lambda connection: self.check())
        self._thread = threading.Thread(target=self._watch, args=(lost,), daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise TakenError if another search has the study, or had it since ours took it."""
        with self._guard:
            if self._lost is not None:
                raise self._lost
            fresh = time.monotonic() - self._looked < FRESH_SECONDS
            if self._closed.is_set() or fresh or self._holds():
                return
            if not self._try():
                self._lose()
            self._refuse_successor()

    def close(self) -> None:
        """Let others have it."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        with self._guard:
            self._drop()
            self.engine.dispose()

    def _watch(self, lost: Callable[[], None]) -> None:
        while not self._closed.wait(PERIOD_SECONDS):
            try:
                self.check()
            except TakenError:
                lost()
                return
            except SQLAlchemyError:  # the server is away: who writes waits for it
                continue

    def _holds(self) -> bool:
        """Return whether the connection is there and has the lock."""
        if self._connection is None:
            return False
        try:
            held = any(own for *_, own in self._ask(HOLDERS, key=self.key))
        except SQLAlchemyError:
            held = False
        if held:
            self._looked = time.monotonic()
        return held

    def _try(self) -> bool:
        """Take the lock on a new connection, also from one of ours that hangs on the server."""
        self._drop()
        before, self._connection = self._backend, server.opening(self.engine.connect)
        ((taken,),) = self._ask(LOCK, key=self.key)
        if not taken and any(tuple(of) == before for *of, _ in self._ask(HOLDERS, key=self.key)):
            self._ask("SELECT pg_terminate_backend(:pid)", pid=before[0])
            for _ in range(20):
                ((taken,),) = self._ask(LOCK, key=self.key)
                if taken:
                    break
                time.sleep(0.1)
        if taken:
            (backend,) = self._ask(OWN)
            self._backend, self._looked = tuple(backend), time.monotonic()
        return bool(taken)

    def _refuse_successor(self) -> None:
        """Lose the lock that is held again if another search had it in between."""
        assert self._study is not None
        rows = self._ask(
            "SELECT value_json FROM study_user_attributes WHERE study_id = :study AND key = :key",
            study=self._study._study_id,
            key=SEARCHER,
        )
        if not any(self._token in str(value) for (value,) in rows):
            self._lose()

    def _lose(self) -> None:
        self._drop()
        self._lost = TakenError(
            f"study {self.name!r} in {self.store.shown} is being searched by another process: the "
            "database ended this search's connection and let that one in. This search has ended "
            "and writes nothing more"
        )
        raise self._lost

    def _ask(self, statement: str, **values: Any) -> list[Any]:
        assert self._connection is not None
        return list(self._connection.execute(sqlalchemy.text(statement), values))

    def _drop(self) -> None:
        """Close the connection, and with it the lock."""
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                self._connection.close()
        self._connection = None


def _engine(study: optuna.Study) -> sqlalchemy.Engine:
    """Return the engine of a study's storage, which Optuna may have put behind a cache."""
    storage: Any = study._storage
    engine: sqlalchemy.Engine = getattr(storage, "_backend", storage).engine
    return engine
