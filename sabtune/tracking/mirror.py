"""MLflow's copy of a study, written during a search and synced from the stored study."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from optuna.trial import TrialState

from sabtune.analysis.conclusion import conclude
from sabtune.errors import TrackingError
from sabtune.redaction import without_secrets
from sabtune.storage.folder import Folder
from sabtune.storage.store import Store
from sabtune.study import summary
from sabtune.study.checkpoints import Attempts, history
from sabtune.study.events import KeptModel, Outcome, Overview, TrialView, Version
from sabtune.study.record import StudyRecord
from sabtune.study.summary import origin, view
from sabtune.study.trial_record import TrialRecord
from sabtune.study.writer import StudyWriter
from sabtune.tracking import Tracker
from sabtune.tracking.mlflow_client import refuse_unusable
from sabtune.training.trial import Progress, TrialSpec

DRAIN_SECONDS = 60.0
"""How long a search waits at its end for MLflow while MLflow takes nothing."""

OVERVIEW_SECONDS, OVERVIEW_FRACTION = 60.0, 0.01
"""Minimum time between two overviews of the study during a search, and the maximum fraction of the
search's time that overviews take. With more trials, an overview takes longer."""

REPORT = "report"
"""The artifact folder of a report in the search's run."""


class Mirror:
    """A watcher that writes a search to MLflow: events as they occur, and the rest at the end.

    Raises TrackingError if a package that MLflow needs for the store's files is missing, or if the
    store's MLflow cannot be used, for example because another version of MLflow created it.
    """

    def __init__(self, study: StudyWriter, store: Store, *, system_metrics: bool = False):
        refuse_unusable(store.mlflow_uri, store.artifacts)
        self.study, self.store = study, store
        record = study.read()
        self.is_resumed = bool(record.trials)
        self.tracker = _tracker(study.name, store, system_metrics=system_metrics)
        self.next_overview = 0.0
        self.started: set[int] = set()
        self._send_overview(record)

    def _send_overview(self, record: StudyRecord | None = None) -> None:
        """Send an overview of the study to the tracker, unless the last one is too recent.

        record: The study, if it has just been read.
        """
        began = time.monotonic()
        if began >= self.next_overview:
            self.tracker.search_updated(overview(record or self.study.read(), complete=False))
            now = time.monotonic()
            self.next_overview = now + max(OVERVIEW_SECONDS, (now - began) / OVERVIEW_FRACTION)

    def trial_started(self, spec: TrialSpec) -> None:
        self.started.add(spec.number)
        record = self.study.read()
        self.tracker.trial_started(spec, origin(record, record.trial(spec.number)))

    def trial_reported(self, number: int, progress: Progress) -> None:
        self.tracker.trial_reported(number, progress)

    def trial_noted(self, number: int, words: str) -> None:
        """Do nothing, because notes are only written to the study's log."""

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        if number in self.started:  # otherwise it has no configuration and no run
            self.tracker.trial_ended(number, outcome)
        self._send_overview()

    def finish(self, complete: bool) -> str:
        """Write the rest and register the best model. Return why MLflow is incomplete, or "".

        complete: Whether the study is complete.
        """
        record = nominate(self.study)
        self.tracker.search_ended(overview(record, complete))
        try:
            written = self.tracker.close(DRAIN_SECONDS)
            if self.is_resumed or not written:  # an earlier search may have left MLflow incomplete
                sync(self.study, self.store)
            else:
                register_in(self.study, record, self.tracker, self.store)
        except TrackingError as problem:
            return str(problem)
        return ""


def overview(record: StudyRecord, complete: bool) -> Overview:
    """Return the overview of a study with its conclusion.

    complete: Whether the study is complete.
    """
    return replace(summary.overview(record, complete), conclusion=conclude(record).markdown())


def _tracker(name: str, store: Store, *, system_metrics: bool = False) -> Tracker:
    return Tracker(
        store.mlflow_uri,
        name,
        store.artifacts,
        embedded=store.tracking is None,
        system_metrics=system_metrics,
    )


def sync(study: StudyWriter, store: Store) -> None:
    """Write to MLflow whatever it lacks of the study.

    Raises TrackingError if MLflow cannot be reached or used.
    """
    refuse_unusable(store.mlflow_uri, store.artifacts)
    tracker = _tracker(study.name, store)
    record = nominate(study)
    complete = all(trial.outcome is not None for trial in record.trials)
    try:
        tracker.sync(views(record, store.trials / study.name), overview(record, complete))
        register_in(study, record, tracker, store)
    finally:
        tracker.close(DRAIN_SECONDS)


def made_whole(study: StudyWriter, store: Store) -> str:
    """Sync MLflow with a complete study. Return why MLflow is incomplete, or "".

    This is needed if the last search of the study ended before it had written everything to MLflow.
    """
    try:
        sync(study, store)
    except TrackingError as problem:
        return str(problem)
    return ""


def show_champion(study: StudyWriter, store: Store) -> str:
    """Write the champion of the study to MLflow. Return why that fails, or ""."""
    tracker = _tracker(study.name, store)
    record = study.read()
    tracker.search_updated(overview(record, complete=True))
    try:
        register_in(study, record, tracker, store)
    except TrackingError as problem:
        return str(problem)
    finally:
        tracker.close(DRAIN_SECONDS)
    return ""


def views(study: StudyRecord, folder: Folder) -> Sequence[TrialView]:
    """Return a view of each trial that has started."""
    attempts = Attempts(folder)
    return [
        view(study, trial, history(attempts.checkpoints(trial.number), trial.spec))
        for trial in study.trials
        if trial.spec is not None
    ]


def nominate(study: StudyWriter) -> StudyRecord:
    """Add the best trial of a search to the trials whose models are registered.

    The first trial that is added becomes the champion, without a confirmation. After that, only
    comparisons on fresh seeds change the champion. Returns the record of the study.
    """
    record = study.read()
    best, registered = record.best, record.registered
    if best is None or record.is_comparison:
        return record
    if best.number not in {version.trial for version in registered.versions}:
        registered = registered.with_version(Version(trial=best.number))
    if registered.champion_version is None:
        registered = registered.with_champion(best.number)
    study.set_registered(registered)
    record.refresh(trials=False)
    return record


def register(study: StudyWriter, record: StudyRecord, tracker: Tracker) -> None:
    """Update MLflow's registered model from the study, and store the best model's URI in the study.

    Raises TrackingError if MLflow refuses or lacks the model.
    """
    registered, best = record.registered, record.best
    if registered.champion is None or best is None:
        return
    uris = tracker.register(registered.versions, registered.champion)
    if uris is None:
        raise TrackingError(tracker.behind or "the best model could not be registered")
    if best.number not in uris:
        raise TrackingError(
            f"MLflow has no model of trial {best.number}, the best one: its checkpoint is gone"
        )
    study.set_model(KeptModel(trial=best.number, uri=uris[best.number]))


def register_in(study: StudyWriter, record: StudyRecord, tracker: Tracker, store: Store) -> None:
    """Call `register`, and store in the study the address of the MLflow that has the model.

    Raises TrackingError if MLflow refuses or lacks the model.
    """
    register(study, record, tracker)
    study.set_tracking(store.tracking and without_secrets(store.tracking))


def keep_report(
    study: StudyRecord,
    folder: Path,
    draw: Callable[[TrialRecord, Path], None],
    seconds: float = math.inf,
) -> str:
    """Log a report to MLflow, and the figures of each complete trial that lacks them.

    The report is logged to the search's run and replaces an earlier one.

    folder: The folder of the report.

    draw: Writes the figures of a trial as PNG files into a folder.

    seconds: The time after which no more figures are drawn. Those of the best trials come first.

    Returns why MLflow doesn't have them, or "".
    """
    tracker = _tracker(study.name, study.store)
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    complete.sort(key=lambda trial: trial.score, reverse=True)
    figures = {trial.number: functools.partial(draw, trial) for trial in complete}
    try:
        if tracker.keep_files(folder, REPORT) and tracker.keep_figures(figures, seconds):
            return ""
        return tracker.behind or "MLflow didn't take it"
    finally:
        tracker.close(DRAIN_SECONDS)
