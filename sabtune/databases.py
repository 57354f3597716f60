"""SQLite files, their creation and read-only access, and the errors of any database."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from sabtune.errors import StoreError
from sabtune.redaction import redact

BUSY_MINUTES = 10
"""How long a statement waits for a SQLite database that another program has locked."""

BUSY_NOTICE_SECONDS = 5.0
"""The waiting time after which a warning is logged."""

_BUSY_STEP_SECONDS = 0.5
"""How long SQLite itself waits at a time. Between two waits, Python handles Ctrl-C."""

_RETRY_SECONDS = 0.05

MAX_REASON_CHARACTERS = 200
"""The maximum length of the cause in a message, in characters."""


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file, whose path may contain any character."""
    from sqlalchemy import URL, make_url

    plain = f"sqlite:///{path}"
    if make_url(plain).database == str(path):
        return plain
    # without the driver's name, MLflow may take a part of the URL for a folder and create it
    url = URL.create("sqlite+pysqlite", database=str(path))
    return url.render_as_string(hide_password=False)


def read_only_url(path: Path) -> str:
    """Return a URL by which SQLite reads a file and creates no files beside it."""
    from sqlalchemy import URL

    option, _, value = _read_only_option(path).partition("=")
    url = URL.create("sqlite", database=f"file:{quote(str(path))}")
    url = url.update_query_dict({option: value, "uri": "true"})
    return url.render_as_string(hide_password=False)


def _read_only_option(path: Path) -> str:
    """Return the URL option that opens a SQLite file for reading.

    For an unused file in WAL mode, SQLite would create two more files, unless the option says that
    the file is immutable.
    """
    wal = is_wal(path) and not path.with_name(f"{path.name}-wal").exists()
    return "immutable=1" if wal else "mode=ro"


def is_wal(path: Path) -> bool:
    """Return whether a file is a SQLite database in WAL mode; False if there is no file."""
    try:
        with path.open("rb") as file:
            return file.read(20)[18:] == b"\2\2"
    except FileNotFoundError:
        return False


def tables(path: Path) -> set[str]:
    """Return the names of a SQLite file's tables without changing it; none if it does not exist.

    Raises StoreError if the file cannot be read or is not a SQLite database.
    """
    try:
        if not path.exists():
            return set()
        if not path.is_file():
            raise StoreError(f"{path} is not a file: give a database or a folder with --store")
        with closing(connect_to_read(path)) as database:
            rows = database.cursor().execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return {str(name) for (name,) in rows}
    except (sqlite3.Error, OSError) as problem:
        raise StoreError(failure(str(path), problem)) from None


def file_problem(path: Path) -> str:
    """Return why a SQLite file cannot be read and written, or "" if it can.

    This writes nothing to the file, and does not wait if another program has locked it.
    """
    try:
        with closing(connect_to_read(path, timeout=0, factory=sqlite3.Connection)) as database:
            database.execute("SELECT name FROM sqlite_master").fetchall()
    except (sqlite3.Error, OSError) as problem:
        reason = " ".join(str(problem).split())
        return "" if "is locked" in reason else reason[:MAX_REASON_CHARACTERS]
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return "" if writable else "it is read-only"


def connect_to_read(path: Path, **options: Any) -> Patient:
    """Open a SQLite file for reading, without changing it or creating files beside it."""
    return connect(f"file:{quote(str(path))}?{_read_only_option(path)}", uri=True, **options)


def connect(address: str, **options: Any) -> Patient:
    """Open a SQLite database with a connection that waits while another program has locked it."""
    return cast(Patient, sqlite3.connect(address, **(patience() | options)))


def patience() -> dict[str, Any]:
    """Return the arguments that make `sqlite3.connect` return a waiting connection."""
    return {"timeout": _BUSY_STEP_SECONDS, "factory": Patient}


class _PatientCursor(sqlite3.Cursor):
    def execute(self, *arguments: Any) -> Any:
        return _retry_while_busy(super().execute, *arguments)

    def executemany(self, *arguments: Any) -> Any:
        return _retry_while_busy(super().executemany, *arguments)


class Patient(sqlite3.Connection):
    """A connection that retries statements while another program has locked the database."""

    def cursor(self, factory: Any = _PatientCursor) -> Any:
        return super().cursor(factory)

    def commit(self) -> None:
        _retry_while_busy(super().commit)


def _retry_while_busy(act: Callable[..., Any], *arguments: Any) -> Any:
    start, warned = time.monotonic(), False
    while True:
        try:
            return act(*arguments)
        except sqlite3.OperationalError as problem:
            waited = time.monotonic() - start
            if problem.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or waited > BUSY_MINUTES * 60:
                raise
            if waited > BUSY_NOTICE_SECONDS and not warned:
                warned = True
                logging.getLogger("sabtune").warning(
                    "Another program has locked the store's database. Waiting up to "
                    f"{BUSY_MINUTES} minutes for it."
                )
            time.sleep(_RETRY_SECONDS)


@contextmanager
def making_file(path: Path) -> Iterator[None]:
    """Lock a SQLite file while its tables are created, by a hidden file beside it."""
    import filelock

    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        yield


def advisory_key(name: str) -> int:
    """Return the key of a PostgreSQL advisory lock with this name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)


def make_file(path: Path, fill: Callable[[str], None]) -> None:
    """Create a SQLite file atomically, unless it exists and is not empty.

    fill: a function that creates the tables of the database at a URL. It is called with the URL of
    a temporary file, which is then renamed to `path`.
    """
    if path.exists() and path.stat().st_size:
        return
    with making_file(path):
        if path.exists() and path.stat().st_size:
            return
        part = path.with_name(f".{path.name}.part")
        part.unlink(missing_ok=True)
        fill(sqlite_url(part))
        part.replace(path)


REMEDIES: dict[Sequence[str], str] = {
    ("malformed", "not a database", "disk I/O", "corrupt"): (
        "the file is damaged: restore a copy of it, or give another --store"
    ),
    ("is locked",): "another program holds it: end that program, then try again; no data is lost",
    ("readonly", "unable to open"): (
        "make its file and folder writable; the next search repairs an interrupted write"
    ),
}


def cause(problem: BaseException, url: str) -> str:
    """Return the first line of a database's error message, without the password of its URL."""
    message = str(getattr(problem, "orig", None) or problem).strip() or type(problem).__name__
    return redact(message.splitlines()[0], url)


def failure(name: str, problem: BaseException, url: str = "") -> str:
    """Return a one-line message with a database's error and a remedy.

    name: the database, as the message names it. url: the URL whose password the message hides.
    """
    message = cause(problem, url)
    for signs, remedy in REMEDIES.items():
        if any(sign in message for sign in signs):
            return f"the database of {name} fails ({message}): {remedy}"
    return (
        f"the database of {name} fails ({message}): check that it runs and has disk space, then "
        "try again; no data is lost"
    )
