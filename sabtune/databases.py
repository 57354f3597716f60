"""Databases by their URL: built from paths, made once, read without a change, waited for."""

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
"""How long a statement waits for a SQLite database that another program holds."""

BUSY_NOTICE_SECONDS = 5.0
"""After how long a person is told."""

_BUSY_STEP_SECONDS = 0.5
"""How long SQLite itself waits at a time. In between Python looks for Ctrl-C."""


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file. A path may hold any character."""
    from sqlalchemy import URL, make_url

    plain = f"sqlite:///{path}"
    if make_url(plain).database == str(path):
        return plain
    # with the driver's name MLflow takes no part of the URL for a folder to make
    url = URL.create("sqlite+pysqlite", database=str(path))
    return url.render_as_string(hide_password=False)


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite database; None of another database or server."""
    from sqlalchemy import make_url

    if not url.startswith("sqlite"):
        return None
    return Path(make_url(url).database or "")


def read_only_url(path: Path) -> str:
    """Return the URL by which SQLite reads a file and creates nothing beside it."""
    from sqlalchemy import URL

    option, _, value = _read_only(path).partition("=")
    url = URL.create("sqlite", database=f"file:{quote(str(path))}")
    url = url.update_query_dict({option: value, "uri": "true"})
    return url.render_as_string(hide_password=False)


def _read_only(path: Path) -> str:
    """Return the option that opens a file to read. A file in WAL mode that nobody uses would get
    two more beside it, unless SQLite is told that it doesn't change."""
    with path.open("rb") as file:
        header = file.read(20)
    wal = header[18:20] == b"\2\2" and not path.with_name(f"{path.name}-wal").exists()
    return "immutable=1" if wal else "mode=ro"


def tables(path: Path) -> set[str]:
    """Return the names of a SQLite file's tables, read without a change; none if it isn't there.

    Raises StoreError if the file can't be read or is no SQLite database.
    """
    try:
        if not path.exists():
            return set()
        if not path.is_file():
            raise StoreError(f"{path} is no file: give a database, or a folder, with --store")
        with closing(connect_to_read(path)) as database:
            found = database.cursor().execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return {str(name) for (name,) in found}
    except (sqlite3.Error, OSError) as problem:
        raise StoreError(failure(str(path), problem)) from None


def file_problem(path: Path) -> str:
    """Return why a SQLite file can't be read and written, or "". Nothing is written to find out,
    and one that another program holds is not waited for."""
    try:
        with closing(connect_to_read(path, timeout=0, factory=sqlite3.Connection)) as database:
            database.execute("SELECT name FROM sqlite_master").fetchall()
    except (sqlite3.Error, OSError) as problem:
        return "" if "is locked" in str(problem) else " ".join(str(problem).split())[:200]
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return "" if writable else "it may only be read"


def connect_to_read(path: Path, **options: Any) -> Patient:
    """Open a SQLite file to read, without a change in it or beside it."""
    return connect(f"file:{quote(str(path))}?{_read_only(path)}", uri=True, **options)


def connect(address: str, **options: Any) -> Patient:
    """Open a SQLite database that waits while another program holds it."""
    return cast(Patient, sqlite3.connect(address, **(patience() | options)))


def patience() -> dict[str, Any]:
    """Return the arguments of `sqlite3.connect` that make a connection wait."""
    return {"timeout": _BUSY_STEP_SECONDS, "factory": Patient}


class _PatientCursor(sqlite3.Cursor):
    def execute(self, *arguments: Any) -> Any:
        return _patiently(super().execute, *arguments)

    def executemany(self, *arguments: Any) -> Any:
        return _patiently(super().executemany, *arguments)


class Patient(sqlite3.Connection):
    """A connection whose statements are tried again while another program holds the database."""

    def cursor(self, factory: Any = _PatientCursor) -> Any:
        return super().cursor(factory)

    def commit(self) -> None:
        _patiently(super().commit)


def _patiently(act: Callable[..., Any], *arguments: Any) -> Any:
    began, told = time.monotonic(), False
    while True:
        try:
            return act(*arguments)
        except sqlite3.OperationalError as problem:
            waited = time.monotonic() - began
            if problem.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or waited > BUSY_MINUTES * 60:
                raise
            if waited > BUSY_NOTICE_SECONDS and not told:
                told = True
                logging.getLogger("sabtune").warning(
                    "Another program holds the store's database: waiting for up to "
                    f"{BUSY_MINUTES} minutes until it lets go."
                )
            time.sleep(0.05)


@contextmanager
def making(url: str) -> Iterator[None]:
    """Hold a database while its tables are made, so that one process alone makes them.

    The lock of a SQLite file is a hidden file beside it. Raises what SQLAlchemy raises where
    another database can't be reached.
    """
    path = sqlite_path(url)
    if path is not None:
        import filelock

        with filelock.FileLock(path.with_name(f".{path.name}.lock")):
            yield
        return
    import sqlalchemy

    key = advisory_key(f"tables of {sqlalchemy.make_url(url).database}")
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": key})
        connection.commit()  # the lock is the connection's, not the transaction's
        yield


def advisory_key(name: str) -> int:
    """Return the number by which PostgreSQL knows a lock."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)


def make_file(path: Path, fill: Callable[[str], None]) -> None:
    """Make a SQLite file, once and whole: `fill` gets the URL of a file that is then renamed."""
    with making(sqlite_url(path)):
        if path.exists() and path.stat().st_size:
            return
        part = path.with_name(f".{path.name}.part")
        part.unlink(missing_ok=True)
        fill(sqlite_url(part))
        part.replace(path)


REMEDIES: dict[Sequence[str], str] = {
    ("malformed", "not a database", "disk I/O", "corrupt"): (
        "the file is damaged: put a copy of it in its place, or give another --store"
    ),
    ("is locked",): "another program holds it: end that, then do this again; nothing is lost",
    ("readonly", "unable to open"): (
        "see that its file and folder may be written; a write that broke off is put right by the "
        "next search"
    ),
}


def cause(problem: BaseException, url: str) -> str:
    """Return a database's own words of a problem, in one line, without the password of its URL."""
    words = str(getattr(problem, "orig", None) or problem).strip() or type(problem).__name__
    return redact(words.splitlines()[0], url)


def failure(name: str, problem: BaseException, url: str = "") -> str:
    """Return in one line what is wrong with a database, and what helps."""
    words = first = cause(problem, url)
    for signs, remedy in REMEDIES.items():
        if any(sign in words for sign in signs):
            return f"the database of {name} fails ({first}): {remedy}"
    return (
        f"the database of {name} fails ({first}): see that it runs and has room, then do this "
        "again; nothing that it holds is lost"
    )
