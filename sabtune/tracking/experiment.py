"""A study's experiment in MLflow: a run for the search, below it a run for each trial.

Nothing is written twice: what a run has is read from MLflow before it is added to. A run's tag
`sabtune.written` tells how its trial stood, and how many of its reports the run had, when all of
that had been written; where it agrees with the study, the run's curves need not be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from sabtune.errors import TrackingError
from sabtune.study.events import Overview, TrialView, Version
from sabtune.tracking import database, mlflow_client, search_run
from sabtune.tracking.datasets import inputs
from sabtune.tracking.models import Models, belongs, of_model
from sabtune.tracking.registry import Registry
from sabtune.tracking.runs import Runs, RunView, now
from sabtune.tracking.trial_run import LAST_OF_A_REPORT, RUNNING, Page, whole
from sabtune.training.checkpoint import MODEL_FILES
from sabtune.training.trial import TrialSpec

SEARCH = "sabtune.search"
WRITTEN = "sabtune.written"

KIND = "mlflow.experimentKind"
TRAINING = "custom_model_development"
"""What MLflow's page calls an experiment whose runs train models; it asks where none says."""


class ModelError(TrackingError):
    """A model whose checkpoint is damaged, or whose files MLflow doesn't take."""


class Experiment:
    """The runs of a study, as they were when it was opened and as we have changed them since.

    Every method, opening too, raises what MLflow raises: any exception.
    """

    def __init__(self, uri: str, study: str, artifacts: str | None, *, embedded: bool = False):
        database.make(uri, artifacts)
        if embedded and artifacts is not None:
            database.settle(uri, artifacts, study)
        self.client = MlflowClient(uri)
        self.study = study
        self.runs = Runs(self.client, study, artifacts)
        self.models = Models(self.client, self.runs.experiment)
        self.told: dict[tuple[str, int], float] | None = None  # of the search's run; None: unread
        self.with_inputs: set[str] = set()  # the runs whose data sets are there
        runs = self.runs.all()
        self.searches = [run for run in runs if run.tags.get(SEARCH) == study]
        self.trials: dict[int, list[RunView]] = {}  # of each number, the earliest first
        for run in runs:
            if run.number is not None:
                self.trials.setdefault(run.number, []).append(run)

    def delete_doubles(self) -> None:
        """Leaves the earliest run of the search and of each trial, and of those its model."""
        for runs in (self.searches, *self.trials.values()):
            while len(runs) > 1:
                self.client.delete_run(runs[-1].id)
                runs.pop()
        for number in self.trials:
            self.models.delete_doubles(number)

    def search(self) -> RunView:
        """The search's run."""
        if not self.searches:
            self.searches.append(self.runs.create(f"search {self.study}", {SEARCH: self.study}))
        return self.searches[0]

    def go_on(self) -> None:
        """Shows the search as one that runs."""
        self.runs.set_status(self.search(), RUNNING)

    def tell(self, overview: Overview, *, ended: bool = False) -> None:
        """Shows how the search stands: its note, its numbers, and at its end its best curve."""
        run, text = self.search(), search_run.note(overview)
        if self.told is None:
            keys = [key for key in run.metrics if not key.startswith("system/")]
            points = [point for key in keys for point in self.runs.history(run, key)]
            self.told = {(point.key, point.step): point.value for point in points}
        points = search_run.points(overview, now())
        points += search_run.curve(overview, self.told, now()) if ended else []
        told = {(point.key, point.step): point for point in points}
        new = {at: point for at, point in told.items() if self.told.get(at) != point.value}
        tags = search_run.tags(overview) | ({MLFLOW_RUN_NOTE: text} if text else {})
        self.runs.log(run, list(new.values()), {}, tags)
        self.told |= {at: point.value for at, point in new.items()}
        self.runs.set_tag(KIND, TRAINING)
        if text:
            self.runs.set_tag(MLFLOW_RUN_NOTE, text)

    def end(self, overview: Overview) -> None:
        """Shows how the search stands, and closes its run."""
        self.tell(overview, ended=True)
        self.runs.set_status(self.search(), "FINISHED" if overview.complete else "KILLED")

    def keep_files(self, folder: Path, under: str) -> None:
        """Has the search's run hold the files of a folder, and nothing else, below `under`."""
        self.runs.keep_files(self.search(), folder, under)

    def add(self, number: int, page: Page) -> None:
        """Shows what is new of a trial. Raises TrackingError if its run is another study's, and
        ModelError if its model can't be kept; all else is shown then."""
        run = self._trial(number, page)
        self._write(run, page, written=None)
        if page.outcome is not None:
            run.points = None  # it may be long; who takes the trial up again reads it anew

    def put_right(self, view: TrialView) -> None:
        """Shows all of a trial, and raises what `add` does."""
        number, history = view.spec.number, view.history
        seconds = history[-1].seconds if history else 0.0
        runs = self.trials.get(number)
        page = whole(view, runs[0].start if runs else now() - int(seconds * 1000))
        run = self._trial(number, page)
        written = f"{page.state} {len(history)}"
        if run.tags.get(WRITTEN) == written:
            page.points = []
        self._write(run, page, written)

    def register(self, versions: Sequence[Version], champion: int) -> dict[int, str]:
        """Registers the models of these trials, in this order, and lets the alias stand on the
        champion's; returns the models' URIs by trial, without those that have no model here."""
        found = [(version, self.models.find(version.trial)) for version in versions]
        there = [(version, model) for version, model in found if model is not None]
        if there:
            Registry(self.client, self.study).show(there, champion)
        return {version.trial: str(model.model_uri) for version, model in there}

    def _trial(self, number: int, page: Page) -> RunView:
        if number not in self.trials:
            if page.spec is None:
                raise TrackingError(f"MLflow has no run of trial {number}, of an earlier search")
            tags = page.tags() | {MLFLOW_PARENT_RUN_ID: self.search().id}
            self.trials[number] = [self.runs.create(page.name(), tags, page.since)]
        return self.trials[number][0]

    def _write(self, run: RunView, page: Page, written: str | None) -> None:
        """Adds what the run lacks; `written`: its new tag, counted from the run if None."""
        params, lacking = page.params(), None
        for key in params.keys() & run.params.keys():
            if params[key] != run.params[key]:
                raise TrackingError(
                    f"trial {run.number} has {key} {params[key]}, and MLflow's run {run.id} of it "
                    f"{run.params[key]}: another study {self.study!r} is shown there, rename one"
                )
        if page.spec is not None:
            self._log_inputs(run, page.spec)
        try:
            model, before = self._model(run, page)
        except Exception as problem:  # all else is to be shown all the same
            why = mlflow_client.describe(problem, self.client.tracking_uri)
            lacking = ModelError(f"the model of trial {run.number} can't be kept: {why}")
            model, before = None, []
        points = before + self._missing(run, page.points)
        if model is not None and page.spec is not None:
            points = [of_model(point, model, page.spec, run.id) for point in points]
        tags = page.tags() | {MLFLOW_PARENT_RUN_ID: self.search().id}
        if written is None:
            written = f"{page.state} {len(self.runs.points(run).get(LAST_OF_A_REPORT, ()))}"
        self.runs.log(run, points, params, tags | {WRITTEN: written})
        self.runs.set_status(run, page.status, page.until)
        if lacking is not None:
            raise lacking

    def _log_inputs(self, run: RunView, spec: TrialSpec) -> None:
        """The trial's data sets, and the search's, once."""
        for of in (run, self.search()):
            if of.id not in self.with_inputs:
                self.runs.log_inputs(of, inputs(spec))
                self.with_inputs.add(of.id)

    def _model(self, run: RunView, page: Page) -> tuple[LoggedModel | None, list[Metric]]:
        """The model of a trial that is complete, logged if need be, and the points of the ladder
        that the run had before it. None where the checkpoint was cleared away.
        """
        outcome = page.outcome
        if outcome is None or outcome.state != "COMPLETE" or page.spec is None:
            return None, []
        found = self.models.find(page.spec.number)
        if found is not None:
            return found, []
        if outcome.checkpoint is None or not outcome.checkpoint.names():
            return None, []
        with outcome.checkpoint.here(MODEL_FILES) as here:
            made = self.models.log(run.id, page, here)
        keys = [key for key in self.runs.points(run) if belongs(key)]
        return made, [point for key in keys for point in self.runs.history(run, key)]

    def _missing(self, run: RunView, points: Sequence[Metric]) -> list[Metric]:
        """Those of the points that the run lacks, which from here on count as there."""
        missing = []
        for point in points:
            steps = self.runs.points(run).setdefault(point.key, set())
            if point.step not in steps:
                steps.add(point.step)
                missing.append(point)
        return missing
