"""Test a search whose MLflow server goes away in the middle of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from optuna.trial import TrialState

from sabtune.storage.store import Store
from tests.experiments import Place, Server
from tests.faults import assert_as_unbroken, driver, records, study
from tests.forked import sabtune

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.FAIL: "FAILED"}
KINDS = {"plain": {}, "diverging": {"learning_rate": 3e37}}


def assert_holds_all(place: Place, store: Store) -> None:
    """Check that MLflow has the study's runs with their states, and each report once."""
    shown, trials = place.trials(), records(store, place.study)
    assert len(place.searches()) == 1
    assert sorted(shown) == [trial.number for trial in trials]
    for trial in trials:
        run = shown[trial.number]
        assert run.info.status == STATUS[trial.state]
        assert run.data.tags["sabtune.reason"] == trial.reason
        assert [step for step, _ in place.curve(run, "loss")] == list(trial.scores)
        assert dict(place.curve(run, "score")) == trial.scores
        assert place.curve(run, "test/accuracy") == [(r.length, r.accuracy) for r in trial.test]


def test_a_search_survives_the_loss_of_its_mlflow_server(
    tmp_path: Path,
) -> None:
    points = ["plain", "diverging", "plain", "plain"]
    file = study(tmp_path, "shown", points, kinds=KINDS, updates=240)
    server, store = Server(tmp_path), Store(tmp_path / "store")
    server.start()
    try:
        where = ["--store", "store", "--tracking", server.uri]
        with driver("search", file, *where, cwd=tmp_path) as search:
            search.until("#0 30/240 updates")
            server.stop()
            code = search.end()
            shown, errors = search.shown, search.errors
        assert errors == ""
        assert code == 0
        trials = records(store, "shown")
        assert len(trials) == len(points)
        for trial in trials:
            if trial.params["kind"] == "plain":
                assert_as_unbroken(trial)
        lines = shown.splitlines()
        (at,) = [i for i, line in enumerate(lines) if line.startswith("MLflow doesn't hold")]
        assert f"MLflow at {server.uri} can't be reached" in lines[at]
        assert re.search(rf"sabtune sync shown .*--tracking {server.uri}", lines[at + 1])

        server.start()
        place, after = Place(server.uri, "shown", None), []
        for _ in range(2):
            synced = sabtune("sync", "shown", *where, cwd=tmp_path)
            assert (synced.stderr, synced.returncode) == ("", 0)
            assert synced.stdout == "MLflow holds all 4 trials of shown.\n"
            assert_holds_all(place, store)
            after.append(repr(place.everything()))  # compared as text, because NaN != NaN
        assert after[0] == after[1]
    finally:
        server.stop()
