"""A store's own MLflow: a SQLite file that is made once, and whose places move with the store.

MLflow keeps where its files are as absolute addresses. A store that was moved or copied would go on
with those of the place where it was; so whoever opens it to write has them say where it is now.
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
from sabtune.storage.store import Store
from sabtune.tracking.mlflow_client import is_server

PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where MLflow's tables have addresses of files."""

OURS = (
    "SELECT DISTINCT artifact_location FROM experiments WHERE name = :study OR experiment_id IN "
    "(SELECT experiment_id FROM runs JOIN tags USING (run_uuid) WHERE key = 'sabtune.search')"
)
"""The addresses of the experiments that show a search."""


def make(uri: str, artifacts: str | None) -> None:
    """Make MLflow's database, if it is one that isn't there yet. However many processes do so at
    once, one makes it. Raises what MLflow raises."""
    if is_server(uri):
        return
    path = databases.sqlite_path(uri)
    if path is None:
        with databases.making(uri):
            MlflowClient(uri).search_experiments(max_results=1)
    elif not path.exists() or not path.stat().st_size:
        path.parent.mkdir(parents=True, exist_ok=True)
        root = artifacts or str(path.parent / "artifacts")
        databases.make_file(path, lambda url: SqlAlchemyStore(url, root).engine.dispose())  # type: ignore[no-untyped-call]


def settle(uri: str, artifacts: str, study: str = "") -> None:
    """Have the database of a store that was moved say where its files are now.

    artifacts: the URI of the store's files. study: whose experiment is meant even if it has no run
    yet. What other programs keep there stays as it is. In one transaction.
    """
    path = databases.sqlite_path(uri)
    if path is None or not moved(path, artifacts, study):
        return
    with (
        databases.making(uri),
        closing(databases.connect(str(path), isolation_level=None)) as database,
    ):
        cursor = database.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        old = [place for (place,) in cursor.execute(OURS, {"study": study}).fetchall()]
        for place in (place for place in old if place and place != artifacts):
            for table, column in PLACES:
                cursor.execute(
                    f"UPDATE {table} SET {column} = :new || substr({column}, :length + 1) "  # noqa: S608
                    f"WHERE {column} = :old OR substr({column}, 1, :length + 1) = :old || '/'",
                    {"old": place, "new": artifacts, "length": len(place)},
                )
        cursor.execute("COMMIT")


def moved(path: Path, artifacts: str, study: str = "") -> bool:
    """Whether a store's MLflow has its files elsewhere than where they are; nothing is changed."""
    if "experiments" not in databases.tables(path):
        return False
    with closing(databases.connect_to_read(path)) as database:
        found = database.cursor().execute(OURS, {"study": study}).fetchall()
    return any(place and place != artifacts for (place,) in found)


def is_elsewhere(store: Store) -> bool:
    """Whether the store was moved since its own MLflow was last made to agree."""
    path, artifacts = databases.sqlite_path(store.mlflow_uri), store.artifacts
    if store.tracking or artifacts is None or path is None:
        return False
    return path.exists() and moved(path, artifacts)


@contextmanager
def to_read(store: Store) -> Iterator[str]:
    """Give the URI of a database that tells what the store's MLflow does, with the addresses that
    files have now: of a store that was moved, a copy. Nothing in the store is changed.

    Raises TrackingError if the store has no MLflow.
    """
    path = databases.sqlite_path(store.mlflow_uri)
    if path is not None and not path.exists():
        raise TrackingError(f"there is no MLflow at {path}: `sabtune sync STUDY` makes it")
    if path is None or store.artifacts is None or not is_elsewhere(store):
        yield store.mlflow_uri
        return
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / path.name
        with (
            closing(databases.connect_to_read(path)) as source,
            closing(databases.connect(str(copied))) as target,
        ):
            source.backup(target)
        settle(databases.sqlite_url(copied), store.artifacts)
        yield databases.sqlite_url(copied)


def refuse_elsewhere(location: str, artifacts: str | None, study: str) -> None:
    """Raises TrackingError if an experiment keeps its files outside of the store."""
    if artifacts is None or location.rstrip("/") == artifacts or _same(location, artifacts):
        return
    raise TrackingError(
        f"MLflow keeps the files of study {study!r} at {location}, and this store has them at "
        f"{artifacts}: give --files where they are, or another --tracking"
    )


def _same(one: str, other: str) -> bool:
    """Whether two addresses are of one folder of this machine."""
    paths = [Path(address.removeprefix("file://")) for address in (one, other)]
    return all(path.is_dir() for path in paths) and paths[0].samefile(paths[1])
