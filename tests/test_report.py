"""Test the report on a terminal, from a database filled by hand."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from sabtune.config import RunConfig
from sabtune.errors import StoreError
from sabtune.storage.store import Store
from sabtune.study.attributes import SPEC, TEST
from sabtune.study.events import KeptModel
from sabtune.study.record import StudyRecord
from sabtune.study.writer import StudyWriter
from sabtune.terminal.summary import summary
from sabtune.training.evaluation import LengthResult
from sabtune.training.trial import plain
from tests.records import spec


def shown(study: optuna.Study) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(summary(StudyRecord(study)))
    return captured.get()


def add(
    study: optuna.Study,
    run: RunConfig,
    state: TrialState,
    *values: float,
    configuration: int | None = None,
) -> None:
    trial = study.ask()
    score = values[0] if values else None
    made = spec(trial.number, configuration, run=run)
    trial.set_user_attr(SPEC, made.to_dict())
    results = [
        LengthResult(length=length, accuracy=accuracy, loss=0.25, sequences=1000)
        for length, accuracy in ((5, 0.999), (10, 0.99), (1000, (score or 0) / 2))
    ]
    trial.set_user_attr(TEST, plain(results))
    study.tell(trial, values or None, state=state)


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    storage = optuna.storages.RDBStorage(Store(tmp_path).optuna_url)
    return optuna.create_study(study_name="found", storage=storage, direction="maximize")


def test_the_best_is_the_completed_trial_with_the_highest_score(
    study: optuna.Study, run: RunConfig
) -> None:
    add(study, run, TrialState.COMPLETE, 0.5)
    add(study, run, TrialState.COMPLETE, 0.8)
    add(study, run, TrialState.PRUNED)
    add(study, run, TrialState.FAIL)
    StudyWriter(study).set_model(KeptModel(trial=1, uri="models:/m-1"))
    page = shown(study)
    assert "Study found: 4 trials (2 complete, 1 pruned, 1 failed)" in page
    assert "trial 1, 0.800" in page
    assert "k_top=2 k_att=2 k_trunc=3 linear hidden=8" in page
    assert "Solved (99%) up to 10" in page
    assert 'mlflow.pyfunc.load_model("models:/m-1")' in page
    rows = [line.split("│")[1:-1] for line in page.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["5", "1", "99.9%", "40.0%", "0.2500"],  # recalls 2 of 5 memories
        ["10", "2", "99.0%", "25.0%", "0.2500"],
        ["1,000", "200", "40.0%", "0.4%", "0.2500"],
        ["chance", "", "12.5%", "", ""],
    ]


def test_seeds_of_a_configuration_are_averaged(study: optuna.Study, run: RunConfig) -> None:
    add(study, run, TrialState.COMPLETE, 0.8)
    add(study, run, TrialState.COMPLETE, 0.85)
    add(study, run, TrialState.COMPLETE, 0.9, configuration=1)
    add(study, run, TrialState.COMPLETE, 0.7, configuration=1)
    page = shown(study)
    assert "configuration #1" in page
    assert "3 seeds: mean score 0.817, 0 solved" in page
    assert "trial 2, 0.900" in page


def test_several_objectives_have_a_pareto_front(tmp_path: Path, run: RunConfig) -> None:
    study = optuna.create_study(study_name="two", directions=["maximize", "minimize"])
    study.set_user_attr("plan", {"objectives": ["score", "seconds_per_update"]})
    add(study, run, TrialState.COMPLETE, 0.5, 0.010)
    add(study, run, TrialState.COMPLETE, 0.4, 0.020)  # worse in both
    add(study, run, TrialState.COMPLETE, 0.9, 0.030)
    page = shown(study)
    front = page[page.index("Pareto front") :]
    rows = [line.split("│")[1:-1] for line in front.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row][:3] for row in rows] == [
        ["2", "0.900", "0.03"],
        ["0", "0.500", "0.01"],
    ]


def test_a_study_without_a_completed_trial_says_so(study: optuna.Study, run: RunConfig) -> None:
    add(study, run, TrialState.PRUNED)
    assert "No trial has completed yet." in shown(study)


def test_an_unknown_study_lists_the_existing_ones(study: optuna.Study, tmp_path: Path) -> None:
    store = Store(tmp_path).existing()
    with pytest.raises(StoreError, match="has no study 'fund': did you mean 'found'"):
        StudyRecord.open(store, "fund")
    with pytest.raises(StoreError, match="has no study 'xyz': it has found"):
        StudyRecord.open(store, "xyz")
