"""Test reading one trial of a study without the others."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
from optuna.trial import TrialState

from sabtune.errors import StoreError
from sabtune.storage.store import Store
from sabtune.study.attributes import ATTEMPTS
from sabtune.study.loading import load
from sabtune.study.record import StudyRecord
from sabtune.tuning.run import open_or_create
from tests.studies import learnable


def test_one_trial_is_read_without_the_others(tmp_path: Path) -> None:
    """Check that `one` reads no other trials, so that its cost does not grow with the study."""
    study = open_or_create(load(learnable(tmp_path)), Store(tmp_path / "store").made()).optuna
    ended, runs = study.ask(), study.ask()
    study.tell(ended, state=TrialState.FAIL)
    runs.set_user_attr(ATTEMPTS, 1)
    every = StudyRecord(study).trials
    with patch.object(study, "get_trials", side_effect=AssertionError("all are read")):
        assert [StudyRecord(study).trial(number) for number in (0, 1)] == every
    assert [trial.state for trial in every] == [TrialState.FAIL, TrialState.RUNNING]
    with pytest.raises(StoreError, match="'learnable' has no trial 2: it has 0 to 1"):
        StudyRecord(study).trial(2)
