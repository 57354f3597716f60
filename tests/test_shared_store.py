"""Test a store that four searches, or another program, use at the same time."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from sabtune.storage.store import Store
from sabtune.study.names import stored_names
from tests.faults import driver, records, study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HELD = 30
"""The seconds for which another program holds the databases. SQLite waits 20 s for MLflow."""

NOTICE = "Another program has locked the store's database. Waiting up to 10 minutes for it."


def in_mlflow(store: Store, name: str) -> list[str]:
    """Return the statuses of a study's runs in MLflow: its search and its trials."""
    client = MlflowClient(store.mlflow_uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return [run.info.status for run in client.search_runs([experiment.experiment_id])]


def test_four_searches_start_at_once_on_a_new_store(tmp_path: Path) -> None:
    names = [f"study-{number}" for number in range(4)]
    for name in names:
        study(tmp_path, name, ["plain"])
    with contextlib.ExitStack() as stack:
        searches = [
            stack.enter_context(driver("search", f"{name}.py", cwd=tmp_path)) for name in names
        ]
        for search in searches:
            assert search.end() == 0, search.shown + search.errors
            assert search.errors == ""
    store = Store(tmp_path / "sabtune-store")
    assert sorted(stored_names(store)) == names
    for name in names:
        assert [trial.state for trial in records(store, name)] == [TrialState.COMPLETE]
        assert in_mlflow(store, name) == ["FINISHED"] * 2


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN EXCLUSIVE"], ids=["read", "locked"])
def test_a_search_continues_after_its_databases_were_locked_for_half_a_minute(
    begin: str, tmp_path: Path
) -> None:
    study(tmp_path, "waits", ["plain"] * 2)
    store = Store(tmp_path / "sabtune-store")
    with driver("search", "waits.py", cwd=tmp_path) as search:
        search.until("#0 starts")
        with contextlib.ExitStack() as stack:
            for name, table in (("optuna.db", "trials"), ("mlflow.db", "runs")):
                holder = sqlite3.connect(store.root / name, isolation_level=None, timeout=60)
                stack.callback(holder.close)
                holder.execute(begin)
                holder.execute(f"SELECT count(*) FROM {table}").fetchall()
            time.sleep(HELD)
        assert search.end() == 0, search.shown + search.errors
    assert set(search.errors.splitlines()) <= {NOTICE}
    assert [trial.state for trial in records(store, "waits")] == [TrialState.COMPLETE] * 2
    assert in_mlflow(store, "waits") == ["FINISHED"] * 3
