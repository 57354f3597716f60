"""Test the worker: its results, and how it handles an unavailable object store."""

from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray import tune
from ray.tune.utils import flatten_dict

from sabtune.errors import RefusedError, StoreError
from sabtune.storage import patience
from sabtune.storage.patience import patiently
from sabtune.study.definition import ASHA
from sabtune.training.evaluation import Ladder
from sabtune.training.trial import TrialRun
from sabtune.tuning import trainable
from sabtune.tuning.asha import Halving, Scheduler
from sabtune.tuning.trainable import Trial, WorkerResult, WorkerTask, place
from tests.records import spec


def order(trials: str) -> WorkerTask:
    return WorkerTask(spec=spec(), directory="0000", trials=trials)


def test_a_worker_task_survives_a_round_trip() -> None:
    made = order("s3://bucket/trials/s")
    assert WorkerTask.from_config(made.to_config()) == made
    assert place(made.to_config()).address == "s3://bucket/trials/s/0000"


def test_a_pause_is_not_a_report() -> None:
    """Check that Tune continues a paused trial and that ASHA doesn't compare it."""
    paused = WorkerResult(progress=None, seconds=7.0).to_result()
    assert not paused["done"]
    assert WorkerResult.from_result(paused).progress is None
    assert WorkerResult.from_result(paused).seconds == 7.0
    halving = Halving(ASHA(grace=1, reduction=2))
    halving.remember(1, {1: 0.9}, complete=False)
    decision = Scheduler(halving).on_trial_result(None, None, paused)  # type: ignore[arg-type]
    assert decision == "CONTINUE"
    assert halving.rungs == {0: {1: 0.9}}
    failed = WorkerResult(progress=None, failed="it broke").to_result()
    assert failed["done"]


@pytest.mark.parametrize("solved", [True, False])
def test_a_trial_that_solves_its_task_is_not_pruned(solved: bool) -> None:
    ladder = Ladder(lengths=(4, 8), select=(4,), sequences=8, solved_reports=3)
    progress = next(iter(TrialRun(spec(ladder=ladder))))
    assert not progress.solved
    told = WorkerResult(progress=dataclasses.replace(progress, solved=solved)).to_result()
    halving = Halving(ASHA(grace=10, reduction=2))
    halving.remember(1, {10: 2.0}, complete=False)  # better than this trial
    trial = SimpleNamespace(config={"assignment": {"number": 0}})
    decision = Scheduler(halving).on_trial_result(None, trial, flatten_dict(told))  # type: ignore[arg-type]
    assert decision == ("CONTINUE" if solved else "STOP")
    assert halving.rungs == {0: {1: 2.0, 0: progress.score}}


def test_a_worker_pauses_to_save_after_a_fixed_time(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(trainable, "device", lambda: torch.device("cpu"))  # Ray isn't running
    worker = Trial.__new__(Trial)
    worker.reset_config(order(str(tmp_path)).to_config())
    assert WorkerResult.from_result(worker.step()).progress is not None  # no pause is due yet
    now[0] += trainable.SAVE_SECONDS
    assert WorkerResult.from_result(worker.step()).progress is None
    worker.save_checkpoint(str(tmp_path / "saved"))
    assert isinstance(worker.run, TrialRun)
    assert worker.run.training.step == 11
    last = WorkerResult.from_result(worker.step()).progress
    assert last is not None
    assert last.finished


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that records the seconds of each pause; no pause really waits."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


@pytest.mark.parametrize("failures", [0, 2, 7])
def test_a_save_waits_for_an_absent_object_store(
    failures: int, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def save(self: Any, checkpoint_dir: str | None = None) -> Any:
        tried.append("")
        if len(tried) <= failures:
            raise OSError("AWS Error NETWORK_CONNECTION")
        return "saved"

    monkeypatch.setattr(tune.Trainable, "save", save)
    worker = Trial.__new__(Trial)
    worker.place = place(order("s3://bucket/trials/s").to_config())
    if failures < 7:
        saved: Any = worker.save()
        assert saved == "saved"
    else:
        with pytest.raises(StoreError, match="nothing answers there"):
            worker.save()
    assert pauses == list(patience.PAUSES_SECONDS)[:failures]


def test_a_refused_save_is_retried_once(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(self: Any, checkpoint_dir: str | None = None) -> str:
        raise OSError("AWS Error ACCESS_DENIED during PutObject operation")

    monkeypatch.setattr(tune.Trainable, "save", save)
    worker = Trial.__new__(Trial)
    worker.place = place(order("s3://bucket/trials/s").to_config())
    with pytest.raises(RefusedError, match="access is denied"):
        worker.save()
    assert pauses == list(patience.PAUSES_SECONDS)[:1]


def test_a_save_to_a_full_disk_is_not_retried(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(self: Any, checkpoint_dir: str | None = None) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(tune.Trainable, "save", save)
    worker = Trial.__new__(Trial)
    worker.place = place(order("/store/trials/s").to_config())
    with pytest.raises(OSError, match="no space"):
        worker.save()
    assert pauses == []


def test_other_errors_are_not_retried(pauses: list[float]) -> None:
    def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        patiently(fail, StoreError)
    assert pauses == []
