"""The MLflow database of a store: its creation, and the update of addresses after a move.

MLflow stores absolute addresses of its files. After a store is moved or copied, they still point to
the old location. A command that opens the store for writing updates them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from sabtune import databases
from sabtune.errors import TrackingError
from sabtune.storage.database import database_at, file_database
from sabtune.storage.store import Store
from sabtune.tracking.mlflow_client import is_server

ADDRESS_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow that contain addresses of files."""

SEARCH_LOCATIONS = (
    "SELECT DISTINCT artifact_location FROM experiments WHERE name = :study OR experiment_id IN "
    "(SELECT experiment_id FROM runs JOIN tags USING (run_uuid) WHERE key = 'sabtune.search')"
)
"""SQL query for the artifact locations of sabtune's experiments."""


def make(uri: str, artifacts: str | None) -> None:
    """Create MLflow's database unless it exists or `uri` is a server.

    If several processes call this at the same time, only one creates the database. Raises any
    exception of MLflow.
    """
    if is_server(uri):
        return
    database = database_at(uri)
    path = database.file
    if path is None:
        with database.making():
            MlflowClient(uri).search_experiments(max_results=1)
    elif not path.exists() or not path.stat().st_size:
        path.parent.mkdir(parents=True, exist_ok=True)
        root = artifacts or str(path.parent / "artifacts")
        databases.make_file(path, lambda url: SqlAlchemyStore(url, root).engine.dispose())  # type: ignore[no-untyped-call]


def settle(uri: str, artifacts: str, study: str = "") -> None:
    """Update the addresses of files in the database of a store that was moved, in one transaction.

    Experiments of other programs stay unchanged.

    artifacts: The current URI of the store's files.

    study: A study whose experiment is updated even if it has no run yet.
    """
    path = database_at(uri).file
    if path is None or not moved(path, artifacts, study):
        return
    with (
        databases.making_file(path),
        closing(databases.connect(str(path), isolation_level=None)) as database,
    ):
        cursor = database.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        rows = cursor.execute(SEARCH_LOCATIONS, {"study": study}).fetchall()
        for location in (location for (location,) in rows if location and location != artifacts):
            for table, column in ADDRESS_COLUMNS:
                cursor.execute(
                    f"UPDATE {table} SET {column} = :new || substr({column}, :length + 1) "  # noqa: S608
                    f"WHERE {column} = :old OR substr({column}, 1, :length + 1) = :old || '/'",
                    {"old": location, "new": artifacts, "length": len(location)},
                )
        cursor.execute("COMMIT")


def moved(path: Path, artifacts: str, study: str = "") -> bool:
    """Return whether the database contains outdated addresses of files. Changes nothing."""
    if "experiments" not in databases.tables(path):
        return False
    with closing(databases.connect_to_read(path)) as database:
        rows = database.cursor().execute(SEARCH_LOCATIONS, {"study": study}).fetchall()
    return any(location and location != artifacts for (location,) in rows)


def is_elsewhere(store: Store) -> bool:
    """Return whether the store was moved since the addresses in its MLflow were last updated."""
    path, artifacts = database_at(store.mlflow_uri).file, store.artifacts
    if store.tracking or artifacts is None or path is None:
        return False
    return path.exists() and moved(path, artifacts)


@contextmanager
def to_read(store: Store) -> Iterator[str]:
    """Yield the URI of the store's MLflow, or of an updated copy if the store was moved.

    The copy is temporary and contains the current addresses of files. The store is not changed.
    Raises TrackingError if the store's MLflow database does not exist.
    """
    path = database_at(store.mlflow_uri).file
    if path is not None and not path.exists():
        raise TrackingError(f"there is no MLflow at {path}: run `sabtune sync STUDY` to create it")
    if path is None or store.artifacts is None or not is_elsewhere(store):
        yield store.mlflow_uri
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = file_database(Path(folder) / path.name)
        file_database(path).copy(copy.path)
        settle(copy.url, store.artifacts)
        yield copy.url


def refuse_elsewhere(location: str, artifacts: str | None, study: str) -> None:
    """Raise TrackingError if an experiment stores its files outside the store.

    location: The URI where the experiment stores its files.

    artifacts: The URI of the store's files; None: a server decides, and nothing is checked.
    """
    if artifacts is None or location.rstrip("/") == artifacts or _same(location, artifacts):
        return
    raise TrackingError(
        f"MLflow keeps the files of study {study!r} at {location}, but this store keeps them at "
        f"{artifacts}: give --files that location, or give another --tracking"
    )


def _same(first: str, second: str) -> bool:
    """Return whether two addresses are of the same local folder."""
    paths = [Path(address.removeprefix("file://")) for address in (first, second)]
    return all(path.is_dir() for path in paths) and paths[0].samefile(paths[1])
