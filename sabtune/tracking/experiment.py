"""The MLflow experiment of a study: a run for the search, with a child run for each trial.

Nothing is written twice, because the content of a run is read before it is extended. A run's tag
`sabtune.written` contains the trial's state and the number of reports when the run was last
complete, and the version of the names. If the tag agrees with the study, the run's metrics need
not be read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from sabtune.errors import TrackingError
from sabtune.study.events import Overview, TrialView, Version
from sabtune.tracking import database, mlflow_client, search_run, view
from sabtune.tracking.datasets import inputs
from sabtune.tracking.models import Models, belongs, of_model
from sabtune.tracking.registry import Registry
from sabtune.tracking.runs import Runs, RunView, now
from sabtune.tracking.trial_run import (
    FORMER_PREFIX,
    LAST_METRIC,
    PEAK_MEMORY,
    RUNNING,
    RunContent,
    full_content,
)
from sabtune.training.checkpoint import MODEL_FILES
from sabtune.training.trial import TrialSpec

SEARCH = "sabtune.search"
WRITTEN = "sabtune.written"

KIND = "mlflow.experimentKind"
TRAINING = "custom_model_development"
"""MLflow's name for an experiment that trains models. Without it, MLflow's UI asks for the kind."""


REPORT = "sabtune.report"
"""The tag of the search's run with the path of its report."""

FIGURES, FIGURES_VERSION = "sabtune.figures", "1"
"""The tag of a trial's run that has figures, and the version of the figures. The value of the tag
is the version and the names of the files."""

NAMES = 2
"""The version of the names of metrics and params. Increase it when a name changes, so that `sync`
logs the metrics of complete runs again."""


def _written(state: str, reports: int) -> str:
    """Return the value of the tag `WRITTEN`."""
    return f"{state} {reports} names {NAMES}"


OWN_NOTE = re.compile(r"((Complete|Pruned|Failed)(: .*)?(\n\n!\[.*\]\(get-artifact\?.*\))*)?")
"""A description of a trial's run that sabtune wrote."""

IMAGE = "\n\n!["
"""The start of an image in the description of a trial's run."""


def _note(run: RunView) -> str:
    """Return the description of a run, or ""."""
    return run.tags.get(MLFLOW_RUN_NOTE, "")


def _described(run: RunView, text: str, figures: str) -> dict[str, str]:
    """Return the tag of a run's description. A description that a user wrote stays as it is.

    text: The words of the description.

    figures: The value of the tag `FIGURES`, whose figures follow the words.
    """
    images = [f"\n\n{view.image(run.id, name)}" for name in figures.split()[1:]]
    note = "".join([text, *images])
    if OWN_NOTE.fullmatch(_note(run)) is None or (not note and MLFLOW_RUN_NOTE not in run.tags):
        return {}
    return {MLFLOW_RUN_NOTE: note}


class ModelError(TrackingError):
    """A model that cannot be logged: its checkpoint is damaged, or MLflow refuses its files."""


class Experiment:
    """The runs of a study in MLflow. The constructor reads them, and methods keep them current.

    Every method, including the constructor, may raise any exception of MLflow.
    """

    def __init__(self, uri: str, study: str, artifacts: str | None, *, embedded: bool = False):
        database.make(uri, artifacts)
        if embedded and artifacts is not None:
            database.settle(uri, artifacts, study)
        self.client = MlflowClient(uri)
        self.study = study
        self.runs = Runs(self.client, study, artifacts)
        self.models = Models(self.client, self.runs.experiment)
        # values in the search's run by metric and step; None: not read
        self.logged: dict[tuple[str, int], float] | None = None
        self.with_inputs: set[str] = set()  # runs whose datasets are logged
        runs = self.runs.all()
        self.searches = [run for run in runs if run.tags.get(SEARCH) == study]
        self.trials: dict[int, list[RunView]] = {}  # by number, the earliest first
        for run in runs:
            if run.number is not None:
                self.trials.setdefault(run.number, []).append(run)

    def delete_doubles(self) -> None:
        """Delete all but the earliest run of the search and of each trial, and duplicate models."""
        for runs in (self.searches, *self.trials.values()):
            while len(runs) > 1:
                self.client.delete_run(runs[-1].id)
                runs.pop()
        for number in self.trials:
            self.models.delete_doubles(number)

    def search(self) -> RunView:
        """Return the search's run, created if it does not exist."""
        if not self.searches:
            self.searches.append(self.runs.create(f"search {self.study}", {SEARCH: self.study}))
        return self.searches[0]

    def mark_running(self) -> None:
        """Set the status of the search's run to running."""
        self.runs.set_status(self.search(), RUNNING)

    def update_search(self, overview: Overview, *, ended: bool = False) -> None:
        """Update the description, tags and metrics of the search's run.

        ended: Whether the search has ended; if so, also log the best trial's accuracy by length.
        """
        run, text = self.search(), search_run.description(overview)
        if self.logged is None:
            keys = [key for key in run.metrics if not key.startswith("system/")]
            points = [point for key in keys for point in self.runs.history(run, key)]
            self.logged = {(point.key, point.step): point.value for point in points}
        points = search_run.points(overview, now())
        points += search_run.curve(overview, self.logged, now()) if ended else []
        current = {(point.key, point.step): point for point in points}
        new = {at: point for at, point in current.items() if self.logged.get(at) != point.value}
        tags = search_run.tags(overview) | ({MLFLOW_RUN_NOTE: text} if text else {})
        self.runs.log(run, list(new.values()), {}, tags)
        self.logged |= {at: point.value for at, point in new.items()}
        self.runs.set_tag(KIND, TRAINING)
        if text:
            self._describe(text)
        self._save_view(overview)

    def _describe(self, text: str) -> None:
        """Set the description of the experiment, after the link to the report."""
        note = f"{self._link()}{text}"[: search_run.DESCRIPTION_CHARACTERS]
        self.runs.set_tag(MLFLOW_RUN_NOTE, note)

    def _link(self) -> str:
        """Return the link to the report that begins the experiment's description, or "".

        MLflow shows only the first line of the description until it is unfolded.
        """
        run = self.search()
        report = run.tags.get(REPORT)
        if report is None:
            return ""
        path = view.artifact_path(self.runs.experiment, run.id, report)
        return f"[Report]({path}) · "

    def _save_view(self, overview: Overview) -> None:
        """Save the view of the experiment, unless it is saved already."""
        trials = [runs[0] for _, runs in sorted(self.trials.items())]
        state = view.state(trials, overview)
        if state != view.saved_state(self.runs.tags):
            self.runs.set_tag(view.TAG, view.envelope(state, now()))

    def end(self, overview: Overview) -> None:
        """Update the search's run and set its final status."""
        self.update_search(overview, ended=True)
        self.runs.set_status(self.search(), "FINISHED" if overview.complete else "KILLED")

    def keep_files(self, folder: Path, under: str) -> None:
        """Log the files of a folder to the search's run below `under`, and delete others there.

        If one of them is a page, the experiment's description begins with a link to it.
        """
        run = self.search()
        self.runs.keep_files(run, folder, under)
        for page in sorted(folder.glob("*.html"))[:1]:
            had, text = self._link(), self.runs.tags.get(MLFLOW_RUN_NOTE, "")
            self.runs.log(run, [], {}, {REPORT: f"{under}/{page.name}"})
            if text:
                self._describe(text.removeprefix(had))

    def lacks_figures(self, number: int) -> bool:
        """Return whether a trial has a run without figures, or with those of another version."""
        runs = self.trials.get(number, [])
        return any(run.tags.get(FIGURES, "").split()[:1] != [FIGURES_VERSION] for run in runs[:1])

    def keep_figures(self, number: int, folder: Path) -> None:
        """Log the PNG files of a folder to a trial's run, whose description shows them."""
        run, names = self.trials[number][0], sorted(file.name for file in folder.iterdir())
        self.runs.keep_files(run, folder, view.FIGURES)
        figures, (text, _, _) = " ".join([FIGURES_VERSION, *names]), _note(run).partition(IMAGE)
        self.runs.log(run, [], {}, {FIGURES: figures} | _described(run, text, figures))

    def add(self, number: int, content: RunContent) -> None:
        """Add new content to a trial's run.

        Raises TrackingError if the run belongs to another study. Raises ModelError if the model
        cannot be logged, after writing everything else.
        """
        run = self._trial(number, content)
        self._write(run, content, written=None)
        if content.outcome is not None:
            run.points = None  # frees memory; a resumed trial reads it again

    def sync(self, view: TrialView) -> None:
        """Write whatever the run of a trial lacks. Raises what `add` raises."""
        number, history = view.spec.number, view.history
        seconds = history[-1].seconds if history else 0.0
        runs = self.trials.get(number)
        content = full_content(view, runs[0].start if runs else now() - int(seconds * 1000))
        run = self._trial(number, content)
        written = _written(content.state, len(history))
        if run.tags.get(WRITTEN) == written:
            content.points = []
        self._write(run, content, written)

    def register(self, versions: Sequence[Version], champion: int) -> dict[int, str]:
        """Register the models of these trials, in this order, and set the champion's alias.

        champion: The number of the champion's trial.

        Returns the models' URIs by trial number, without trials that have no model.
        """
        models = [(version, self.models.find(version.trial)) for version in versions]
        available = [(version, model) for version, model in models if model is not None]
        if available:
            Registry(self.client, self.study).update(available, champion)
        return {version.trial: str(model.model_uri) for version, model in available}

    def _trial(self, number: int, content: RunContent) -> RunView:
        """Return the run of a trial, created if it does not exist.

        Raises TrackingError if it does not exist and `content` has no spec to create it from.
        """
        if number not in self.trials:
            if content.spec is None:
                raise TrackingError(
                    f"MLflow has no run of trial {number}, which an earlier search ran"
                )
            tags = content.tags() | {MLFLOW_PARENT_RUN_ID: self.search().id}
            self.trials[number] = [self.runs.create(content.name(), tags, content.since)]
        return self.trials[number][0]

    def _write(self, run: RunView, content: RunContent, written: str | None) -> None:
        """Write the content that the run of a trial lacks. Raises the same errors as `add`.

        written: The new value of the tag `WRITTEN`; None: determined from the run.
        """
        params, model_error = content.params(), None
        for name, value in run.params.items():
            key = name.removeprefix(FORMER_PREFIX)
            if params.get(key, value) != value:
                raise TrackingError(
                    f"trial {run.number} has {key} {params[key]}, and MLflow's run {run.id} of it "
                    f"{value}: another study {self.study!r} is there, rename one of them"
                )
        if content.spec is not None:
            self._log_inputs(run, content.spec)
        try:
            model, earlier_points = self._model(run, content)
        except Exception as problem:  # write everything else first
            why = mlflow_client.describe(problem, self.client.tracking_uri)
            model_error = ModelError(f"the model of trial {run.number} can't be logged: {why}")
            model, earlier_points = None, []
        points = earlier_points + self._missing(run, content.points)
        if model is not None and content.spec is not None:
            points = [of_model(point, model, content.spec, run.id) for point in points]
        tags = content.tags() | {MLFLOW_PARENT_RUN_ID: self.search().id}
        tags |= _described(run, content.note(), run.tags.get(FIGURES, ""))
        if written is None:
            points_of = self.runs.points(run)
            reports = len(points_of.get(LAST_METRIC, ()))
            lacks_peak = content.outcome is not None and reports and PEAK_MEMORY not in points_of
            written = "" if lacks_peak else _written(content.state, reports)
        self.runs.log(run, points, params, tags | {WRITTEN: written})
        self.runs.set_status(run, content.status, content.until)
        if content.spec is not None:
            self.runs.rename(run, content.name())
        if model_error is not None:
            raise model_error

    def _log_inputs(self, run: RunView, spec: TrialSpec) -> None:
        """Log the trial's datasets to its run and to the search's run, once."""
        for target in (run, self.search()):
            if target.id not in self.with_inputs:
                self.runs.log_inputs(target, inputs(spec))
                self.with_inputs.add(target.id)

    def _model(self, run: RunView, content: RunContent) -> tuple[LoggedModel | None, list[Metric]]:
        """Return the model of a complete trial, and the points to log again with the model.

        If MLflow lacks the model, it is logged. The run's earlier points of length results are then
        returned, to be logged again with the model. Returns None and no points if the trial is not
        complete or its checkpoint is gone.
        """
        outcome = content.outcome
        if outcome is None or outcome.state != "COMPLETE" or content.spec is None:
            return None, []
        model = self.models.find(content.spec.number)
        if model is not None:
            return model, []
        if outcome.checkpoint is None or not outcome.checkpoint.names():
            return None, []
        with outcome.checkpoint.here(MODEL_FILES) as directory:
            model = self.models.log(run.id, content, directory)
        keys = [key for key in self.runs.points(run) if belongs(key)]
        return model, [point for key in keys for point in self.runs.history(run, key)]

    def _missing(self, run: RunView, points: Sequence[Metric]) -> list[Metric]:
        """Return the points that the run lacks, and count them as logged from now on."""
        missing = []
        for point in points:
            steps = self.runs.points(run).setdefault(point.key, set())
            if point.step not in steps:
                steps.add(point.step)
                missing.append(point)
        return missing
