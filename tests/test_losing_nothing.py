"""A search that is killed, again and again, ends as one that wasn't. Minutes: `pytest -m slow`."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from sabtune.search import record
from sabtune.store import Store
from tests.studies import learnable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRIALS = 12
KILLS = 5


def study_file(folder: Path) -> Path:
    """Twelve trials, all given beforehand; some fail, none is pruned."""
    path = learnable(folder, updates=450, name="killed")
    text = path.read_text().replace("pruning=ASHA(grace=30, reduction=2)", "pruning=None")
    text = text.replace('suggest_int("k_top", 1, 3)', 'suggest_int("k_top", 1, 4)')
    points = [
        {"rate": rate, "k_top": k_top} for k_top in range(1, 5) for rate in ("good", "bad", "mad")
    ]
    text = text.replace("trials=8", f"trials={TRIALS}, points={tuple(points)!r}")
    path.write_text(text)
    return path


def command(file: Path, store: Path) -> list[str]:
    return [sys.executable, "-u", "-m", "sabtune", "search", str(file), "--store", str(store)]


def kill_somewhere(file: Path, store: Path, after: float) -> None:
    """Starts a search and kills its driver so long after its first trial started or went on."""
    with subprocess.Popen(
        command(file, store),
        cwd=file.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("#0") or "starts" in line or "goes on" in line:
                break
        time.sleep(after)
        process.kill()
        process.stdout.close()
    reap(process.pid)


def reap(driver: int) -> None:
    """Ends what a killed driver left behind: with its machine it would have gone, too."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
            if session == driver and int(entry.name) != driver:
                os.kill(int(entry.name), signal.SIGKILL)


def outcomes(study: optuna.Study) -> dict[int, tuple[Any, ...]]:
    return {
        trial.number: (trial.state, trial.params, trial.scores, trial.ladder, trial.test)
        for trial in record.records(study)
    }


def test_killed_five_times_it_ends_with_every_trial_as_if_it_had_never_been(
    tmp_path: Path,
) -> None:
    file = study_file(tmp_path)
    draw = random.Random(20)
    for _ in range(KILLS):
        kill_somewhere(file, tmp_path / "broken", draw.uniform(0, 6))
    for store in ("broken", "whole"):
        shown = subprocess.run(
            command(file, tmp_path / store),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.returncode == 0, shown.stderr
        assert shown.stderr == ""

    broken, whole = (
        record.open_study(Store(tmp_path / store), "killed") for store in ("broken", "whole")
    )
    trials = broken.get_trials()
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
            found = sorted(metric.step for metric in history)  # not by when they were made up for
            assert found == steps, run.info.run_name


def test_what_mlflow_was_not_told_before_the_end_it_is_told_by_the_next_search(
    tmp_path: Path,
) -> None:
    """Though no trial is left: the search before had ended all, and was killed as it did."""
    file = learnable(tmp_path, updates=30)
    search = [*command(file, tmp_path / "store"), "--trials", "2"]
    done = subprocess.run(search, cwd=tmp_path, capture_output=True, text=True, check=True)
    store = Store(tmp_path / "store")
    for path in store.root.glob("mlflow.db*"):
        path.unlink()
    again = subprocess.run(search, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == again.stderr == ""
    client = MlflowClient(store.mlflow_uri)
    experiment = client.get_experiment_by_name("learnable")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 3
    ended = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
    expected = {ended[t.state.name] for t in record.records(record.open_study(store, "learnable"))}
    assert {run.info.status for run in runs} == expected | {"FINISHED"}
