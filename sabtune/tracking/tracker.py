"""A study as an MLflow experiment: a run for the search, below it a run for each trial.

Metrics of a trial, all but the ladder's by training step:

    loss, accuracy, gradient_norm, skipped_updates, updates_per_second, score, k_top
    ladder_accuracy    the step is the length; on the sequences that chose
    test_accuracy      the step is the length; on sequences that chose nothing
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from sabtune.config import RunConfig
from sabtune.evaluation import Rung
from sabtune.schema import flatten
from sabtune.store import Store
from sabtune.tracking import recall
from sabtune.training import Report
from sabtune.watcher import Outcome, State

SEARCH = "sabtune.search"
NUMBER = "sabtune.number"
REASON = "sabtune.reason"
STATE = "sabtune.state"

STATUS: Mapping[State, str] = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
"""MLflow's run status for each way a trial can end."""


class Tracker:
    """Shows a search in MLflow. The runs of an earlier search of the study are gone on with."""

    def __init__(self, store: Store, study: str):
        for noisy in ("alembic", "mlflow"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        mlflow.set_tracking_uri(store.mlflow_uri)
        self.client = MlflowClient()
        self.experiment = self._experiment(study, store.artifacts)
        self.search = self._search_run(study)
        self.runs: dict[int, str] = {}  # the MLflow run of each trial number

    def trial_started(self, number: int, run: RunConfig) -> None:
        tags = {MLFLOW_PARENT_RUN_ID: self.search, NUMBER: str(number)}
        name = f"#{number} {run.trial.model.label()}"
        self.runs[number] = self.client.create_run(
            self.experiment, run_name=name, tags=tags
        ).info.run_id
        values = flatten(run.to_dict())
        params = [Param(key, str(value)) for key, value in values.items()]
        self.client.log_batch(self.runs[number], params=params)

    def trial_reported(
        self, number: int, report: Report, ladder: Sequence[Rung], score: float
    ) -> None:
        now = _now()
        values = {
            "loss": report.loss,
            "accuracy": report.accuracy,
            "gradient_norm": report.gradient_norm,
            "skipped_updates": report.skipped,
            "updates_per_second": report.updates_per_second,
            "score": score,
        } | report.in_force
        metrics = [Metric(key, value, now, report.step) for key, value in values.items()]
        self.client.log_batch(self.runs[number], metrics=metrics)

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        run = self.runs.get(number) or self._find(f"tags.`{NUMBER}` = '{number}'")
        if run is None:
            return  # it ended before it began
        metrics = _by_length("ladder_accuracy", outcome.ladder)
        metrics += _by_length("test_accuracy", outcome.test)
        tags = [RunTag(STATE, outcome.state), RunTag(REASON, outcome.reason)]
        self.client.log_batch(run, metrics=metrics, tags=tags)
        self.client.set_terminated(run, STATUS[outcome.state])

    def search_ended(self, complete: bool, best: Sequence[Rung]) -> None:
        """Closes the search's run, with the best trial's ladder on the test sequences."""
        self.client.log_batch(self.search, metrics=_by_length("best_test_accuracy", best))
        self.client.set_terminated(self.search, "FINISHED" if complete else "KILLED")

    def keep_model(self, number: int, checkpoint: Path) -> str:
        """Logs a trial's model; returns the URI that mlflow.pyfunc.load_model takes."""
        run = self._find(f"tags.`{NUMBER}` = '{number}'")
        return recall.log(checkpoint, run_id=run, name=f"trial-{number}")

    def _experiment(self, study: str, artifacts: Path) -> str:
        found = self.client.get_experiment_by_name(study)
        if found is not None:
            return str(found.experiment_id)
        return self.client.create_experiment(study, artifact_location=artifacts.as_uri())

    def _search_run(self, study: str) -> str:
        run = self._find(f"tags.`{SEARCH}` = '{study}'")
        if run is None:
            created = self.client.create_run(
                self.experiment, run_name=f"search {study}", tags={SEARCH: study}
            )
            return str(created.info.run_id)
        self.client.update_run(run, status="RUNNING")
        return run

    def _find(self, condition: str) -> str | None:
        runs = self.client.search_runs([self.experiment], condition, max_results=1)
        return str(runs[0].info.run_id) if runs else None


def _by_length(key: str, rungs: Sequence[Rung]) -> list[Metric]:
    now = _now()
    return [Metric(key, rung.accuracy, now, rung.length) for rung in rungs]


def _now() -> int:
    return int(time.time() * 1000)
