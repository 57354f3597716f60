"""Test faults of a trial: it fails with a reason, or resumes from what is readable."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from optuna.trial import TrialState

from sabtune.config import RunConfig
from sabtune.storage.folder import Folder
from sabtune.storage.store import Store
from sabtune.study.checkpoints import Attempts, history
from sabtune.study.trial_record import TrialRecord
from sabtune.training.evaluation import Ladder
from sabtune.training.trial import Limits, TrialRun, TrialSpec
from sabtune.tuning.trainable import newest
from tests.faults import assert_as_unbroken, driver, records, study
from tests.forked import sabtune

pytestmark = pytest.mark.timeout(400)

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "raising": {"hidden": 2**20},  # more weights than fit into any memory
    "diverging": {"learning_rate": 3e37},
    "hungry": {"batch_size": 200_000, "updates": 1},
    "endless": {"updates": 10**7},
}
REASONS = {
    "raising": ("RuntimeError: ", "you tried to allocate 17592186044416 bytes"),
    "diverging": ("DivergedError: no finite gradient in 100 updates", "lower learning_rate"),
    "hungry": ("LimitError: ", " GiB at 1 update is past the trial's limit of 1 GiB"),
    "endless": ("LimitError: ", " updates is past the trial's limit of 0.008 h"),
}
FILES = ("weights.safetensors", "training.safetensors", "trial.json", "progress.json", "run.json")


@dataclass(frozen=True)
class Failures:
    """A search with one failing trial of each kind between two that succeed."""

    store: Store
    shown: CompletedProcess[str]
    trials: list[TrialRecord]

    def of(self, kind: str) -> TrialRecord:
        return next(trial for trial in self.trials if trial.params["kind"] == kind)


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> Failures:
    folder = tmp_path_factory.mktemp("failures")
    limits = {"memory": 1, "hours": 0.008}
    file = study(folder, "failures", ("plain", *REASONS, "plain"), kinds=KINDS, limits=limits)
    shown = sabtune("search", file, "--store", "store", cwd=folder)
    store = Store(folder / "store")
    return Failures(store, shown, records(store, "failures"))


@pytest.mark.slow
def test_a_search_continues_after_failed_trials(failures: Failures) -> None:
    assert failures.shown.stderr == ""
    assert failures.shown.returncode == 0
    states = [trial.state for trial in failures.trials]
    assert states == [TrialState.COMPLETE, *[TrialState.FAIL] * len(REASONS), TrialState.COMPLETE]
    for trial in (failures.trials[0], failures.trials[-1]):
        assert_as_unbroken(trial)


@pytest.mark.slow
@pytest.mark.parametrize("kind", REASONS)
def test_a_failed_trial_has_its_reason_in_the_study_mlflow_and_terminal(
    failures: Failures, kind: str
) -> None:
    trial = failures.of(kind)
    first, *others = REASONS[kind]
    assert trial.reason.startswith(first)
    assert all(words in trial.reason for words in others)
    assert "\n" not in trial.reason
    assert f"#{trial.number} failed: {trial.reason}  [" in failures.shown.stdout
    client = MlflowClient(failures.store.mlflow_uri)
    experiment = client.get_experiment_by_name("failures")
    assert experiment is not None
    (run,) = client.search_runs(
        [experiment.experiment_id], f"tags.`sabtune.number` = '{trial.number}'"
    )
    assert run.info.status == "FAILED"
    assert run.data.tags["sabtune.reason"] == trial.reason


def damage(at: Folder | Path, how: str) -> None:
    """Truncate a file of the checkpoint, or delete all its files."""
    checkpoint = Path(str(at))
    if how == "empty":
        for file in checkpoint.iterdir():
            file.unlink()
    else:
        file = checkpoint / how
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.fixture
def saved(run: RunConfig, tmp_path: Path) -> tuple[TrialSpec, list[Folder]]:
    """Return a trial's three checkpoints, newest first: at 15, 10 and 5 updates."""
    spec = TrialSpec(
        number=7,
        configuration=7,
        run=run,
        ladder=Ladder(lengths=(5, 10), select=(5,), sequences=8),
        evaluation_seed=1,
        threads=1,
    )
    trial = TrialRun(spec)
    for at, _ in zip(range(3), trial, strict=False):
        trial.save(tmp_path / "0007" / f"checkpoint_{at:06d}")
    return spec, Attempts(Folder.at(tmp_path)).checkpoints(7)


@pytest.mark.parametrize("how", [*FILES, "empty"])
def test_a_damaged_checkpoint_is_skipped(saved: tuple[TrialSpec, list[Folder]], how: str) -> None:
    spec, newest_first = saved
    cpu = torch.device("cpu")
    assert newest(spec, newest_first, cpu).training.step == 15
    damage(newest_first[0], how)
    resumed = newest(spec, newest_first, cpu)
    assert resumed.training.step == 10
    told = [progress.report.step for progress in history(newest_first)]
    assert told == ([5, 10] if how in ("trial.json", "empty") else [5, 10, 15])
    damage(newest_first[1], how)
    assert newest(spec, newest_first, cpu).training.step == 5
    damage(newest_first[2], how)
    assert newest(spec, newest_first, cpu).training.step == 0
    assert newest(spec, [], cpu).training.step == 0


def test_a_checkpoint_with_invalid_json_is_skipped(
    saved: tuple[TrialSpec, list[Folder]],
) -> None:
    spec, newest_first = saved
    cpu = torch.device("cpu")
    for name in ("trial.json", "progress.json", "run.json"):
        for text in ("[]", "{}", "null", '{"history": [1]}', '{"format": 1}', "\x00" * 40):
            file = Path(newest_first[0].address) / name
            whole = file.read_text()
            file.write_text(text)
            assert newest(spec, newest_first, cpu).training.step == 10, (name, text)
            history(newest_first)
            file.write_text(whole)


def test_a_checkpoint_of_another_configuration_is_skipped(
    saved: tuple[TrialSpec, list[Folder]],
) -> None:
    """Check checkpoints such as those that a deleted study of the same name leaves."""
    spec, newest_first = saved
    other = replace(spec, run=replace(spec.run, seed=8))
    assert history(newest_first, other) == []
    assert newest(other, newest_first, torch.device("cpu")).training.step == 0
    freer = replace(spec, limits=Limits(hours=1))
    assert len(history(newest_first, freer)) == 3
    assert newest(freer, newest_first, torch.device("cpu")).training.step == 15


@pytest.mark.slow
@pytest.mark.parametrize("pair", [("training.safetensors", "trial.json"), ("empty", "run.json")])
def test_a_search_resumes_from_the_checkpoint_before_a_damaged_one(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    file = study(tmp_path, "cut", ["plain"] * 2, updates=1500)
    with driver("search", file, "--store", "store", cwd=tmp_path) as search:
        search.until("#0 210/1500 updates")
        search.until("#1 210/1500 updates")
    store = Store(tmp_path / "store")
    before, attempts = [], Attempts(store.trials / "cut")
    for number, how in enumerate(pair):
        left = [of for of in attempts.checkpoints(number) if history([of])]
        damage(left[0], how)
        before.append(history(left[1:]))
        assert len(before[-1]) >= 5
    again = sabtune("search", file, "--store", "store", cwd=tmp_path)
    assert again.stderr == ""
    assert again.returncode == 0
    log = (store.root / "cut.log").read_text()
    for number in range(2):
        assert any(f"#{number} " in line and "is passed over" in line for line in log.splitlines())
    for trial, told in zip(records(store, "cut"), before, strict=True):
        assert trial.state == TrialState.COMPLETE
        assert_as_unbroken(trial)
        assert trial.checkpoint is not None
        # Even the seconds are equal, so nothing was trained again.
        assert history([trial.checkpoint])[: len(told)] == told
