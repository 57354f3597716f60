"""A database server: few connections, kept alive, and asked again while it is away."""

from __future__ import annotations

import functools
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import Pool

from sabtune.errors import StoreError

T = TypeVar("T")

log = logging.getLogger("sabtune")

PAUSES_SECONDS = (0.2, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0)
"""Between the tries of an operation while the server is away."""

OPENING_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Likewise, at a command's start, of a server that has no connection left."""

NOTICE_SECONDS = 2.0
"""Before a pause of at least this, a person is told."""

CONNECTIONS = 2
"""That a process keeps to a server beside the one of its lock."""

OVERFLOW = 3
"""Further ones, which are closed after use."""

FULL = ("too many clients", "remaining connection slots", "too many connections", "starting up")
"""What a server says that will let us in later."""

MISTAKES = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "permission denied",
    "does not exist",
    "could not translate host name",
)
"""What it says of a mistake: to ask again is of no use."""

KEEPALIVE = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "application_name": "sabtune",
}
"""Options of libpq: a firewall forgets no connection, and a dead one is noticed in a minute."""


def is_server(url: str) -> bool:
    """Return whether a database is PostgreSQL's."""
    return url.startswith("postgresql")


def engine_options(url: str) -> dict[str, Any]:
    """Return the arguments of a server's engine: all engines of a process share its connections."""
    return {"pool": _pool(url)} if is_server(url) else {}


@functools.cache
def _pool(url: str) -> Pool:
    return sqlalchemy.create_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=OVERFLOW,
        pool_pre_ping=True,
        connect_args=connect_options(url),
    ).pool


def connect_options(url: str) -> dict[str, Any]:
    """Return the options of a connection that the URL doesn't give itself."""
    given = sqlalchemy.make_url(url).query
    return {name: value for name, value in KEEPALIVE.items() if name not in given}


def is_passing(problem: BaseException | None) -> bool:
    """Return whether a problem comes of a server that is away, busy or just restarted."""
    while isinstance(problem, StorageInternalError | StoreError):
        problem = problem.__cause__
    lost = isinstance(problem, DBAPIError) and problem.connection_invalidated
    return (lost or isinstance(problem, OperationalError | InterfaceError)) and not any(
        words in str(problem) for words in MISTAKES
    )


def is_full(problem: BaseException | None) -> bool:
    """Return whether a server has no connection left, or is about to be there."""
    return is_passing(problem) and any(words in str(problem) for words in FULL)


def opening(do: Callable[[], T]) -> T:
    """Do what opens a database, again for half a minute while it has no connection left.

    A server that isn't there raises at once: that is a mistake, more likely.
    """
    for pause in OPENING_PAUSES_SECONDS:
        try:
            return do()
        except (SQLAlchemyError, StorageInternalError) as problem:
            if not is_full(problem):
                raise
            time.sleep(pause)
    return do()


def retried(do: Callable[[], T], done: Callable[[], T | None] = lambda: None) -> T:
    """Do something, again after each of the pauses while the server is away.

    done: is asked before each further try what came of the one before, for it may have come to its
    end unheard; None if nothing did.
    """
    tries = 0
    for pause in (*PAUSES_SECONDS, None):
        try:
            tries += 1
            result = done() if tries > 1 else None
            return do() if result is None else result
        except (SQLAlchemyError, StorageInternalError, StoreError) as problem:
            if pause is None or _HURRIED.is_set() or not is_passing(problem):
                raise
            _tell(pause)
            wait(pause)
    raise AssertionError


def _tell(pause: float) -> None:
    """Tell a person, before the first pause that is long enough to be noticed."""
    if pause == min(of for of in PAUSES_SECONDS if of >= NOTICE_SECONDS):
        minutes = sum(PAUSES_SECONDS) / 60
        log.warning("The database doesn't answer: trying again for %.0f minutes.", minutes)


_HURRIED = threading.Event()
"""A person has pressed Ctrl-C: nothing is waited for any more."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def wait(seconds: float) -> None:
    """Pause, until a signal comes: whoever handles it may let the program go on to its end."""
    if threading.current_thread() is not threading.main_thread():
        _HURRIED.wait(seconds)
        return
    with _hurried_by_signals():
        until = time.monotonic() + seconds
        while not _HURRIED.is_set() and time.monotonic() < until:
            time.sleep(min(0.1, seconds))


@contextmanager
def _hurried_by_signals() -> Iterator[None]:
    """Notice signals beside those who handle them."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def hurry(number: int, frame: Any) -> None:
        _HURRIED.set()
        before = handlers[signal.Signals(number)]
        if callable(before):
            before(number, frame)
        elif before is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    noticed = [number for number, of in handlers.items() if of is not signal.SIG_IGN and of]
    for number in noticed:
        signal.signal(number, hurry)
    try:
        yield
    finally:
        for number in noticed:
            if signal.getsignal(number) is hurry:  # else a handler has put another in its place
                signal.signal(number, handlers[number])
