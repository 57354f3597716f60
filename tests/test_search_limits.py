"""Test searches that run out of disk space or of their budget."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from optuna.trial import TrialState

from sabtune.storage.store import Store
from sabtune.study.trial_record import TrialRecord
from tests.faults import (
    assert_as_unbroken,
    assert_begun_as_unbroken,
    driver,
    records,
    small_disk,
    study,
)
from tests.forked import sabtune

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_trials_that_cannot_write_checkpoints_fail_with_the_reason(tmp_path: Path) -> None:
    file = study(tmp_path, "full", ["plain"])
    with small_disk(tmp_path / "store" / "trials", "64k"):
        done = sabtune("search", file, "--store", "store", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("sabtune: the only trial failed: OSError: ")
    for trial in records(tmp_path / "store", "full"):
        assert trial.state == TrialState.FAIL
        assert trial.reason.startswith("OSError: ")
        assert trial.reason.endswith("No space left on device")
        assert f"#{trial.number} failed: {trial.reason}  [" in done.stdout


def test_a_full_store_ends_the_search_with_one_line_and_loses_nothing(
    tmp_path: Path,
) -> None:
    file = study(tmp_path, "full", ["plain"] * 2, updates=900)
    with small_disk(tmp_path / "store", "8m") as disk:
        with driver("search", file, "--store", "store", cwd=tmp_path) as search:
            search.until("#0 60/900 updates")
            fill(disk / "filler")
            code = search.end()
            errors = search.errors
        (line,) = errors.splitlines()
        # The database or the store, whichever the search wrote to first.
        assert line.startswith(("sabtune: the database of ", "sabtune: the store "))
        assert "disk is full" in line or "No space left on device" in line
        assert line.endswith(" is lost")
        assert code == 2
        (disk / "filler").unlink()
        again = sabtune("search", file, "--store", "store", cwd=tmp_path)
        assert again.stderr == ""
        assert again.returncode == 0
        # A score of the last second may be in the checkpoint only; the line has no updates then.
        assert re.search(r"^#0 resumes( at \d+/900 updates)?: ", again.stdout, re.MULTILINE)
        trials = records(Store(disk), "full")
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
        for trial in trials:
            assert_as_unbroken(trial)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(os.urandom(size))
            except OSError:
                continue


def test_a_spent_budget_ends_the_search_and_the_next_one_resumes(tmp_path: Path) -> None:
    file = study(tmp_path, "budget", ["plain"] * 2, updates=10**9)
    command = ["search", file, "--store", "store", "--hours", 0.01]
    store = Store(tmp_path / "store")
    before = spent(command, store)
    after = spent(command, store)
    for earlier, later in zip(before, after, strict=True):
        assert len(earlier.scores) <= len(later.scores)
        if later.scores:  # on a busy machine, the second trial may not report
            assert_begun_as_unbroken(later)
    assert sum(len(trial.scores) for trial in before) < sum(len(trial.scores) for trial in after)


def spent(command: list[object], store: Store) -> list[TrialRecord]:
    """Search until the budget is spent, and return the trials of the study."""
    earlier = records(store, "budget") if (store.root / "optuna.db").exists() else []
    done = sabtune(*command, cwd=store.root.parent)
    assert done.stderr == ""
    assert done.returncode == 0
    assert "The budget is spent. Resume with:" in done.stdout
    for trial in (trial for trial in earlier if trial.scores):
        assert f"#{trial.number} resumes at {max(trial.scores)}/" in done.stdout
        assert f"#{trial.number} 30/" not in done.stdout
    trials = records(store, "budget")
    assert [trial.state for trial in trials] == [TrialState.RUNNING] * 2
    assert any(trial.scores for trial in trials)
    return trials
