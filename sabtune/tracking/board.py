"""A study's experiment in MLflow: a run for the search, below it a run for each trial.

Nothing is written twice: what a run has is read from MLflow before it is added to. A run's tag
`sabtune.written` tells how its trial stood, and how many of its reports the run had, when all of
that had been written; where it agrees with the study, the run's curves need not be read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from sabtune.errors import TrackingError
from sabtune.evaluation import Rung
from sabtune.tracking.page import LAST_OF_A_REPORT, NUMBER, RUNNING, Page, by_length, whole
from sabtune.watcher import Picture

SEARCH = "sabtune.search"
WRITTEN = "sabtune.written"
BEST = "best_test_accuracy"

BATCH = 700
"""Metrics a request: with at most 100 params and 100 tags they stay below MLflow's 1000 in all."""


@dataclass
class Shown:
    """A run as MLflow has it."""

    id: str
    status: str
    start: int  # ms since 1970
    tags: dict[str, str]
    params: dict[str, str]
    points: dict[str, set[int]] | None = None  # the steps of each curve; None: not read

    @classmethod
    def of(cls, run: Run) -> Shown:
        info, data = run.info, run.data
        return cls(info.run_id, info.status, info.start_time, dict(data.tags), dict(data.params))

    @property
    def number(self) -> int | None:
        """The trial's; None of a run that shows no trial."""
        number = self.tags.get(NUMBER, "")
        return int(number) if number.isdecimal() else None


class Board:
    """The runs of a study, as they were when it was opened and as we have changed them since.

    Every method, opening too, raises what MLflow raises: any exception.
    """

    def __init__(self, uri: str, study: str, artifacts: Path | None):
        self.client = MlflowClient(uri)
        self.study = study
        self.experiment = self._experiment(artifacts)
        runs = self._runs()
        self.searches = [run for run in runs if run.tags.get(SEARCH) == study]
        self.trials: dict[int, list[Shown]] = {}  # of each number, the earliest first
        for run in runs:
            if run.number is not None:
                self.trials.setdefault(run.number, []).append(run)

    def delete_doubles(self) -> None:
        """Leaves the earliest run of the search and of each trial."""
        for runs in (self.searches, *self.trials.values()):
            while len(runs) > 1:
                self.client.delete_run(runs[-1].id)
                runs.pop()

    def search(self) -> Shown:
        """The search's run."""
        if not self.searches:
            created = self.client.create_run(
                self.experiment, run_name=f"search {self.study}", tags={SEARCH: self.study}
            )
            self.searches.append(Shown.of(created))
        return self.searches[0]

    def go_on(self) -> None:
        """Shows the search as one that runs."""
        self._set_status(self.search(), RUNNING)

    def end(self, complete: bool, best: Sequence[Rung]) -> None:
        """Closes the search's run, with the best trial's ladder on the test sequences."""
        run = self.search()
        shown = sorted(self._history(run, BEST), key=lambda point: point.timestamp) if best else []
        has = {point.step: point.value for point in shown}  # another trial may have been the best
        points = by_length(BEST, best, now())
        self._log(run, [point for point in points if has.get(point.step) != point.value], {}, {})
        self._set_status(run, "FINISHED" if complete else "KILLED")

    def add(self, number: int, page: Page) -> None:
        """Shows what is new of a trial. Raises TrackingError if its run is another study's."""
        run = self._trial(number, page)
        self._write(run, page, written=None)
        if page.outcome is not None:
            run.points = None  # it may be long; who takes the trial up again reads it anew

    def keep_files(self, folder: Path, under: str) -> None:
        """Has the search's run hold the files of a folder, and nothing else, below `under`."""
        run = self.search()
        self.client.log_artifacts(run.id, str(folder), under)
        kept = {f"{under}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*")}
        location = self.client.get_run(run.id).info.artifact_uri
        files = get_artifact_repository(location, tracking_uri=self.client.tracking_uri)
        for stale in [path for path in self._files(run, under) if path not in kept]:
            files.delete_artifacts(stale)

    def _files(self, run: Shown, under: str) -> list[str]:
        """Every file of a run's below a folder of its."""
        found = []
        for entry in self.client.list_artifacts(run.id, under):
            found += self._files(run, entry.path) if entry.is_dir else [entry.path]
        return found

    def put_right(self, picture: Picture) -> None:
        """Shows all of a trial. Raises TrackingError if its run is another study's."""
        number, history = picture.assignment.number, picture.history
        seconds = history[-1].seconds if history else 0.0
        runs = self.trials.get(number)
        page = whole(picture, runs[0].start if runs else now() - int(seconds * 1000))
        run = self._trial(number, page)
        written = f"{page.state} {len(history)}"
        if run.tags.get(WRITTEN) == written:
            page.points = []
        self._write(run, page, written)

    def _trial(self, number: int, page: Page) -> Shown:
        if number not in self.trials:
            if page.assignment is None:
                raise TrackingError(f"MLflow has no run of trial {number}, of an earlier search")
            created = self.client.create_run(
                self.experiment,
                start_time=page.since,
                run_name=page.name(),
                tags=page.tags() | {MLFLOW_PARENT_RUN_ID: self.search().id},
            )
            self.trials[number] = [Shown.of(created)]
            self.trials[number][0].points = {}
        return self.trials[number][0]

    def _write(self, run: Shown, page: Page, written: str | None) -> None:
        """Adds what the run lacks; `written`: its new tag, counted from the run if None."""
        params = page.params()
        for key in params.keys() & run.params.keys():
            if params[key] != run.params[key]:
                raise TrackingError(
                    f"trial {run.number} has {key} {params[key]}, and MLflow's run {run.id} of it "
                    f"{run.params[key]}: another study {self.study!r} is shown there, rename one"
                )
        points = self._missing(run, page.points)
        tags = page.tags() | {MLFLOW_PARENT_RUN_ID: self.search().id}
        if written is None:
            written = f"{page.state} {len(self._points(run).get(LAST_OF_A_REPORT, ()))}"
        self._log(run, points, params, tags | {WRITTEN: written})
        self._set_status(run, page.status, page.until)

    def _missing(self, run: Shown, points: Sequence[Metric]) -> list[Metric]:
        """Those of the points that the run lacks, which from here on count as there."""
        missing = []
        for point in points:
            steps = self._points(run).setdefault(point.key, set())
            if point.step not in steps:
                steps.add(point.step)
                missing.append(point)
        return missing

    def _points(self, run: Shown) -> dict[str, set[int]]:
        if run.points is None:
            keys = self.client.get_run(run.id).data.metrics
            run.points = {key: {point.step for point in self._history(run, key)} for key in keys}
        return run.points

    def _history(self, run: Shown, key: str) -> list[Metric]:
        return list(self.client.get_metric_history(run.id, key))

    def _log(
        self, run: Shown, points: list[Metric], params: dict[str, str], tags: dict[str, str]
    ) -> None:
        """Writes what the run lacks, tags last: they vouch for the rest."""
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

    def _set_status(self, run: Shown, status: str, when: int | None = None) -> None:
        if run.status == status:
            return
        if status == RUNNING:
            self.client.update_run(run.id, status=status)
        else:
            self.client.set_terminated(run.id, status, end_time=when)
        run.status = status

    def _experiment(self, artifacts: Path | None) -> str:
        found = self.client.get_experiment_by_name(self.study)
        if found is None:
            location = artifacts.as_uri() if artifacts else None
            return str(self.client.create_experiment(self.study, artifact_location=location))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _runs(self) -> list[Shown]:
        """All there are, the earliest first."""
        runs: list[Shown] = []
        page = None
        while page is None or page.token:
            page = self.client.search_runs(
                [self.experiment],
                order_by=["attributes.start_time ASC"],
                page_token=page.token if page else None,
            )
            runs += [Shown.of(run) for run in page]
        return runs


def now() -> int:
    """ms since 1970."""
    return int(time.time() * 1000)
