"""Databases by their URLs: a SQLite file, or a server with PostgreSQL.

`Database` is the only code that distinguishes the two.
"""

from __future__ import annotations

import functools
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sabtune import databases
from sabtune.errors import StoreError
from sabtune.redaction import hide_password, redact

SCHEMES = ("postgresql:", "postgresql+psycopg:", "sqlite:")
"""The beginnings of the URLs of supported databases."""

REMEDY = "give a folder, postgresql://USER@HOST/DATABASE, or sqlite:////ABSOLUTE/PATH of a file"

PROBE_TIMEOUT_SECONDS = 10
"""The time that `Database.problem` waits for a server."""

MAX_REASON_CHARACTERS = 200


class Opened(Protocol):
    """An object with a connection to a database, such as Optuna's storage."""

    @property
    def engine(self) -> Any:
        """The SQLAlchemy engine."""


T = TypeVar("T", bound=Opened)


class Database(ABC):
    """A database by its URL; see `database_at`.

    file: the file of a SQLite database; None for a server. is_shared: whether it is a server, which
    several machines use at once: a study needs a lock in it, and operations are retried.
    """

    file: Path | None = None
    is_shared = False

    def __init__(self, url: str):
        self.url = url

    @property
    @abstractmethod
    def found(self) -> bool:
        """Whether the database exists, as far as is known without a connection."""

    @abstractmethod
    def is_made(self, table: str) -> bool:
        """Return whether the database has this table, or is a file that isn't empty.

        Raises SQLAlchemy's errors if a server can't be reached.
        """

    @abstractmethod
    def engine_options(self) -> dict[str, Any]:
        """Return the options of an SQLAlchemy engine for many short operations."""

    @property
    @abstractmethod
    def insert(self) -> Callable[..., Any]:
        """SQLAlchemy's statement that inserts rows, with `on_conflict_do_update`."""

    @abstractmethod
    def url_to_read(self, tables: Collection[str]) -> str:
        """Return the URL that opens the database for reading, without changing anything.

        Raises StoreError if the database doesn't have these tables.
        """

    @abstractmethod
    def make(self, open_: Callable[[str], T], tables: Collection[str]) -> T:
        """Open the database to write, and return what `open_` returns.

        open_: called with the URL, creates the tables if they are missing. If several processes
        call this method at once, only one creates them. Raises StoreError if the database belongs
        to another program, because it has other tables than these.
        """

    @abstractmethod
    def making(self) -> AbstractContextManager[None]:
        """Lock the database while its tables are created or changed.

        Raises SQLAlchemy's errors if a server can't be reached.
        """

    @abstractmethod
    def problem(self) -> str:
        """Return why the database can't be written, or "" if it can or doesn't exist yet."""


class SqliteFile(Database):
    """A SQLite file."""

    def __init__(self, url: str, file: Path):
        super().__init__(url)
        self.path = self.file = file

    @property
    def found(self) -> bool:
        return self.path.is_file()

    def is_made(self, table: str) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    def engine_options(self) -> dict[str, Any]:
        """Return options for connections that wait while another program holds the file."""
        return {"connect_args": databases.patience()}

    @property
    def insert(self) -> Callable[..., Any]:
        from sqlalchemy.dialects import sqlite

        return sqlite.insert

    def url_to_read(self, tables: Collection[str]) -> str:
        if not databases.tables(self.path) >= set(tables):
            raise StoreError(
                f"{self.path} is not a database of sabtune's studies: "
                "give the folder of a store with --store"
            )
        return databases.read_only_url(self.path)

    def make(self, open_: Callable[[str], T], tables: Collection[str]) -> T:
        databases.make_file(self.path, lambda url: open_(url).engine.dispose())
        existing = databases.tables(self.path)
        if not existing >= set(tables):
            names = ", ".join(sorted(existing)[:3]) or "none"
            raise StoreError(
                f"{self.path} holds tables of another program ({names} …): "
                "give sabtune a database of its own with --store"
            )
        return open_(self.url)

    def making(self) -> AbstractContextManager[None]:
        return databases.making_file(self.path)

    def problem(self) -> str:
        return databases.file_problem(self.path) if self.path.exists() else ""

    def copy(self, target: Path) -> None:
        """Copy the database to a new file, while others may write to it. Changes nothing."""
        with (
            closing(databases.connect_to_read(self.path)) as source,
            closing(databases.connect(str(target))) as copy,
        ):
            source.backup(copy)

    def is_intact(self, table: str) -> bool:
        """Return whether the file passes SQLite's check and has a table."""
        try:
            with closing(databases.connect_to_read(self.path)) as database:
                (result,) = database.execute("PRAGMA quick_check").fetchone()
                return bool(result == "ok") and table in databases.tables(self.path)
        except (sqlite3.Error, OSError, StoreError):
            return False


class Server(Database):
    """A database of a server with PostgreSQL."""

    is_shared = True

    @property
    def found(self) -> bool:
        return True

    def is_made(self, table: str) -> bool:
        import sqlalchemy

        from sabtune.storage import server

        engine = sqlalchemy.create_engine(self.url, **self.engine_options())
        return server.opening(lambda: sqlalchemy.inspect(engine).has_table(table))

    def engine_options(self) -> dict[str, Any]:
        """Return options by which all engines of a process share a pool of connections."""
        from sabtune.storage import server

        return {"pool": server.pool(self.url)}

    @property
    def insert(self) -> Callable[..., Any]:
        from sqlalchemy.dialects import postgresql

        return postgresql.insert

    def url_to_read(self, tables: Collection[str]) -> str:
        if not self.is_made(next(iter(tables))):
            raise StoreError(
                f"{hide_password(self.url)} has no studies yet: run `sabtune search` first"
            )
        return self.url

    def make(self, open_: Callable[[str], T], tables: Collection[str]) -> T:
        from sabtune.storage import server

        def locked() -> T:
            with self.making():
                return open_(self.url)

        return server.opening(locked)

    @contextmanager
    def making(self) -> Iterator[None]:
        import sqlalchemy

        key = databases.advisory_key(f"tables of {sqlalchemy.make_url(self.url).database}")
        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": key})
            connection.commit()  # the lock belongs to the connection, not to the transaction
            yield

    def problem(self) -> str:
        import sqlalchemy

        address = sqlalchemy.make_url(self.url)
        if address.drivername == "postgresql":
            address = address.set(drivername="postgresql+psycopg")
        postgres = address.drivername.startswith("postgresql")
        timeout = {"connect_timeout": PROBE_TIMEOUT_SECONDS} if postgres else {}
        engine = sqlalchemy.create_engine(address, connect_args=timeout)
        try:
            with engine.connect() as connection:
                statement = "SELECT has_schema_privilege(current_schema(), 'CREATE')"
                may_create = connection.exec_driver_sql(statement).scalar()
                read_only = connection.exec_driver_sql("SHOW transaction_read_only").scalar()
            return "" if may_create and read_only != "on" else "it is read-only"
        except (sqlalchemy.exc.SQLAlchemyError, ImportError) as problem:
            cause = getattr(problem, "orig", None) or problem
            return redact(" ".join(str(cause).split()), self.url)[:MAX_REASON_CHARACTERS]
        finally:
            engine.dispose()


@functools.lru_cache(maxsize=100)
def database_at(url: str) -> Database:
    """Return the database at a URL."""
    if not url.startswith("sqlite"):
        return Server(url)
    from sqlalchemy import make_url

    return SqliteFile(url, Path(make_url(url).database or ""))


def file_database(path: Path) -> SqliteFile:
    """Return the database in a SQLite file, whose path may contain any character."""
    return SqliteFile(databases.sqlite_url(path), path)


def checked_url(url: str, local: Callable[[str], Path]) -> str:
    """Return the URL of a database of a store. The path of a SQLite file is made absolute.

    local: returns a path that is safe to use. Raises StoreError if the URL isn't that of a
    supported database with persistent storage.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        parts = None
    if parts is None or not url.startswith(SCHEMES):
        raise StoreError(f"the store {hide_password(url)!r} isn't a supported database: {REMEDY}")
    if not parts.database and not {"dbname", "service"} & parts.query.keys():
        raise StoreError(f"the store {hide_password(url)!r} names no database: {REMEDY}")
    if parts.get_backend_name() != "sqlite":
        return url
    if (
        not parts.database
        or parts.database == ":memory:"
        or parts.database.startswith("file:")
        or parts.query
    ):
        raise StoreError(f"the store {url!r} isn't the plain path of a file: {REMEDY}")
    return databases.sqlite_url(local(parts.database))
