"""Test that a study is read in bulk exactly as Optuna's own storage reads it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from sabtune.storage.store import Store
from sabtune.study.optuna_storage import open_storage


def fill(study: optuna.Study) -> None:
    """Add trials of every state, with unusual values."""
    study.enqueue_trial({"x": 3}, user_attrs={"label": "ü"})
    for number in range(4):
        trial = study.ask()
        x = trial.suggest_int("x", 1, 5)
        trial.suggest_float("rate", 1e-3, 1e-1, log=True)
        kind = trial.suggest_categorical("kind", ["a", None, 2.5])
        if kind == "a":
            trial.suggest_float("only for a", 0, 1, step=0.25)
        trial.set_user_attr("nested", {"list": [1, None, True], "x": x})
        if len(study.directions) == 1:
            for step, value in ((0, math.nan), (5, math.inf), (2, -math.inf), (7, 0.1)):
                trial.report(value, step)
        values = [math.inf, 0.1][: len(study.directions)]
        if number == 0:
            study.tell(trial, values)
        elif number == 1:
            study.tell(trial, state=TrialState.FAIL)
        elif number == 2:
            study.tell(trial, state=TrialState.PRUNED)
    study.enqueue_trial({"x": 1})


@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"]])
def test_all_trials_are_those_of_optunas_storage(tmp_path: Path, directions: list[Any]) -> None:
    storage = open_storage(Store(tmp_path), write=True)
    other = optuna.create_study(study_name="other", storage=storage)
    other.ask().suggest_int("y", 1, 2)
    study = optuna.create_study(study_name="s", storage=storage, directions=directions)
    fill(study)
    for each in (study, other):
        expected = RDBStorage(storage.url)._get_trials(each._study_id, None, set(), -1)
        found = storage._get_trials(each._study_id, None, set(), -1)
        assert len(expected) == (5 if each is study else 1)
        for mine, theirs in zip(found, expected, strict=True):
            assert repr(vars(mine)) == repr(vars(theirs))  # nan is not equal to nan
    states = {TrialState.RUNNING, TrialState.WAITING}
    assert [trial.state for trial in study.get_trials(states=states)] == [
        TrialState.RUNNING, TrialState.WAITING,
    ]  # fmt: skip


def test_an_unknown_study_is_refused(tmp_path: Path) -> None:
    storage = open_storage(Store(tmp_path), write=True)
    with pytest.raises(KeyError):
        storage._get_trials(99, None, set(), -1)
