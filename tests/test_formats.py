"""Test that a store of a newer sabtune, or another Optuna or MLflow, is refused and unchanged."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from sabtune.errors import StoreError, TrackingError
from sabtune.storage.store import Store
from sabtune.study.attributes import FORMAT, STORE_FORMAT
from sabtune.study.loading import load
from sabtune.study.names import stored_names
from sabtune.study.record import StudyRecord
from sabtune.study.writer import StudyWriter
from sabtune.tracking.mirror import Mirror, sync
from sabtune.tracking.ui import serve
from sabtune.tuning.run import open_or_create
from sabtune.tuning.run import search as run_search
from tests.studies import learnable

COMMANDS: dict[str, Callable[[Store], object]] = {
    "names": stored_names,
    "open": lambda store: StudyRecord.open(store, "learnable"),
    "create": lambda store: open_or_create(load(learnable(store.root)), store),
    "search": lambda store: run_search(load(learnable(store.root)), store),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with a study in it."""
    store = Store(tmp_path).made()
    open_or_create(load(learnable(tmp_path)), store)
    return store


def execute(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    with connection:
        connection.execute(statement)
    connection.close()


def content(database: Path) -> list[str]:
    connection = sqlite3.connect(database)
    lines = list(connection.iterdump())
    connection.close()
    return lines


def refused(store: Store, database: str, command: str) -> str:
    before = content(store.root / database)
    with pytest.raises((StoreError, TrackingError)) as raised:
        COMMANDS[command](store)
    assert content(store.root / database) == before
    (line,) = str(raised.value).splitlines()
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_of_a_newer_sabtune_is_refused(store: Store, command: str) -> None:
    newer = optuna.create_study(study_name="newer", storage=store.optuna_url)
    newer.set_user_attr(FORMAT, STORE_FORMAT + 1)
    line = refused(store, "optuna.db", command)
    assert line == (
        f"{store.root} was written by a newer sabtune (format {STORE_FORMAT + 1}; this "
        f"version reads up to format {STORE_FORMAT}): update sabtune, or give another "
        "--store"
    )


def test_a_study_has_its_format(store: Store) -> None:
    study = StudyRecord.open(store, "learnable")
    assert study.attributes[FORMAT] == STORE_FORMAT


@pytest.mark.parametrize(
    ("revision", "whose", "remedy"),
    [
        ("v99.0.0.a", "a newer", "update optuna"),
        ("v2.6.0.a", "an older", "back it up and run `optuna storage upgrade`"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_of_another_optuna_is_refused(
    store: Store, command: str, revision: str, whose: str, remedy: str
) -> None:
    execute(store.root / "optuna.db", f"UPDATE alembic_version SET version_num = '{revision}'")
    line = refused(store, "optuna.db", command)
    assert f"was made by {whose} Optuna than {optuna.__version__}: {remedy}" in line


def test_a_store_of_another_mlflow_is_refused_and_no_search_starts(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = tmp_path_factory.mktemp("made") / "mlflow.db"
    MlflowClient(f"sqlite:///{made}").search_experiments()
    shutil.copy(made, store.root)  # this process hasn't opened this path yet
    execute(store.root / "mlflow.db", "UPDATE alembic_version SET version_num = 'f00000000000'")
    study = StudyWriter.open(store, "learnable")
    commands: dict[str, Callable[[Store], object]] = {
        "projection": lambda store: Mirror(study, store),
        "sync": lambda store: sync(study, store),
        "ui": lambda store: serve(store, 5000),
    }
    for name, command in commands.items():
        monkeypatch.setitem(COMMANDS, name, command)
    for name in (*commands, "search"):
        line = refused(store, "mlflow.db", name)
        assert f"MLflow at {store.mlflow_uri} was made by another MLflow than " in line, name
        assert "`mlflow db upgrade`" in line
    assert study.read().trials == []


def test_a_missing_study_lists_the_existing_ones(store: Store, tmp_path: Path) -> None:
    def told(name: str) -> str:
        with pytest.raises(StoreError) as raised:
            StudyRecord.open(store, name)
        return str(raised.value)

    assert told("lernable") == (
        f"{tmp_path} has no study 'lernable': did you mean 'learnable'? it has learnable"
    )
    for number in range(25):
        optuna.create_study(study_name=f"z{number:02}", storage=store.optuna_url)
    assert told("x").endswith("it has learnable, z00, " + ", ".join(
        f"z{number:02}" for number in range(1, 19)) + ", and 6 more")  # fmt: skip
    optuna.delete_study(study_name="learnable", storage=store.optuna_url)
    for number in range(25):
        optuna.delete_study(study_name=f"z{number:02}", storage=store.optuna_url)
    assert (
        told("x")
        == f"{tmp_path} has no study 'x': it has no studies yet; run `sabtune search` first"
    )
