"""Test trials.csv: every trial is looked up again in the study."""

from __future__ import annotations

import csv
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sabtune.models import LSTM, SAB
from sabtune.reporting import trials
from sabtune.reporting.data import gather
from sabtune.storage.store import Store
from sabtune.study.optuna_storage import open_storage
from sabtune.study.record import StudyRecord
from tests.reports import LENGTHS, confirmed, frozen, searched

TRIALS = 12
"""The number of trials, of which some are pruned and one failed."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    searched(store, "found", TRIALS)
    confirmed(store, "found.confirm", {"ours": (SAB.Config(k_top=3), (0.9, 0.8))})
    return store


def rows_of(store: Store, name: str) -> list[dict[str, str]]:
    text = trials.csv_page(gather(StudyRecord.open(store, name)))
    return list(csv.DictReader(text.splitlines()))


def test_every_trial_has_a_row_with_its_state(store: Store) -> None:
    study = optuna.load_study(study_name="found", storage=open_storage(store, write=True))
    rows = rows_of(store, "found")
    words = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    assert [(int(row["trial"]), words[row["state"]]) for row in rows] == [
        (trial.number, trial.state.name) for trial in study.trials
    ]
    assert {row["state"] for row in rows} == words.keys()
    for row, trial in zip(rows, study.trials, strict=True):
        assert int(row["updates"]) == max(trial.intermediate_values)
        if trial.state == TrialState.COMPLETE:
            assert float(row["score"]) == trial.value
            assert [float(row[f"test_accuracy_at_{n}"]) for n in LENGTHS] == [
                result["accuracy"] for result in trial.user_attrs["result"]["test"]
            ]
        else:
            assert not row[f"test_accuracy_at_{LENGTHS[0]}"]


def test_rows_have_all_parameters_and_the_configuration(store: Store) -> None:
    study = optuna.load_study(study_name="found", storage=open_storage(store, write=True))
    for row, trial in zip(rows_of(store, "found"), study.trials, strict=True):
        drawn = {name: row[f"param.{name}"] for name in trial.params}
        assert drawn == {name: str(value) for name, value in trial.params.items()}
        run = trial.user_attrs["assignment"]["run"]
        assert row["trial.train.learning_rate"] == str(run["trial"]["train"]["learning_rate"])
        assert row["trial.model.schedule.kind"] == run["trial"]["model"]["schedule"]["kind"]
        assert (row["task.length"], row["seed"]) == ("100", str(run["seed"]))


def test_columns_that_a_model_lacks_are_empty(store: Store) -> None:
    study = optuna.create_study(
        study_name="mixed", storage=open_storage(store, write=True), direction="maximize"
    )
    for number, model in enumerate((LSTM.Config(k_trunc=7), SAB.Config(k_top=4, k_trunc=6))):
        study.add_trial(frozen(number, model, 0.5, TrialState.COMPLETE))
    lstm, sab = rows_of(store, "mixed")
    assert (lstm["trial.model.kind"], sab["trial.model.kind"]) == ("lstm", "sab")
    assert (lstm["trial.model.k_top"], sab["trial.model.k_top"]) == ("", "4")
    assert (lstm["trial.model.k_trunc"], sab["trial.model.k_trunc"]) == ("7", "6")


def test_rows_of_a_comparison_have_labels(store: Store) -> None:
    rows = rows_of(store, "found.confirm")
    assert [row["label"] for row in rows] == ["ours", "ours"]
    assert len({row["seed"] for row in rows}) == 2


def test_an_unfinished_trial_has_a_row(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path)
    study = searched(other, "running", 2)
    study.ask()
    assert [row["state"] for row in rows_of(other, "running")][-1] == "unfinished"
