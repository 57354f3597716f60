"""MLflow's picture of a study, made from the study and its trials' checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optuna

from sabtune.errors import TrackingError
from sabtune.evaluation import Rung
from sabtune.search import record
from sabtune.search.attempts import checkpoints, history
from sabtune.search.racing import best_trial
from sabtune.search.record import TrialRecord
from sabtune.store import Store
from sabtune.tracking import Tracker
from sabtune.watcher import Picture

DRAIN = 60.0
"""Seconds that a search waits at its end for what MLflow hasn't taken yet."""


class Projection:
    """MLflow beside a search: told as it goes on, made whole at its end."""

    def __init__(self, study: optuna.Study, store: Store):
        self.study, self.store = study, store
        self.goes_on = bool(record.records(study))
        self.tracker = Tracker(store.mlflow_uri, study.study_name, store.artifacts)

    def finish(self, complete: bool) -> str:
        """Writes what is left and keeps the best model; why MLflow lacks something, or ""."""
        self.tracker.search_ended(complete, best_test(self.study))
        try:
            written = self.tracker.close(DRAIN)
            if self.goes_on or not written:  # an earlier search may have died before it was told
                sync(self.study, self.store)
            elif not keep_best(self.study, self.tracker):
                return self.tracker.behind or "the best model could not be kept"
        except TrackingError as problem:
            return str(problem)
        return ""


def sync(study: optuna.Study, store: Store) -> None:
    """Makes MLflow hold all of the study, nothing twice. Raises TrackingError if it is away."""
    tracker = Tracker(store.mlflow_uri, study.study_name, store.artifacts)
    trials = record.records(study)
    folder = store.trials / study.study_name
    complete = all(trial.outcome is not None for trial in trials)
    try:
        tracker.sync(pictures(trials, folder), complete, best_test(study))
        keep_best(study, tracker)
    finally:
        tracker.close(DRAIN)


def pictures(trials: Sequence[TrialRecord], folder: Path) -> list[Picture]:
    """All that is known of the trials that were begun."""
    return [
        Picture(
            assignment=trial.assignment,
            history=history(checkpoints(folder, trial.number)),
            outcome=trial.outcome,
        )
        for trial in trials
        if trial.assignment is not None
    ]


def best_test(study: optuna.Study) -> Sequence[Rung]:
    """The best trial's ladder on the test sequences."""
    best = best_trial(study)
    return best.test if best else []


def keep_best(study: optuna.Study, tracker: Tracker) -> bool:
    """Sees to it that MLflow holds the model of the best trial, and that the study says where.

    False if there is one to keep and MLflow didn't take it.
    """
    best = best_trial(study)
    if best is None or best.checkpoint is None:
        return True
    kept = record.model(study)
    if kept is not None and kept.trial == best.number:
        return True
    uri = tracker.keep_model(best.number, best.checkpoint)
    if uri is not None:
        record.set_model(study, record.KeptModel(trial=best.number, uri=uri))
    return uri is not None


REPORT = "report"
"""Where the search's run has the files of a report."""


def keep_report(study: optuna.Study, store: Store, folder: Path) -> bool:
    """Logs all files of `folder` to the search's run, below report/, in place of an earlier
    report's; whether MLflow took them."""
    tracker = Tracker(store.mlflow_uri, study.study_name, store.artifacts)
    try:
        return tracker.keep_files(folder, REPORT)
    finally:
        tracker.close(DRAIN)
