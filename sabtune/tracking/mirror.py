"""MLflow's picture of a study, made from the study and its trials' checkpoints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import optuna

from sabtune.errors import TrackingError
from sabtune.redaction import without_secrets
from sabtune.storage.folder import Folder
from sabtune.storage.store import Store
from sabtune.study import record
from sabtune.study.checkpoints import Attempts, history
from sabtune.study.configurations import best_trial
from sabtune.study.events import Outcome, TrialView, Version
from sabtune.study.record import TrialRecord
from sabtune.study.summary import origin, overview, view
from sabtune.tracking import Tracker
from sabtune.tracking.mlflow_client import refuse_database, refuse_without_client
from sabtune.training.trial import Progress, TrialSpec

DRAIN = 60.0
"""Seconds that a search waits at its end for what MLflow hasn't taken yet."""

PACE, SHARE = 60.0, 0.01
"""Between two looks at the whole study while it is searched: seconds at least, and as many that the
looks are no more than this share of the time. One takes longer the more trials there are."""

REPORT = "report"
"""Where the search's run has the files of a report."""


class Mirror:
    """MLflow beside a search: told as it goes on, made whole at its end. A watcher.

    Raises TrackingError if the store's MLflow is another version's.
    """

    def __init__(self, study: optuna.Study, store: Store, *, system_metrics: bool = False):
        refuse_without_client(store.artifacts)
        refuse_database(store.mlflow_uri)
        self.study, self.store = study, store
        self.goes_on = bool(record.records(study))
        self.tracker = _tracker(study, store, system_metrics=system_metrics)
        self.next = 0.0
        self.started: set[int] = set()
        self._look()

    def _look(self) -> None:
        """Tells how the study stands, unless it is too early for that."""
        began = time.monotonic()
        if began >= self.next:
            self.tracker.search_told(overview(self.study, complete=False))
            now = time.monotonic()
            self.next = now + max(PACE, (now - began) / SHARE)

    def trial_started(self, spec: TrialSpec) -> None:
        self.started.add(spec.number)
        begun = record.one(self.study, spec.number)
        self.tracker.trial_started(spec, origin(self.study, begun))

    def trial_reported(self, number: int, progress: Progress) -> None:
        self.tracker.trial_reported(number, progress)

    def trial_noted(self, number: int, words: str) -> None:
        """Do nothing: the study's log has it."""

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        if number in self.started:  # else it has no configuration, and so no run
            self.tracker.trial_ended(number, outcome)
        self._look()

    def finish(self, complete: bool) -> str:
        """Writes what is left and registers the best model; why MLflow lacks something, or ""."""
        nominate(self.study)
        self.tracker.search_ended(overview(self.study, complete))
        try:
            written = self.tracker.close(DRAIN)
            if self.goes_on or not written:  # an earlier search may have died before it was told
                sync(self.study, self.store)
            else:
                register_in(self.study, self.tracker, self.store)
        except TrackingError as problem:
            return str(problem)
        return ""


def _tracker(study: optuna.Study, store: Store, *, system_metrics: bool = False) -> Tracker:
    return Tracker(
        store.mlflow_uri,
        study.study_name,
        store.artifacts,
        embedded=store.tracking is None,
        system_metrics=system_metrics,
    )


def sync(study: optuna.Study, store: Store) -> None:
    """Makes MLflow hold all of the study, nothing twice. Raises TrackingError if it is away, or
    another version's."""
    refuse_without_client(store.artifacts)
    refuse_database(store.mlflow_uri)
    tracker = _tracker(study, store)
    trials = record.records(study)
    folder = store.trials / study.study_name
    complete = all(trial.outcome is not None for trial in trials)
    nominate(study)
    try:
        tracker.sync(views(study, trials, folder), overview(study, complete))
        register_in(study, tracker, store)
    finally:
        tracker.close(DRAIN)


def made_whole(study: optuna.Study, store: Store) -> str:
    """`sync`, where nothing is left to do: the search that did it may have died before MLflow was
    told. Why MLflow lacks something, or ""."""
    try:
        sync(study, store)
    except TrackingError as problem:
        return str(problem)
    return ""


def show_champion(study: optuna.Study, store: Store) -> str:
    """Has MLflow show whom the study stands by; why it doesn't, or ""."""
    tracker = _tracker(study, store)
    tracker.search_told(overview(study, complete=True))
    try:
        register_in(study, tracker, store)
    except TrackingError as problem:
        return str(problem)
    finally:
        tracker.close(DRAIN)
    return ""


def views(
    study: optuna.Study, trials: Sequence[TrialRecord], folder: Folder
) -> Sequence[TrialView]:
    """All that is known of the trials that were begun."""
    attempts = Attempts(folder)
    return [
        view(study, trial, history(attempts.checkpoints(trial.number), trial.spec))
        for trial in trials
        if trial.spec is not None
    ]


def nominate(study: optuna.Study) -> None:
    """Has the best trial of a search among those whose models are registered. The first is the
    champion, unconfirmed: from then on that is for comparisons on fresh seeds to change."""
    best = best_trial(study)
    if best is None or record.COMPARISON in record.plan(study):
        return
    known = record.registered(study)
    if best.number not in {version.trial for version in known.versions}:
        known = known.with_version(Version(trial=best.number))
    if known.champion_version is None:
        known = known.with_champion(best.number)
    record.set_registered(study, known)


def register(study: optuna.Study, tracker: Tracker) -> None:
    """Has MLflow's registered model agree with what the study says, and the study say where the
    best trial's model is. Raises TrackingError if MLflow doesn't take it, or lacks the model."""
    known, best = record.registered(study), best_trial(study)
    if known.champion is None or best is None:
        return
    uris = tracker.register(known.versions, known.champion)
    if uris is None:
        raise TrackingError(tracker.behind or "the best model could not be registered")
    if best.number not in uris:
        raise TrackingError(
            f"MLflow has no model of trial {best.number}, the best: its checkpoint is gone"
        )
    kept = record.KeptModel(trial=best.number, uri=uris[best.number])
    if record.model(study) != kept:
        record.set_model(study, kept)


def register_in(study: optuna.Study, tracker: Tracker, store: Store) -> None:
    """`register`, and the study says which MLflow has the model."""
    register(study, tracker)
    record.set_tracking(study, store.tracking and without_secrets(store.tracking))


def keep_report(study: optuna.Study, store: Store, folder: Path) -> bool:
    """Logs all files of `folder` to the search's run, below report/, in place of an earlier
    report's; whether MLflow took them."""
    tracker = _tracker(study, store)
    try:
        return tracker.keep_files(folder, REPORT)
    finally:
        tracker.close(DRAIN)
