"""Test what `benchmarks/quick_study.py` reads from a store and prints."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from sabtune.storage.store import Store
from sabtune.study.record import StudyRecord
from tests.reports import searched


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    return importlib.import_module("quick_study")


def test_an_outcome_is_that_of_the_trials(benchmark: Any, tmp_path: Path) -> None:
    store = Store(tmp_path / "store").made()
    searched(store, "quick", 12)
    found = benchmark.outcome(store.root, "quick")
    trials = StudyRecord.open(store, "quick").trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert (found["trials"], found["complete"]) == (12, len(complete))
    best = max(complete, key=lambda trial: trial.values[0])
    assert (found["best_trial"], found["best_score"]) == (best.number, best.values[0])
    assert found["longest"] == 2000
    accuracies = {trial.number: trial.test[-1].accuracy for trial in complete}
    assert found["best_accuracy"] == accuracies[best.number]
    assert found["most_accurate"] == max(accuracies.values())
    every = [min(result.accuracy for result in trial.test) >= 0.99 for trial in complete]
    assert found["solved"] == sum(every)
    assert found["best_k_top"] == best.params["k_top"]


def test_the_ranges_are_over_all_runs(benchmark: Any) -> None:
    rows = [{column: str(value) for column in benchmark.RANGES} for value in (0.5, 0.25, 119.6)]
    lines = benchmark.ranges(rows)
    assert lines[0] == "| over 3 runs | smallest | largest |"
    assert "| time of the search | 0 min 00 s | 2 min 00 s |" in lines
    assert "| best score in the search | 0.250 | 119.600 |" in lines
    assert len(lines) == 2 + len(benchmark.RANGES)


def test_the_readme_says_what_was_measured(benchmark: Any) -> None:
    runs = benchmark.rows(benchmark.CSV)
    if not runs:
        pytest.skip(f"{benchmark.CSV.name} isn't measured yet")
    assert len(runs) >= 5
    text = (benchmark.ROOT / "README.md").read_text()
    assert benchmark.sentences(runs) in " ".join(text.split())
