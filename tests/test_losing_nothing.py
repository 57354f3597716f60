"""Test that a search killed repeatedly has the results of an uninterrupted one.

These tests are marked as slow: run them with `pytest -m slow`.
"""

from __future__ import annotations

import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from sabtune.storage.store import Store
from sabtune.study.record import StudyRecord
from tests.faults import driver
from tests.forked import sabtune
from tests.studies import learnable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRIALS = 12
KILLS = 5


def study_file(folder: Path) -> Path:
    """Write a study of twelve predefined trials; some fail, none is pruned."""
    path = learnable(folder, updates=450, name="killed")
    text = path.read_text().replace("pruning=ASHA(grace=30, reduction=2)", "pruning=None")
    text = text.replace('suggest_int("k_top", 1, 3)', 'suggest_int("k_top", 1, 4)')
    points = [
        {"rate": rate, "k_top": k_top} for k_top in range(1, 5) for rate in ("good", "bad", "mad")
    ]
    text = text.replace("trials=8", f"trials={TRIALS}, points={tuple(points)!r}")
    path.write_text(text)
    return path


def kill_somewhere(file: Path, reports: int, after: float) -> None:
    """Start a search and kill its driver `after` seconds after so many reports of its trials.

    Reports rather than seconds decide, so that no machine completes the study before the last kill.
    """
    with driver("search", file, "--store", "broken", cwd=file.parent) as search:
        search.until(lambda: re.search("^#0|starts|resumes", search.shown, re.MULTILINE))
        search.until(lambda: len(re.findall(r"^#\d+ \d+/", search.shown, re.M)) >= reports)
        time.sleep(after)


def outcomes(study: StudyRecord) -> dict[int, tuple[Any, ...]]:
    return {
        trial.number: (trial.state, trial.params, trial.scores, trial.ladder, trial.test)
        for trial in study.trials
    }


def test_a_search_killed_five_times_has_the_results_of_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    file = study_file(tmp_path)
    draw = random.Random(20)
    for _ in range(KILLS):
        kill_somewhere(file, draw.randrange(12), draw.uniform(0, 0.3))
    for store in ("broken", "whole"):
        shown = sabtune("search", file, "--store", store, cwd=tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert shown.stderr == ""

    broken, whole = (
        StudyRecord.open(Store(tmp_path / store), "killed") for store in ("broken", "whole")
    )
    trials = broken.trials
    assert len(trials) == TRIALS
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.FAIL}
    assert outcomes(broken) == outcomes(whole)

    client = MlflowClient(Store(tmp_path / "broken").mlflow_uri)
    experiment = client.get_experiment_by_name("killed")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert len(children) == TRIALS
    assert {run.info.status for run in children} == {"FINISHED", "FAILED"}
    steps = list(range(30, 451, 30))
    for run in children:
        if run.info.status == "FINISHED":
            history = client.get_metric_history(run.info.run_id, "loss")
            found = sorted(metric.step for metric in history)  # late metrics are not sorted by step
            assert found == steps, run.info.run_name


def test_the_next_search_writes_what_mlflow_lacks(
    tmp_path: Path,
) -> None:
    """Search again with no trial left, as if the first search was killed after its last trial."""
    file = learnable(tmp_path, updates=30)
    search = ("search", file, "--store", "store", "--trials", 2)
    done = sabtune(*search, cwd=tmp_path)
    store = Store(tmp_path / "store")
    for path in store.root.glob("mlflow.db*"):
        path.unlink()
    again = sabtune(*search, cwd=tmp_path)
    assert done.returncode == again.returncode == 0
    assert done.stderr == again.stderr == ""
    client = MlflowClient(store.mlflow_uri)
    experiment = client.get_experiment_by_name("learnable")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 3
    ended = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}
    expected = {ended[t.state.name] for t in StudyRecord.open(store, "learnable").trials}
    assert {run.info.status for run in runs} == expected | {"FINISHED"}
