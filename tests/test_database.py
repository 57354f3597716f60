"""Test the databases of a store, and that one module distinguishes their kinds."""

from __future__ import annotations

import ast
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sabtune.errors import StoreError
from sabtune.storage.database import database_at, file_database

PACKAGE = Path(__file__).parent.parent / "sabtune"

ONLY = PACKAGE / "storage" / "database.py"


def asks_for_the_kind(source: str) -> Iterator[str]:
    """Yield the expressions of a module that depend on the kind of a database."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in (
            "dialect", "drivername", "get_backend_name", "get_dialect",
        ):  # fmt: skip
            yield ast.unparse(node)
        elif isinstance(node, ast.Compare) or (
            isinstance(node, ast.Call) and ast.unparse(node.func).endswith("startswith")
        ):
            constants = (each for each in ast.walk(node) if isinstance(each, ast.Constant))
            if any(str(each.value).startswith(("sqlite", "postgres")) for each in constants):
                yield ast.unparse(node)
        elif isinstance(node, ast.Name) and node.id in ("SqliteFile", "Server"):
            yield node.id


def test_one_module_distinguishes_sqlite_from_postgresql() -> None:
    asking = {p for p in PACKAGE.rglob("*.py") if any(asks_for_the_kind(p.read_text()))}
    assert asking == {ONLY}


@pytest.mark.parametrize(
    "source",
    [
        "url.startswith('sqlite:')",
        "url.startswith(('http', 'postgresql'))",
        "parts.get_backend_name() == 'x'",
        "isinstance(database, SqliteFile)",
    ],
)
def test_a_question_for_the_kind_is_found(source: str) -> None:
    assert list(asks_for_the_kind(source))


def test_a_copy_has_what_was_committed_while_another_program_writes(tmp_path: Path) -> None:
    database = file_database(tmp_path / "a b?.db")
    with closing(sqlite3.connect(database.path)) as writer:
        writer.executescript("CREATE TABLE studies (x); INSERT INTO studies VALUES (1)")
        writer.execute("INSERT INTO studies VALUES (2)")  # not committed
        database.copy(tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT x FROM studies").fetchall() == [(1,)]
    assert file_database(tmp_path / "copy.db").is_intact("studies")
    assert not file_database(tmp_path / "copy.db").is_intact("trials")
    (tmp_path / "cut.db").write_bytes((tmp_path / "copy.db").read_bytes()[:4096] + bytes(4096))
    assert not file_database(tmp_path / "cut.db").is_intact("studies")


def test_the_kind_follows_from_the_url(tmp_path: Path) -> None:
    file = database_at(f"sqlite:///{tmp_path / 'optuna.db'}")
    assert (file.file, file.is_shared, file.found) == (tmp_path / "optuna.db", False, False)
    server = database_at("postgresql://me@nowhere/x")
    assert (server.file, server.is_shared, server.found) == (None, True, True)


def test_a_file_of_another_program_is_refused_and_unchanged(tmp_path: Path) -> None:
    database = file_database(tmp_path / "theirs.db")
    with closing(sqlite3.connect(database.path)) as theirs:
        theirs.execute("CREATE TABLE theirs (x)")
    before = database.path.read_bytes()
    with pytest.raises(StoreError, match=r"holds tables of another program \(theirs"):
        database.make(lambda url: pytest.fail("it is opened"), ("studies",))
    with pytest.raises(StoreError, match="is not a database of sabtune's studies"):
        database.url_to_read(("studies",))
    assert database.path.read_bytes() == before
