"""Connections to a database server, which are few, and retries while it is unavailable."""

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
"""The pauses between the attempts at an operation while the server is unavailable."""

OPENING_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""The pauses between the attempts to open a database whose server has no free connection."""

NOTICE_SECONDS = 2.0
"""The length of the shortest pause that is preceded by a warning."""

POOL_CONNECTIONS = 2
"""The number of connections that a process keeps open, besides the one of its lock."""

OVERFLOW_CONNECTIONS = 3
"""The maximum number of additional connections, which are closed after use."""

FULL = ("too many clients", "remaining connection slots", "too many connections", "starting up")
"""Words in the errors of a server that will accept connections later."""

MISTAKES = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "permission denied",
    "does not exist",
    "could not translate host name",
)
"""Words in the errors that a retry can't resolve."""

KEEPALIVE = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "application_name": "sabtune",
}
"""Options of libpq that keep idle connections open in firewalls, and detect a dead connection
within about a minute."""


@functools.cache
def pool(url: str) -> Pool:
    """Return the pool of connections that all engines of this process for a server share."""
    return sqlalchemy.create_engine(
        url,
        pool_size=POOL_CONNECTIONS,
        max_overflow=OVERFLOW_CONNECTIONS,
        pool_pre_ping=True,
        connect_args=connect_options(url),
    ).pool


def connect_options(url: str) -> dict[str, Any]:
    """Return the KEEPALIVE options that the URL doesn't set."""
    query = sqlalchemy.make_url(url).query
    return {name: value for name, value in KEEPALIVE.items() if name not in query}


def is_passing(problem: BaseException | None) -> bool:
    """Return whether an error means that a server is down, busy or restarting for the moment."""
    while isinstance(problem, StorageInternalError | StoreError):
        problem = problem.__cause__
    lost = isinstance(problem, DBAPIError) and problem.connection_invalidated
    return (lost or isinstance(problem, OperationalError | InterfaceError)) and not any(
        words in str(problem) for words in MISTAKES
    )


def is_full(problem: BaseException | None) -> bool:
    """Return whether an error means that the server has no free connection or is starting up."""
    return is_passing(problem) and any(words in str(problem) for words in FULL)


def opening(operation: Callable[[], T]) -> T:
    """Return the result of an operation that opens a database.

    It is retried for half a minute while the server has no free connection. If the server can't be
    reached, the error is raised at once, because the address is probably wrong.
    """
    for pause in OPENING_PAUSES_SECONDS:
        try:
            return operation()
        except (SQLAlchemyError, StorageInternalError) as problem:
            if not is_full(problem):
                raise
            time.sleep(pause)
    return operation()


def retried(operation: Callable[[], T], done: Callable[[], T | None] = lambda: None) -> T:
    """Return the result of `operation`, which is retried while the server is unavailable.

    done: called before each retry. It returns the result of the failed attempt if the server
    completed that attempt nonetheless, and None otherwise. Raises the last attempt's exception.
    """
    attempts = 0
    for pause in (*PAUSES_SECONDS, None):
        try:
            attempts += 1
            result = done() if attempts > 1 else None
            return operation() if result is None else result
        except (SQLAlchemyError, StorageInternalError, StoreError) as problem:
            if pause is None or _INTERRUPTED.is_set() or not is_passing(problem):
                raise
            _warn_once(pause)
            wait(pause)
    raise AssertionError


def _warn_once(pause: float) -> None:
    """Log a warning before the first pause of at least NOTICE_SECONDS."""
    if pause == min(seconds for seconds in PAUSES_SECONDS if seconds >= NOTICE_SECONDS):
        minutes = sum(PAUSES_SECONDS) / 60
        log.warning("The database doesn't answer: trying again for up to %.0f minutes.", minutes)


_INTERRUPTED = threading.Event()
"""Set once a signal such as Ctrl-C has arrived: all further pauses are skipped."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def wait(seconds: float) -> None:
    """Sleep until the time is over or a signal arrives.

    The signal's own handler is called. It may raise an exception, or let the program continue.
    """
    if threading.current_thread() is not threading.main_thread():
        _INTERRUPTED.wait(seconds)
        return
    with _interrupted_by_signals():
        deadline = time.monotonic() + seconds
        while not _INTERRUPTED.is_set() and time.monotonic() < deadline:
            time.sleep(min(0.1, seconds))


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Set `_INTERRUPTED` when a signal arrives, and then call the signal's own handler."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def interrupt(number: int, frame: Any) -> None:
        _INTERRUPTED.set()
        handler = handlers[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        elif handler is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    handled = [
        number for number, handler in handlers.items() if handler is not signal.SIG_IGN and handler
    ]
    for number in handled:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in handled:
            if signal.getsignal(number) is interrupt:  # otherwise a handler has replaced it
                signal.signal(number, handlers[number])
