"""Test the tracker: it logs a study to MLflow, completes it by sync, and duplicates nothing."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import Run

from sabtune.config import RunConfig
from sabtune.errors import TrackingError
from sabtune.study.events import Outcome
from sabtune.tracking import Tracker
from sabtune.tracking.experiment import Experiment
from sabtune.tracking.trial_run import RunContent
from tests.experiments import (
    COMPLETE,
    ENOUGH,
    Place,
    assert_shows,
    progress,
    results,
    spec,
    state,
    tell,
    until,
    views,
)

pytestmark = pytest.mark.timeout(300)  # the server alone may take a minute on a busy machine


def test_mlflow_shows_what_the_tracker_was_given(place: Place, run: RunConfig) -> None:
    told = views(run)
    tracker = place.tracker()
    for view in told:
        tell(tracker, view)
    tracker.trial_reported(2, progress(10, loss=math.nan))
    tracker.search_ended(state(told[0], complete=False))
    assert tracker.close(ENOUGH)
    assert tracker.behind is None
    told[2] = replace(told[2], history=[*told[2].history, progress(10)])
    assert_shows(place, told)
    label = run.model.label()
    names = {number: shown.info.run_name for number, shown in place.trials().items()}
    assert names == {0: f"#0 {label}", 1: f"#1 pruned {label}", 2: f"#2 {label}", 3: f"#3 {label}"}
    assert math.isnan(place.curve(place.trials()[2], "loss")[1][1])
    (search,) = place.searches()
    assert search.info.status == "KILLED"
    assert sorted(place.curve(search, "search/best_accuracy")) == [(5, 0.5), (10, 0.5)]


def test_a_run_has_its_configuration_and_seed(embedded: Place, run: RunConfig) -> None:
    tracker = embedded.tracker()
    tracker.trial_started(spec(run, 5))
    tracker.trial_started(spec(replace(run, seed=2), 17, configuration=5))
    assert tracker.close(ENOUGH)
    first, further = (embedded.trials()[number] for number in (5, 17))
    label = run.model.label()
    assert first.info.run_name == f"#5 {label}"
    assert further.info.run_name == f"#17 (as #5) {label} seed 2"
    tags = ("sabtune.number", "sabtune.configuration", "sabtune.seed")
    assert [further.data.tags[tag] for tag in tags] == ["17", "5", "2"]


def test_a_resumed_trial_continues_its_run(place: Place, run: RunConfig) -> None:
    (told, *_) = views(run)
    lost = Outcome(state="FAIL", reason="its worker was lost")
    before = place.tracker()
    tell(before, replace(told, history=told.history[:2], outcome=lost))
    assert before.close(ENOUGH)
    assert place.trials()[0].info.status == "FAILED"
    assert place.trials()[0].data.tags["mlflow.note.content"] == "Failed: its worker was lost"
    after = place.tracker()
    after.trial_started(told.spec)
    # Resumed from an earlier checkpoint, so reported again.
    after.trial_reported(0, told.history[1])
    assert after.close(ENOUGH)
    waiting = replace(told, history=told.history[:2], outcome=None)
    assert_shows(place, [waiting])
    assert place.trials()[0].data.tags["mlflow.note.content"] == ""
    last = place.tracker()
    tell(last, told)
    assert last.close(ENOUGH)
    assert_shows(place, [told])


def test_the_end_of_an_earlier_searchs_trial_is_shown(embedded: Place, run: RunConfig) -> None:
    told = views(run)[2]
    before = embedded.tracker()
    tell(before, told)
    assert before.close(ENOUGH)
    lost = Outcome(state="FAIL", reason="its worker was lost")
    after = embedded.tracker()
    after.trial_ended(2, lost)
    assert after.close(ENOUGH)
    assert_shows(embedded, [replace(told, outcome=lost)])


def test_sync_completes_a_study_and_then_changes_nothing(place: Place, run: RunConfig) -> None:
    told = views(run)
    tracker = place.tracker()
    tell(tracker, replace(told[0], history=told[0].history[:1], outcome=None))
    tell(tracker, replace(told[1], history=told[1].history[1:]))  # one report is missing
    assert tracker.close(ENOUGH)
    tracker.sync(told, state(told[0]))
    assert_shows(place, told)
    (search,) = place.searches()
    assert search.info.status == "FINISHED"
    before = place.everything()
    tracker.sync(told, state(told[0]))
    again = place.tracker()
    again.sync(told, state(told[0]))
    assert again.close(ENOUGH)
    assert place.everything() == before


def test_sync_does_not_read_curves_of_complete_runs(embedded: Place, run: RunConfig) -> None:
    """Check that sync misses a replaced report if the number of reports is the same."""
    told = views(run)
    tracker = embedded.tracker()
    for view in told:
        tell(tracker, view)
    assert tracker.close(ENOUGH)
    tags = {number: run.data.tags["sabtune.written"] for number, run in embedded.trials().items()}
    states = {0: "COMPLETE 3", 1: "PRUNED 2", 2: "RUNNING 1", 3: "FAIL 0"}
    assert tags == {number: f"{state} names 2" for number, state in states.items()}
    other = [replace(told[2], history=[progress(20)])]
    tracker.sync(other, state(complete=False))
    assert_shows(embedded, told)
    tracker.sync([replace(told[2], history=[*told[2].history, progress(20)])], state())
    assert embedded.curve(embedded.trials()[2], "loss") == [(5, 1.0), (20, 1.0)]


def test_sync_keeps_the_earlier_of_two_runs(embedded: Place, run: RunConfig) -> None:
    told = views(run)
    tracker = embedded.tracker()
    tracker.sync(told, state(complete=False))
    first = {number: run.info.run_id for number, run in embedded.trials().items()}
    (search,) = (run.info.run_id for run in embedded.searches())
    double = {"sabtune.search": embedded.study}
    later = embedded.client.create_run(embedded.experiment, tags=double).info.run_id
    for number in (0, 0, 2):
        tags = {"sabtune.number": str(number), "mlflow.parentRunId": later}
        embedded.client.create_run(embedded.experiment, tags=tags)
    tracker.sync(told, state(complete=False))
    assert {number: run.info.run_id for number, run in embedded.trials().items()} == first
    assert [run.info.run_id for run in embedded.searches()] == [search]
    assert tracker.close(ENOUGH)


def test_a_new_best_trial_has_its_own_curve(embedded: Place, run: RunConfig) -> None:
    """Check what the run of the search has about its best trial.

    During the search, the run gets metrics by the number of ended trials. At the end of each
    search, it gets a curve over the lengths. Another best trial gets a curve of its own.
    """
    told = views(run)
    tracker = embedded.tracker()
    for number, accuracy in ((0, 0.25), (1, 0.5), (2, 0.75)):
        best = replace(
            told[number], outcome=replace(COMPLETE, score=accuracy, test=results(accuracy))
        )
        tracker.search_updated(replace(state(best), trials={"complete": number + 1}))
        tracker._wait_for_queue()
    tracker.search_ended(replace(state(best), trials={"complete": 3}))
    assert tracker.close(ENOUGH)
    (search,) = embedded.searches()
    assert embedded.curve(search, "search/best_accuracy") == [(5, 0.75), (10, 0.75)]
    by_ended = embedded.curve(search, "search/best_accuracy_at_0010")
    assert by_ended == [(1, 0.25), (2, 0.5), (3, 0.75)]
    again = embedded.tracker()
    better = replace(told[3], outcome=replace(COMPLETE, test=results(1.0)))
    for _ in range(2):
        again.sync([], state(best))
        again.sync([], replace(state(better), trials={"complete": 4}))
    assert again.close(ENOUGH)
    (search,) = embedded.searches()
    assert embedded.curve(search, "search/best_accuracy") == [(5, 0.75), (10, 0.75)]
    assert embedded.curve(search, "search/best_accuracy_trial_3") == [(5, 1.0), (10, 1.0)]


def test_another_study_with_the_same_name_is_not_overwritten(
    embedded: Place, run: RunConfig
) -> None:
    theirs, ours = views(run)[:1], views(replace(run, seed=8))[:1]
    tracker = embedded.tracker()
    tracker.sync(theirs, state())
    with pytest.raises(TrackingError, match=r"trial 0 has seed 8, .* of it 7: another study"):
        tracker.sync(ours, state())
    tell(tracker, ours[0])
    assert not tracker.close(ENOUGH)
    assert "another study" in str(tracker.behind)
    assert_shows(embedded, theirs)


@pytest.mark.parametrize("asked", [False, True])
def test_system_metrics_are_logged_if_enabled(
    embedded: Place, run: RunConfig, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")

    def system(shown: Run) -> bool:
        return any(key.startswith("system/") for key in shown.data.metrics)

    tracker = Tracker(embedded.uri, embedded.study, embedded.location, system_metrics=asked)
    tell(tracker, views(run)[2])
    assert tracker.register([], 0) == {}  # waits until everything is written
    if asked:
        until(lambda: system(embedded.searches()[0]))
    tracker.search_ended(state(complete=False))
    assert tracker.close(ENOUGH), tracker.behind
    (search,) = embedded.searches()
    assert system(search) == asked
    assert not system(embedded.trials()[2])
    assert search.info.status == "KILLED"
    assert not [thread for thread in threading.enumerate() if "SystemMetrics" in thread.name]


def test_files_of_the_search_replace_earlier_ones(place: Place, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "index.html").write_text("first")
    (tmp_path / "figures" / "old.png").write_bytes(b"old")
    tracker = place.tracker()
    assert tracker.keep_files(tmp_path, "report")
    (tmp_path / "index.html").write_text("second")
    (tmp_path / "figures" / "old.png").rename(tmp_path / "figures" / "new.png")
    assert place.tracker().keep_files(tmp_path, "report")
    assert tracker.close(ENOUGH)
    (search,) = place.searches()
    shown = tmp_path / "shown"
    shown.mkdir()
    place.client.download_artifacts(search.info.run_id, "report", str(shown))
    kept = {str(path.relative_to(shown)) for path in shown.rglob("*") if path.is_file()}
    assert kept == {"report/index.html", "report/figures/new.png"}
    assert (shown / "report/index.html").read_text() == "second"


@pytest.mark.parametrize("stuck", [False, True])
def test_the_end_waits_for_a_slow_mlflow_but_not_for_a_stuck_one(
    embedded: Place, run: RunConfig, monkeypatch: pytest.MonkeyPatch, stuck: bool
) -> None:
    released, patience, trials = threading.Event(), 2.0, 6
    add = Experiment.add

    def slow(self: Experiment, number: int, content: RunContent) -> None:
        released.wait(ENOUGH if stuck else 0.4 * patience)
        add(self, number, content)

    tracker = embedded.tracker()
    tracker._wait_for_queue()  # so that opening takes none of the patience
    monkeypatch.setattr(Experiment, "add", slow)
    for number in range(trials):
        tracker.trial_started(spec(run, number))
    assert tracker.close(patience) is not stuck
    released.set()
    tracker._thread.join(ENOUGH)
    assert len(embedded.trials()) == trials
