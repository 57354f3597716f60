"""Test reproducing a trial, and the forecast of a dry run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from optuna.trial import TrialState
from rich.console import Console

from sabtune.compare.reproduce import reproduce
from sabtune.errors import StoreError
from sabtune.study.loading import load
from sabtune.study.trial_record import TrialRecord
from sabtune.terminal.results import prediction_page, reproduction_page
from sabtune.training.trial import TrialRun
from sabtune.tuning.dry_run import predict
from tests.records import spec, trial
from tests.studies import learnable


@pytest.fixture
def trained() -> TrialRecord:
    """Return a complete trial as a search records it."""
    run = TrialRun(spec())
    history = list(run)
    return dataclasses.replace(
        trial(0, score=history[-1].score),
        spec=spec(),
        scores={progress.report.step: progress.score for progress in history},
        ladder=list(history[-1].ladder),
        test=list(history[-1].test),
    )


def test_a_recorded_trial_is_reproduced_to_the_bit(trained: TrialRecord) -> None:
    found = reproduce(trained)
    assert found.differences == []
    # 2 reports; accuracy and loss of ladder and test at 2 lengths.
    assert found.metrics == 2 + 2 * 2 * 2
    assert found.environment == []


def test_a_pruned_trial_is_reproduced_up_to_its_pruning(trained: TrialRecord) -> None:
    first = next(iter(TrialRun(spec())))
    pruned = dataclasses.replace(
        trained,
        state=TrialState.PRUNED,
        scores={10: first.score},
        ladder=list(first.ladder),
        test=[],
    )
    assert reproduce(pruned).differences == []


def test_a_metric_that_differs_is_shown_with_both_values(trained: TrialRecord) -> None:
    other = dataclasses.replace(trained.test[1], loss=trained.test[1].loss + 1e-12)
    changed = dataclasses.replace(
        trained, test=[trained.test[0], other], environment={"torch": "1.0", "host": "elsewhere"}
    )
    found = reproduce(changed)
    ((name, recorded, now),) = found.differences
    assert name == "test loss at length 8"
    assert recorded == other.loss
    assert now == trained.test[1].loss
    assert [name for name, _, _ in found.environment] == ["torch"]
    console = Console(width=120)
    with console.capture() as captured:
        console.print(reproduction_page(0, found))
    assert "1 of 10 metrics differ" in captured.get()


def test_a_trial_without_a_result_cannot_be_compared(trained: TrialRecord) -> None:
    with pytest.raises(StoreError, match="trial 0 ended before its first report"):
        reproduce(dataclasses.replace(trained, scores={}))


def test_a_dry_run_predicts_from_its_measurements(tmp_path: Path) -> None:
    file = load(learnable(tmp_path))
    found = predict(file)
    probe = found.probe
    assert [result.length for result in probe.results] == [2, 4, 8]
    assert [result.selects for result in probe.results] == [True, True, False]
    select = sum(result.seconds for result in probe.results if result.selects)
    whole = sum(result.seconds for result in probe.results)
    expected = 120 * probe.seconds_per_update + 3 * select + 2 * whole
    assert probe.trial_seconds == pytest.approx(expected)
    assert found.hours == pytest.approx(8 * probe.trial_seconds / found.placement.at_once / 3600)
    assert probe.seconds_per_update > 0
    assert probe.training_memory > 1
    console = Console(width=120)
    with console.capture() as captured:
        console.print(prediction_page(found, file.study))
    assert "h for 8 trials" in captured.get()
    assert not (tmp_path / "sabtune-store").exists()
