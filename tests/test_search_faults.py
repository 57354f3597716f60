"""Test searches that are interrupted, lose a worker or are locked out."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
from optuna.trial import TrialState

from sabtune.errors import StoreError
from sabtune.seeding import Stream
from sabtune.storage.store import Store
from sabtune.study.loading import load
from sabtune.study.record import StudyRecord
from sabtune.training.evaluation import measure_ladder
from sabtune.training.loop import Training
from sabtune.tuning.run import search
from tests.faults import driver
from tests.forked import sabtune
from tests.studies import heed_interrupts, learnable

pytestmark = pytest.mark.timeout(240)


def test_an_interrupted_search_keeps_its_trials_and_prints_how_to_resume(tmp_path: Path) -> None:
    file = learnable(tmp_path, updates=60_000, name="endless")
    command = [sys.executable, "-u", "-m", "sabtune", "search", str(file), "--store", "store"]
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=heed_interrupts,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if "updates" in line:
                break
        process.send_signal(signal.SIGINT)
        shown, errors = process.stdout.read(), process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in errors
    (again,) = [line for line in shown.splitlines() if line.startswith("Interrupted. Resume with:")]
    words = shlex.split(again.partition(":")[2])
    assert words[1:] == ["-m", "sabtune", "search", str(file), "--store", "store"]
    assert shutil.which(words[0]) is not None
    study = StudyRecord.open(Store(tmp_path / "store"), "endless")
    unfinished = [t for t in study.trials if t.state == TrialState.RUNNING]
    assert unfinished
    status = sabtune("status", "endless", "--store", "store", cwd=tmp_path)
    assert status.returncode == 0
    assert f"{len(unfinished)} unfinished" in status.stdout


def test_a_lost_worker_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    file = learnable(tmp_path, updates=1500, name="killed")
    only_good = '{"good": 0.02}'
    text = file.read_text().replace('{"good": 0.02, "bad": 1e-6, "mad": 3e38}', only_good)
    file.write_text(text.replace("pruning=ASHA(grace=30, reduction=2)", "pruning=None"))
    command = ("search", file, "--store", "store", "--trials", 1)
    with driver(*command, cwd=tmp_path) as running:
        running.until("#0 300/1500 updates")
        for worker in workers(running.process.pid):
            os.kill(worker, signal.SIGKILL)
        assert running.end() == 0
        shown, errors = running.shown, running.errors
    assert "Warning" not in errors  # a repeated report is not recorded again
    assert "#0 1500/1500 updates" in shown

    study = StudyRecord.open(Store(tmp_path / "store"), "killed")
    (trial,) = study.trials
    assert trial.state == TrialState.COMPLETE
    assert trial.run is not None
    assert list(study.trials[0].scores) == list(range(30, 1501, 30))
    unbroken = Training(trial.run)
    list(unbroken)
    measured = measure_ladder(
        unbroken.model, unbroken.task, (2, 4, 8), sequences=64, seed=0, stream=Stream.TEST
    )
    assert trial.test == measured


def workers(driver: int) -> list[int]:
    """Return the PIDs of the workers below `driver`, once at least one of them trains.

    Ray names a process after its trainable only while it trains.
    """
    for _ in range(200):
        parents, training = dict[int, int](), list[int]()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                parents[pid] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if "Trainable" in (entry / "cmdline").read_text():
                    training.append(pid)
        ours = [pid for pid in training if parents.get(parents[pid]) == driver]  # raylet's child
        if ours:
            return ours
        time.sleep(0.01)
    raise AssertionError("nothing trains")


def test_only_one_search_at_a_time_writes_to_a_study(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").made()
    with filelock.FileLock(store.lock("learnable")), pytest.raises(StoreError, match="another"):
        search(load(learnable(tmp_path)), store)
