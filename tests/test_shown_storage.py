"""Test the studies that optuna-dashboard is given: readable, and never changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from sabtune.analysis.conclusion import conclude
from sabtune.models import SAB
from sabtune.storage.store import Store
from sabtune.study.optuna_storage import open_storage
from sabtune.study.record import StudyRecord
from sabtune.tuning.shown_storage import ShownStorage
from tests.reports import LENGTHS, confirmed, frozen, searched


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with a search, a search of two objectives, a comparison, and another study."""
    store = Store(tmp_path_factory.mktemp("store")).made()
    searched(store, "one", 33)
    searched(store, "two", 14, objectives=("score", "share_kept"))
    ours = (SAB.Config(hidden=8), (0.9, None))
    confirmed(store, "one.confirm", {"ours": ours})
    other = optuna.create_study(
        study_name="other", storage=open_storage(store, write=True), direction="minimize"
    )
    other.set_user_attr("theirs", {"a": 1})
    other.add_trial(optuna.create_trial(value=1.0, user_attrs={"mine": [1, 2]}))
    return store


@pytest.fixture
def shown(store: Store) -> ShownStorage:
    return ShownStorage(open_storage(store))


def named(storage: ShownStorage, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=storage)


def note(storage: ShownStorage, name: str) -> str:
    storage.make_note(storage.get_study_id_from_name(name))
    return str(optuna_dashboard.get_note(named(storage, name)))


def is_readable(value: object) -> bool:
    return isinstance(value, str | int | float) and "{" not in str(value)


def test_a_trial_has_readable_attributes(shown: ShownStorage, store: Store) -> None:
    record = StudyRecord.open(store, "one")
    found = {trial.number: trial for trial in named(shown, "one").get_trials()}
    assert len(found) == 33
    for trial in record.trials:
        attributes = found[trial.number].user_attrs
        assert all(map(is_readable, attributes.values())), attributes
        assert trial.run is not None
        assert attributes["model"] == trial.run.model.label()
        assert attributes["share kept"] == pytest.approx(trial.run.share_kept(), rel=1e-3)
        for result in trial.test:
            assert attributes[f"accuracy at {result.length}"] == pytest.approx(
                result.accuracy, rel=1e-3
            )
        assert ("length score" in attributes) == (trial.state == TrialState.COMPLETE)
        own = [found[trial.number].params, found[trial.number].intermediate_values]
        assert own == [trial.params, trial.scores]
        assert found[trial.number].state == trial.state
    labels = [trial.user_attrs["label"] for trial in named(shown, "one.confirm").get_trials()]
    assert labels == ["ours", "ours"]
    assert f"accuracy at {LENGTHS[-1]}" in named(shown, "one").best_trial.user_attrs


def test_a_waiting_run_of_a_comparison_has_no_json(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "store").made()
    study = optuna.create_study(study_name="w", storage=open_storage(other, write=True))
    study.set_user_attr("plan", {"contest": {"ours": "x"}})
    run = frozen(0, SAB.Config(hidden=8), 0.5, TrialState.COMPLETE).user_attrs["assignment"]["run"]
    study.enqueue_trial({}, user_attrs={"fixed": {"run": run, "space": False}, "label": "ours"})
    (trial,) = named(ShownStorage(open_storage(other)), "w").get_trials()
    assert trial.user_attrs == {"label": "ours"}


def test_the_objectives_have_names(shown: ShownStorage) -> None:
    assert named(shown, "one").metric_names == ["score"]
    assert named(shown, "two").metric_names == ["score", "share_kept"]
    assert named(shown, "other").metric_names is None


def test_the_note_is_the_conclusion_and_says_what_the_importances_are_of(
    shown: ShownStorage, store: Store
) -> None:
    text = note(shown, "one")
    assert text.startswith(conclude(StudyRecord.open(store, "one")).markdown().replace("<br>", " "))
    assert "in this dashboard is PED-ANOVA over 20 complete trials. The report's is of" in text
    assert "configurations, with one value for each" in text
    assert "k_top" in text.rpartition("By fANOVA")[2]
    assert not note(shown, "other")
    assert "fresh seeds" in note(shown, "one.confirm")
    (study,) = [study for study in shown.get_all_studies() if study.study_name == "one"]
    assert text in study.system_attrs.values()
    assert set(study.user_attrs) == {"importances"}  # and the question, if the study has one


def test_a_note_that_somebody_wrote_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").made()
    study = searched(store, "one", 4)
    optuna_dashboard.save_note(study, "mine")
    assert note(ShownStorage(open_storage(store)), "one") == "mine"


def test_studies_of_others_are_shown_as_they_are(shown: ShownStorage) -> None:
    study = named(shown, "other")
    assert study.user_attrs == {"theirs": {"a": 1}}
    assert study.trials[0].user_attrs == {"mine": [1, 2]}


WRITES = [name for name in BaseStorage.__abstractmethods__ if not name.startswith("get_")]


def test_nothing_can_be_written(shown: ShownStorage, store: Store) -> None:
    def content() -> str:
        found: dict[str, Any] = {}
        for study in optuna.study.get_all_study_summaries(open_storage(store)):
            loaded = optuna.load_study(study_name=study.study_name, storage=open_storage(store))
            trials: list[FrozenTrial] = loaded.get_trials()
            found[study.study_name] = [study.user_attrs, [trial.user_attrs for trial in trials]]
        return json.dumps(found, sort_keys=True)

    before = content()
    assert len(WRITES) == 10
    for name in WRITES:
        with pytest.raises(RuntimeError, match="can only be read"):
            getattr(shown, name)(1)
    note(shown, "one")
    for trial in named(shown, "one").get_trials():
        trial.user_attrs["changed"] = 1
    with pytest.raises(RuntimeError), pytest.warns(ExperimentalWarning):
        named(shown, "one").set_metric_names(["x"])
    assert content() == before
