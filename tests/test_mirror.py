"""Test how often the mirror reads the whole study, and what it keeps in MLflow."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sabtune.errors import TrackingError
from sabtune.storage.store import Store
from sabtune.study.attributes import ENVIRONMENT, SPEC
from sabtune.study.events import KeptModel, Outcome, Overview, Registered, Version
from sabtune.study.record import StudyRecord
from sabtune.study.trial_record import TrialRecord
from sabtune.study.writer import StudyWriter
from sabtune.tracking import mirror
from sabtune.tracking.mirror import Mirror, keep_report, overview, register
from tests.experiments import Place
from tests.records import spec


class Told:
    """A fake tracker that records its calls."""

    behind = "MLflow is away"

    def __init__(self, uris: dict[int, str] | None = None):
        self.overviews: list[Overview] = []
        self.origins: list[Any] = []
        self.uris = uris

    def search_updated(self, overview: Overview) -> None:
        self.overviews.append(overview)

    def trial_started(self, spec: object, origin: object) -> None:
        self.origins.append(origin)

    def trial_ended(self, number: int, outcome: Outcome) -> None: ...

    def register(self, versions: object, champion: int) -> dict[int, str] | None:
        return self.uris


@pytest.fixture
def study() -> optuna.Study:
    study = optuna.create_study(study_name="s", direction="maximize")
    trial = study.ask()
    trial.set_user_attr(SPEC, spec(0).to_dict())
    trial.set_user_attr(ENVIRONMENT, {"study": {"commit": "c0ffee", "dirty": True}})
    study.tell(trial, 0.5)
    return study


def test_the_mirror_limits_how_often_it_reads_the_whole_study(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, told = [0.0], Told()
    monkeypatch.setattr(mirror, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(mirror, "Tracker", lambda *_, **__: told)
    shown = Mirror(StudyWriter(study), Store(tmp_path))
    assert len(told.overviews) == 1  # at the start, for the run's description
    for seconds, looks in ((30, 1), (61, 2), (90, 2), (122, 3)):
        now[0] = seconds
        shown.trial_ended(0, Outcome(state="PRUNED"))
        assert len(told.overviews) == looks

    def slow(study: optuna.Study, complete: bool) -> Overview:
        now[0] += 5
        return Overview()

    monkeypatch.setattr(mirror, "overview", slow)
    now[0] = 1000
    shown.trial_ended(0, Outcome(state="PRUNED"))
    for seconds, looks in ((1005 + 499, 4), (1005 + 501, 5)):  # 5 s is 1 % of 500 s
        now[0] = seconds
        shown.trial_ended(0, Outcome(state="PRUNED"))
        assert len(told.overviews) == looks


def test_a_trial_is_shown_with_its_revision(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    monkeypatch.setattr(mirror, "Tracker", lambda *_, **__: told)
    Mirror(StudyWriter(study), Store(tmp_path)).trial_started(spec(0))
    (origin,) = told.origins
    assert (origin.commit, origin.changed) == ("c0ffee", True)


def test_a_model_that_mlflow_lacks_is_an_error(study: optuna.Study) -> None:
    champion = Registered(versions=(Version(trial=0),), champion=0)
    register(StudyWriter(study), StudyRecord(study), Told())  # type: ignore[arg-type]  # nothing to register yet
    StudyWriter(study).set_registered(champion)
    with pytest.raises(TrackingError, match="MLflow is away"):
        register(StudyWriter(study), StudyRecord(study), Told())  # type: ignore[arg-type]
    with pytest.raises(TrackingError, match="no model of trial 0, the best one: its checkpoint"):
        register(StudyWriter(study), StudyRecord(study), Told({}))  # type: ignore[arg-type]
    assert StudyRecord(study).model is None
    register(StudyWriter(study), StudyRecord(study), Told({0: "models:/m-1"}))  # type: ignore[arg-type]
    assert StudyRecord(study).model == KeptModel(trial=0, uri="models:/m-1")


def test_a_report_and_the_figures_of_trials_are_kept(study: optuna.Study, tmp_path: Path) -> None:
    store = Store(tmp_path / "store").made()
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("found")
    drawn: list[int] = []

    def draw(trial: TrialRecord, folder: Path) -> None:
        drawn.append(trial.number)
        (folder / "ladder.png").write_bytes(b"drawn")

    pruned = study.ask()
    pruned.set_user_attr(SPEC, spec(1).to_dict())
    study.tell(pruned, state=TrialState.PRUNED)
    record = StudyRecord(study, store)
    place = Place(store.mlflow_uri, "s", store.root / "artifacts")
    tracker = place.tracker()
    tracker.sync(mirror.views(record, store.trials), overview(record, complete=True))
    for _ in range(2):
        assert keep_report(record, tmp_path / "report", draw) == ""
    assert drawn == [0]  # once, and only for the complete trial
    (search,) = place.searches()
    files = place.client.list_artifacts(search.info.run_id, "report")
    assert [file.path for file in files] == ["report/index.html"]
    figures = place.client.list_artifacts(place.trials()[0].info.run_id, "figures")
    assert [file.path for file in figures] == ["figures/ladder.png"]
    assert tracker.close(60)
    nowhere = Store(tmp_path / "store", tracking="http://127.0.0.1:9")
    problem = keep_report(StudyRecord(study, nowhere), tmp_path / "report", draw)
    assert problem == "MLflow at http://127.0.0.1:9 can't be reached"
