"""Test that a study is read once, and one trial without the others."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import optuna
import pytest
from optuna.trial import TrialState

from sabtune.config import RunConfig
from sabtune.errors import ConfigError, StoreError
from sabtune.storage.store import Store
from sabtune.study.attributes import ATTEMPTS
from sabtune.study.events import Outcome, Registered, Version
from sabtune.study.loading import load
from sabtune.study.record import StudyRecord
from sabtune.study.summary import overview
from sabtune.training.trial import TrialSpec
from sabtune.tuning.run import open_or_create
from tests.records import spec
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


def test_a_record_stays_as_it_was_read_until_it_is_refreshed(tmp_path: Path) -> None:
    """Check every property that commands read more than once."""
    file = load(learnable(tmp_path))
    writer = open_or_create(file, Store(tmp_path / "store").made())
    record = StudyRecord.open(Store(tmp_path / "store"), "learnable")
    assert (record.trials, record.waiting, record.champion, record.ended) == ([], [], None, 0)
    assert record.plan.file == str(file.path)
    writer.enqueue_point({"rate": "good"})
    writer.end(writer.optuna.ask(), Outcome(state="FAIL", reason="why"))
    writer.set_registered(Registered(versions=(Version(trial=0),), champion=0))
    writer.change_plan(file="elsewhere.py")
    assert (record.trials, record.waiting, record.champion, record.ended) == ([], [], None, 0)
    assert record.plan.file == str(file.path)
    record.refresh(trials=False)
    assert (record.trials, record.champion) == ([], Version(trial=0))
    assert record.plan.file == "elsewhere.py"
    record.refresh()
    assert [(trial.state, trial.reason) for trial in record.trials] == [(TrialState.FAIL, "why")]
    assert (record.champion, record.ended) == (Version(trial=0), 1)
    assert record.plan.file == "elsewhere.py"
    assert record.definition == file.study
    assert record.size == "1 trial (1 failed)"


def test_what_is_read_once_is_not_read_again(tmp_path: Path) -> None:
    open_or_create(load(learnable(tmp_path)), Store(tmp_path / "store").made())
    record = StudyRecord.open(Store(tmp_path / "store"), "learnable")
    overview(record, complete=False)
    with patch.object(optuna.Study, "get_trials", side_effect=AssertionError("read again")):
        overview(record, complete=False)
        assert record.best is None
        assert record.counts_in_words() == ""


def test_a_study_is_found_or_there_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert StudyRecord.find(store, "learnable") is None
    open_or_create(load(learnable(tmp_path)), store.made())
    assert StudyRecord.find(store, "other") is None
    found = StudyRecord.find(store, "learnable")
    assert found is not None
    assert found.name == "learnable"


@pytest.mark.parametrize(
    ("key", "value"),
    [("file", 3), ("study", []), ("sharing", "x"), ("hours", "2"), ("contest", ["a"])],
)
def test_a_damaged_plan_is_refused(tmp_path: Path, key: str, value: object) -> None:
    store = Store(tmp_path / "store").made()
    study = open_or_create(load(learnable(tmp_path)), store).optuna
    study.set_user_attr("plan", study.user_attrs["plan"] | {key: value})
    with pytest.raises(StoreError, match=rf"holds the plan of study 'learnable' .*{key} is"):
        StudyRecord.open(store, "learnable")


def test_runs_that_differ_in_their_seeds_share_what_is_equal() -> None:
    """Check that sharing hides neither a seed nor a damaged value."""
    one, other = spec(1).to_dict(), spec(2).to_dict()
    first, second = TrialSpec.from_dict(one), TrialSpec.from_dict(other)
    assert (first, second) == (spec(1), spec(2))
    assert first.run.model is second.run.model
    assert first.ladder is second.ladder
    for seed in ("1", -1, None, True, 1.5):
        with pytest.raises(ConfigError, match="seed"):
            TrialSpec.from_dict(other | {"run": other["run"] | {"seed": seed}})
    with pytest.raises(ConfigError):
        TrialSpec.from_dict(other | {"run": []})


def test_runs_with_parts_of_own_code_are_read_every_time() -> None:
    data = spec(1).to_dict()
    data["run"]["task"] |= {"code": "0abc"}
    with patch.object(RunConfig, "from_dict", return_value=spec(1).run) as read:
        TrialSpec.from_dict(data)
        TrialSpec.from_dict(data)
    assert read.call_count == 2
