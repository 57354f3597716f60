"""An experiment's runs, read from MLflow and added to, so that nothing is written twice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from sabtune.tracking.database import refuse_elsewhere
from sabtune.tracking.trial_run import NUMBER, RUNNING

BATCH = 700
"""Metrics a request: with at most 100 params and 100 tags they stay below MLflow's 1000 in all."""


@dataclass
class RunView:
    """A run as MLflow has it."""

    id: str
    status: str
    start: int  # ms since 1970
    tags: dict[str, str]
    params: dict[str, str]
    metrics: set[str]
    inputs: set[str]  # the digests of its data sets
    points: dict[str, set[int]] | None = None  # the steps of each curve; None: not read

    @classmethod
    def of(cls, run: Run) -> RunView:
        info, data = run.info, run.data
        return cls(
            id=info.run_id,
            status=info.status,
            start=info.start_time,
            tags=dict(data.tags),
            params=dict(data.params),
            metrics=set(data.metrics),
            inputs={of.dataset.digest for of in run.inputs.dataset_inputs} if run.inputs else set(),
        )

    @property
    def number(self) -> int | None:
        """The trial's; None of a run that shows no trial."""
        number = self.tags.get(NUMBER, "")
        return int(number) if number.isdecimal() else None


class Runs:
    """The runs of one experiment, which is made if need be.

    Every method, opening too, raises what MLflow raises: any exception. Opening raises
    TrackingError if the experiment keeps its files elsewhere than at `artifacts`.
    """

    def __init__(self, client: MlflowClient, name: str, artifacts: str | None):
        self.client = client
        found = client.get_experiment_by_name(name)
        if found is not None:
            refuse_elsewhere(str(found.artifact_location), artifacts, name)
        self.tags = dict(found.tags) if found else {}
        if found is None:
            self.experiment = str(client.create_experiment(name, artifact_location=artifacts))
        else:
            self.experiment = str(found.experiment_id)
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(self.experiment)

    def all(self) -> list[RunView]:
        """All there are, the earliest first."""
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
        """A new run, begun at `since` (ms since 1970), or now."""
        made = self.client.create_run(
            self.experiment, start_time=since, run_name=name, tags=dict(tags)
        )
        shown = RunView.of(made)
        shown.points = {}
        return shown

    def points(self, run: RunView) -> dict[str, set[int]]:
        """The steps of each of its curves."""
        if run.points is None:
            keys = self.client.get_run(run.id).data.metrics
            run.points = {key: {point.step for point in self.history(run, key)} for key in keys}
        return run.points

    def history(self, run: RunView, key: str) -> list[Metric]:
        """All points of a curve, the latest told last."""
        points = self.client.get_metric_history(run.id, key)
        return sorted(points, key=lambda point: int(point.timestamp))

    def log(
        self,
        run: RunView,
        points: list[Metric],
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> None:
        """Writes these points, and what else the run lacks, tags last: they vouch for the rest."""
        new_params = {key: value for key, value in params.items() if key not in run.params}
        new_tags = {key: value for key, value in tags.items() if run.tags.get(key) != value}
        while len(points) > BATCH:
            self.client.log_batch(run.id, metrics=points[:BATCH])
            points = points[BATCH:]
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
        """Those of the data sets that the run lacks."""
        missing = [of for of in data if of.dataset.digest not in run.inputs]
        if missing:
            self.client.log_inputs(run.id, datasets=missing)
            run.inputs |= {of.dataset.digest for of in missing}

    def set_status(self, run: RunView, status: str, when: int | None = None) -> None:
        """MLflow's status; `when`: ms since 1970, or now."""
        if run.status == status:
            return
        if status == RUNNING:
            self.client.update_run(run.id, status=status)
        else:
            self.client.set_terminated(run.id, status, end_time=when)
        run.status = status

    def set_tag(self, key: str, value: str) -> None:
        """The experiment's."""
        if self.tags.get(key) != value:
            self.client.set_experiment_tag(self.experiment, key, value)
            self.tags[key] = value

    def keep_files(self, run: RunView, folder: Path, under: str) -> None:
        """Has a run hold the files of a folder, and nothing else, below `under`."""
        self.client.log_artifacts(run.id, str(folder), under)
        kept = {f"{under}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*")}
        location = self.client.get_run(run.id).info.artifact_uri
        files = get_artifact_repository(location, tracking_uri=self.client.tracking_uri)
        for stale in [path for path in self._files(run, under) if path not in kept]:
            files.delete_artifacts(stale)  # type: ignore[no-untyped-call]

    def _files(self, run: RunView, under: str) -> list[str]:
        """Every file of a run's below a folder of its."""
        found = []
        for entry in self.client.list_artifacts(run.id, under):
            found += self._files(run, entry.path) if entry.is_dir else [entry.path]
        return found


def now() -> int:
    """ms since 1970."""
    return int(time.time() * 1000)
