"""The runs of an experiment, read from MLflow so that nothing is written twice."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from sabtune.tracking.database import refuse_elsewhere
from sabtune.tracking.trial_run import NUMBER, RUNNING

BATCH_METRICS = 700
"""Metrics per request. MLflow allows 1000 entries, of which at most 200 are params and tags."""


@dataclass
class RunView:
    """A run as MLflow has it."""

    id: str
    name: str
    status: str
    start: int  # ms since 1970
    tags: dict[str, str]
    params: dict[str, str]
    metrics: set[str]
    inputs: set[str]  # digests of its datasets
    points: dict[str, set[int]] | None = None  # steps of each metric; None: not read

    @classmethod
    def of(cls, run: Run) -> RunView:
        """Return the view of an MLflow run."""
        info, data = run.info, run.data
        return cls(
            id=info.run_id,
            name=info.run_name,
            status=info.status,
            start=info.start_time,
            tags=dict(data.tags),
            params=dict(data.params),
            metrics=set(data.metrics),
            inputs={entry.dataset.digest for entry in run.inputs.dataset_inputs}
            if run.inputs
            else set(),
        )

    @property
    def number(self) -> int | None:
        """The number of the trial, or None if the run is not of a trial."""
        number = self.tags.get(NUMBER, "")
        return int(number) if number.isdecimal() else None


class Runs:
    """The runs of one experiment, which is created if it does not exist.

    Every method, including the constructor, may raise any exception of MLflow. The constructor
    raises TrackingError if the experiment stores its files elsewhere than at `artifacts`.
    """

    def __init__(self, client: MlflowClient, name: str, artifacts: str | None):
        self.client = client
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            refuse_elsewhere(str(experiment.artifact_location), artifacts, name)
        self.tags = dict(experiment.tags) if experiment else {}
        if experiment is None:
            self.experiment = str(client.create_experiment(name, artifact_location=artifacts))
        else:
            self.experiment = str(experiment.experiment_id)
            if experiment.lifecycle_stage == "deleted":
                client.restore_experiment(self.experiment)

    def all(self) -> list[RunView]:
        """Return all runs, the earliest first."""
        runs: list[RunView] = []
        page = None
        while page is None or page.token:
            page = self.client.search_runs(
                [self.experiment],
                order_by=["attributes.start_time ASC"],
                page_token=page.token if page else None,
            )
            runs += [RunView.of(run) for run in page]
        return runs

    def create(self, name: str, tags: Mapping[str, str], since: int | None = None) -> RunView:
        """Create a run that started at `since` (ms since 1970), or now."""
        run = self.client.create_run(
            self.experiment, start_time=since, run_name=name, tags=dict(tags)
        )
        view = RunView.of(run)
        view.points = {}
        return view

    def points(self, run: RunView) -> dict[str, set[int]]:
        """Return the steps of each metric of a run, read from MLflow once."""
        if run.points is None:
            keys = self.client.get_run(run.id).data.metrics
            run.points = {key: {point.step for point in self.history(run, key)} for key in keys}
        return run.points

    def history(self, run: RunView, key: str) -> list[Metric]:
        """Return all points of a metric, ordered by the time they were logged at."""
        points = self.client.get_metric_history(run.id, key)
        return sorted(points, key=lambda point: int(point.timestamp))

    def log(
        self,
        run: RunView,
        points: list[Metric],
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> None:
        """Write these points, and the params and tags that the run lacks.

        Tags are in the last request, because they certify that the rest is written.
        """
        new_params = {key: value for key, value in params.items() if key not in run.params}
        new_tags = {key: value for key, value in tags.items() if run.tags.get(key) != value}
        run.metrics |= {point.key for point in points}
        while len(points) > BATCH_METRICS:
            self.client.log_batch(run.id, metrics=points[:BATCH_METRICS])
            points = points[BATCH_METRICS:]
        if points or new_params or new_tags:
            self.client.log_batch(
                run.id,
                metrics=points,
                params=[Param(key, value) for key, value in new_params.items()],
                tags=[RunTag(key, value) for key, value in new_tags.items()],
            )
        run.params |= new_params
        run.tags |= new_tags

    def log_inputs(self, run: RunView, data: list[DatasetInput]) -> None:
        """Log the datasets that the run lacks."""
        missing = [entry for entry in data if entry.dataset.digest not in run.inputs]
        if missing:
            self.client.log_inputs(run.id, datasets=missing)
            run.inputs |= {entry.dataset.digest for entry in missing}

    def set_status(self, run: RunView, status: str, when: int | None = None) -> None:
        """Set MLflow's status of a run.

        when: The time at which the run ended, in ms since 1970; None: now. Unused for RUNNING.
        """
        if run.status == status:
            return
        if status == RUNNING:
            self.client.update_run(run.id, status=status)
        else:
            self.client.set_terminated(run.id, status, end_time=when)
        run.status = status

    def rename(self, run: RunView, name: str) -> None:
        """Set the name of a run."""
        if run.name != name:
            self.client.update_run(run.id, name=name)
            run.name = name

    def set_tag(self, key: str, value: str) -> None:
        """Set a tag of the experiment."""
        if self.tags.get(key) != value:
            self.client.set_experiment_tag(self.experiment, key, value)
            self.tags[key] = value

    def keep_files(self, run: RunView, folder: Path, under: str) -> None:
        """Log the files of a folder below `under`, and delete other files there."""
        self.client.log_artifacts(run.id, str(folder), under)
        current = {f"{under}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*")}
        self._delete(run, [path for path in self._files(run, under) if path not in current])

    def _delete(self, run: RunView, paths: Sequence[str]) -> None:
        """Delete files of a run."""
        if paths:
            location = self.client.get_run(run.id).info.artifact_uri
            files = get_artifact_repository(location, tracking_uri=self.client.tracking_uri)
            for path in paths:
                files.delete_artifacts(path)  # type: ignore[no-untyped-call]

    def _files(self, run: RunView, under: str) -> list[str]:
        """Return the paths of all files of a run below a folder."""
        paths = []
        for entry in self.client.list_artifacts(run.id, under):
            paths += self._files(run, entry.path) if entry.is_dir else [entry.path]
        return paths


def now() -> int:
    """Return the time in ms since 1970."""
    return int(time.time() * 1000)
