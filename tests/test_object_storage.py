"""Test searches with files in an object store: complete, interrupted, resumed elsewhere."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from optuna.trial import TrialState

from sabtune.storage.store import Store
from sabtune.study.checkpoints import Attempts
from sabtune.study.trial_record import TrialRecord
from sabtune.training.checkpoint import load_model
from tests.faults import assert_as_unbroken, driver, records, study
from tests.forked import sabtune
from tests.objects import BUCKET, SECRET, Objects
from tests.test_search_faults import workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def place(request: pytest.FixtureRequest) -> str:
    """Return an address that only this test uses."""
    return f"s3://{BUCKET}/{request.node.name}"


def opened(folder: Path, files: str) -> Store:
    return Store.at(str(folder / "sabtune-store"), files)


def test_a_search_from_end_to_end(
    s3: Objects, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    files = place(request)
    file = study(tmp_path, "remote", ["plain"] * 3)
    done = sabtune("search", file, "--files", files, cwd=tmp_path)
    assert done.stderr == ""
    assert done.returncode == 0
    assert f"report remote --files {files}" in done.stdout
    store = opened(tmp_path, files)
    trials = records(store, "remote")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    attempts = Attempts(store.trials / "remote")
    for trial in trials:
        assert_as_unbroken(trial)
        names = [of.name for of in attempts.checkpoints(trial.number)]
        assert names == ["checkpoint_000003", "checkpoint_000002"]
        assert trial.checkpoint == attempts.checkpoints(trial.number)[0]
    here = {path.name for path in (tmp_path / "sabtune-store").iterdir()}
    logs = {"remote.lock", "remote.log", "remote.ray.log"}
    locks = {".optuna.db.lock", ".mlflow.db.lock"}
    assert here == {"optuna.db", "mlflow.db", "owner"} | logs | locks
    assert_secret(tmp_path, s3, done.stdout)
    for command in (("status", "remote"), ("reproduce", "remote", 1), ("sync", "remote")):
        shown = sabtune(*command, "--files", files, cwd=tmp_path)
        assert shown.stderr == ""
        assert shown.returncode == 0
    written = sabtune("report", "remote", "--files", files, "--out", "out", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    assert_mlflow_is_whole(store, trials)


def assert_mlflow_is_whole(store: Store, trials: list[TrialRecord]) -> None:
    """Check that MLflow has a run with curves and the trained model for each trial."""
    client = MlflowClient(store.mlflow_uri)
    (name,) = {trial.checkpoint.address.split("/")[-3] for trial in trials if trial.checkpoint}
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    assert experiment.artifact_location == store.artifacts
    runs = client.search_runs([experiment.experiment_id])
    children = {run.data.tags["sabtune.number"]: run for run in runs if "mlflow.parentRunId" in
                run.data.tags}  # fmt: skip
    assert len(runs) == 1 + len(children) == 1 + len(trials)
    for trial in trials:
        run = children[str(trial.number)]
        steps = {point.step for point in client.get_metric_history(run.info.run_id, "loss")}
        assert steps == set(trial.scores)
    models = client.search_logged_models([experiment.experiment_id])
    assert {model.tags["sabtune.number"] for model in models} == children.keys()
    for model in models[:1]:
        trial = trials[int(model.tags["sabtune.number"])]
        assert trial.run is not None
        assert trial.checkpoint is not None
        x = np.zeros((2, 9, trial.run.task.build().inputs), np.float32)
        with trial.checkpoint.here() as here, torch.no_grad():
            said, _ = load_model(here)(torch.from_numpy(x))
        np.testing.assert_array_equal(predicted(store, model.model_uri, x), said.numpy())


def predicted(store: Store, uri: str, x: np.ndarray) -> np.ndarray:
    """Return the predictions of a model from MLflow, computed in a new process."""
    code = (
        "import io, mlflow, numpy, sys; "
        f"mlflow.set_tracking_uri({store.mlflow_uri!r}); "
        "x = numpy.load(io.BytesIO(sys.stdin.buffer.read())); "
        f"numpy.save(sys.stdout.buffer, mlflow.pyfunc.load_model({uri!r}).predict(x))"
    )
    given = io.BytesIO()
    np.save(given, x)
    done = subprocess.run(
        [sys.executable, "-c", code], input=given.getvalue(), capture_output=True, check=True
    )
    return np.asarray(np.load(io.BytesIO(done.stdout)))


def assert_secret(folder: Path, s3: Objects, *shown: str) -> None:
    """Check that the secret key is neither in the output nor in any local or remote file."""
    assert all(SECRET not in text for text in shown)
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    for key in s3.names():
        assert SECRET.encode() not in s3.content(key), key


def test_a_search_on_a_lost_machine_resumes_on_another(
    s3: Objects, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    files = place(request)
    file = study(tmp_path, "gone", ["plain"] * 4, updates=900)
    with driver("search", file, "--files", files, cwd=tmp_path) as search:
        search.until("#0 complete")
        search.until("#2 300/900 updates")
        search.kill()
    finished = [line.split()[0] for line in search.shown.splitlines() if " complete: " in line]
    shutil.rmtree(tmp_path / "sabtune-store")
    again = sabtune("search", file, "--files", files, cwd=tmp_path)
    assert again.stderr == ""
    assert again.returncode == 0
    lines = again.stdout.splitlines()
    assert f"\nRestored the studies from {files}/snapshots/optuna-0000" in again.stdout
    assert "#2 resumes" in again.stdout
    for number in finished:  # equal even in the rate, so not trained again
        told = [line for line in lines if line.startswith(f"{number} ") and "/s," in line]
        assert all(line in search.shown for line in told)
    store = opened(tmp_path, files)
    trials = records(store, "gone")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    for trial in trials:
        assert_as_unbroken(trial)
    assert_mlflow_is_whole(store, trials)


def test_trials_missing_from_the_database_copy_are_not_run_twice(
    s3: Objects, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Two trials that are in no copy of the database resume from their own files.

    The newest copies are deleted, as if the machine had died before it wrote them.
    """
    files = place(request)
    file = study(tmp_path, "early", ["plain"] * 3, updates=1500)
    with driver("search", file, "--files", files, cwd=tmp_path) as search:
        first = files.removeprefix(f"s3://{BUCKET}/") + "/snapshots/optuna-00000001.db"
        search.until(lambda: first in s3.names())
        kept = s3.content(first)
        search.until("#2 300/1500 updates")
        search.kill()
    before = {trial.number: trial.params for trial in records(opened(tmp_path, files), "early")}
    for key in s3.names(first.rpartition("/")[0]):
        s3.client.delete_object(Bucket=BUCKET, Key=key)
    s3.client.put_object(Bucket=BUCKET, Key=first, Body=kept)
    shutil.rmtree(tmp_path / "sabtune-store")
    again = sabtune("search", file, "--files", files, cwd=tmp_path)
    assert again.stderr == ""
    assert again.returncode == 0
    trials = records(opened(tmp_path, files), "early")
    assert {trial.number: trial.params for trial in trials} == before
    told = [line for line in search.shown.splitlines() if "/1500 updates, " in line]
    assert len(told) >= 20
    ours = [line for line in told if "#2" in line and "#2 300/" not in line]
    for line in ours:  # equal even in the rate, so not trained again
        assert line in again.stdout
    for trial in trials:
        assert_as_unbroken(trial)


def test_a_trial_of_a_killed_worker_resumes_from_the_object_store(
    s3: Objects, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    files = place(request)
    file = study(tmp_path, "worker", ["plain"], updates=900)
    with driver("search", file, "--files", files, cwd=tmp_path) as search:
        search.until("#0 300/900 updates")
        for worker in workers(search.process.pid):
            os.kill(worker, signal.SIGKILL)
        assert search.end() == 0
        shown, errors = search.shown, search.errors
    assert errors == ""
    assert shown.count("#0 30/900 updates") == 1
    (trial,) = records(opened(tmp_path, files), "worker")
    assert trial.state == TrialState.COMPLETE
    assert_as_unbroken(trial)


LONG = """
import sys
from pathlib import Path
from sabtune.tuning import trainable
from sabtune.tuning.run import search
from sabtune.study.loading import load
from sabtune.storage.store import Store

trainable.SAVE_SECONDS = 1.0
assert search(load(Path(sys.argv[1])), Store.at("store", sys.argv[2]).made()).complete
"""


def test_a_killed_worker_loses_only_what_followed_its_last_save(
    s3: Objects, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The trial reports only at its end; without intermediate saves, everything would be lost."""
    files = place(request)
    long = {"report_every": 6_000}
    file = study(tmp_path, "long", ["plain"], updates=6_000, kinds={"plain": long})
    store = Store.at(str(tmp_path / "store"), files)
    with subprocess.Popen(
        [sys.executable, "-c", LONG, str(file), files], cwd=tmp_path, start_new_session=True
    ) as process:
        saved = step_of_the_newest(store)
        for worker in workers(process.pid):
            os.kill(worker, signal.SIGKILL)
        assert process.wait() == 0
    assert saved > 0
    (trial,) = records(store, "long")
    assert trial.state == TrialState.COMPLETE
    assert list(trial.scores) == [6_000]
    assert_as_unbroken(trial)
    left = Attempts(store.trials / "long").checkpoints(0)
    assert len(left) == 2
    # The new worker resumed from the saved step, so its checkpoints are of later steps.
    steps = [json.loads(of.read("progress.json") or b"")["step"] for of in left]
    assert min(steps) > saved


def step_of_the_newest(store: Store) -> int:
    """Wait for the trial's second checkpoint and return the newest step."""
    while True:
        left = Attempts(store.trials / "long").checkpoints(0)
        content = left[0].read("progress.json") if len(left) == 2 else None
        if content is not None:
            return int(json.loads(content)["step"])
        time.sleep(0.5)
