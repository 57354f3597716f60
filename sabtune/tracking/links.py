"""The studies that MLflow shows, and the addresses of their views."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass

from mlflow import MlflowClient

from sabtune.study.names import COMPARISONS, kind
from sabtune.tracking import mlflow_client, view
from sabtune.tracking.experiment import SEARCH

MAX_STUDIES = 1000
"""Maximum number of studies that are looked up."""


@dataclass(frozen=True)
class ShownStudy:
    """A study that MLflow shows, and the ID of its experiment."""

    name: str
    experiment: str

    @property
    def path(self) -> str:
        """The part of its view's address that follows the address of MLflow."""
        return view.path(self.experiment)


def shown_studies(uri: str) -> list[ShownStudy]:
    """Return the studies that MLflow shows, the newest first.

    The study that was searched last comes before all others. A comparison counts as a search of the
    study that it compares. Raises any exception of MLflow.
    """
    client = MlflowClient(uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    newest = ["attributes.start_time DESC"]
    searches = client.search_runs(
        experiments, f"tags.`{SEARCH}` != ''", order_by=newest, max_results=MAX_STUDIES
    )
    studies = [ShownStudy(run.data.tags[SEARCH], run.info.experiment_id) for run in searches]
    names = {study.experiment: study.name for study in studies}
    for run in client.search_runs(experiments, order_by=newest, max_results=1):
        last = names.get(run.info.experiment_id, "")
        if kind(last) in COMPARISONS and last.rpartition(".")[0] in names.values():
            last = last.rpartition(".")[0]
        studies.sort(key=lambda study: study.name != last)
    return studies


def server_address(uri: str, study: str) -> str | None:
    """Return the address of a study's view on an MLflow server.

    Returns None if `uri` is of a database, if the server doesn't have the study, or if it doesn't
    answer within `ANSWER_SECONDS`.
    """
    if not mlflow_client.is_server(uri):
        return None
    found: list[str] = []

    def ask() -> None:
        with suppress(Exception):
            experiment = MlflowClient(uri).get_experiment_by_name(study)
            found.extend([experiment.experiment_id] if experiment else [])

    mlflow_client.hasten(uri)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(mlflow_client.ANSWER_SECONDS)
    address = mlflow_client.shown(uri).rstrip("/")
    return next((address + view.path(experiment) for experiment in found), None)
