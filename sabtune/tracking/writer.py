"""A writer that queues the events of a search and sends them to MLflow in a thread.

MLflow is a copy of the study. Events that cannot be written are dropped. `Tracker.behind` then says
why, and `Tracker.sync` compares MLflow with the study and writes what is missing.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from sabtune.errors import SabtuneError, TrackingError
from sabtune.study.events import Origin, Outcome, Overview, TrialView, Version
from sabtune.tracking import mlflow_client
from sabtune.tracking.experiment import Experiment, ModelError
from sabtune.tracking.runs import now
from sabtune.tracking.trial_run import (
    RunContent,
    cost_points,
    ladder_points,
    report_points,
    schedule_end,
)
from sabtune.training.trial import Progress, TrialSpec

WRITE_ATTEMPTS = 3
"""Attempts to write the same content before it is dropped."""

MAX_PAUSE_SECONDS = 60.0
"""Maximum time between two attempts while MLflow stays unavailable."""

WRITE_INTERVAL_SECONDS = 1.0
"""Time between two writes. Events in between are written together, at a fraction of the cost. There
is no pause at the end of a search, and while a caller waits for the queue."""

QUEUE_WAIT_SECONDS = 60.0
"""Maximum time that `register` and `keep_files` wait until the queue is written."""


@dataclass(frozen=True)
class SearchState:
    """The latest overview of the search, and whether the search has ended."""

    overview: Overview
    ended: bool


class Tracker:
    """A writer of a search to MLflow, which continues the runs of earlier searches of the study.

    Methods that record events raise no exceptions and do not wait for MLflow.

    uri: sqlite:///… of a database, created if it does not exist, or http(s)://… of a server.

    artifacts: The URI where files are stored; None: a server decides.

    embedded: Whether MLflow's database belongs to the store and moves with it.

    system_metrics: Whether to log system metrics to the search's run.
    """

    def __init__(
        self,
        uri: str,
        study: str,
        artifacts: str | None,
        *,
        embedded: bool = False,
        system_metrics: bool = False,
    ):
        mlflow_client.hasten(uri)
        self.uri, self.study, self.artifacts, self.embedded = uri, study, artifacts, embedded
        self.system_metrics = system_metrics
        self._monitor: SystemMetricsMonitor | None = None
        self._started: dict[int, tuple[TrialSpec, Origin]] = {}
        self._ends: dict[int, int | None] = {}  # the ends of their schedules
        self._last: dict[int, Progress] = {}  # the last progress of each running trial
        self._queue = threading.Condition()  # guards the attributes below, down to _mlflow
        self._contents: dict[int, RunContent] = {}  # content that is not yet written, by trial
        self._state: SearchState | None = None
        self._writing = True  # the thread starts by opening MLflow
        self._closed = False
        self._awaited = False  # a caller waits for the queue
        self._failing = False  # the last attempt failed
        self._lost = False  # something was dropped
        self._problem: str | None = None
        self._progressed = time.monotonic()  # when a trial's content was last written
        self._mlflow = threading.Lock()  # guards the experiment and all calls of MLflow
        self._experiment: Experiment | None = None
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    @property
    def behind(self) -> str | None:
        """Why MLflow lacks events, in one line; None if it has all or they are still queued."""
        return self._problem

    def trial_started(self, spec: TrialSpec, origin: Origin | None = None) -> None:
        """Record that a trial starts or is resumed."""
        self._started[spec.number] = (spec, origin or Origin())
        self._ends[spec.number] = schedule_end(spec.run)
        with self._queue:
            self._content(spec.number).outcome = None

    def trial_reported(self, number: int, progress: Progress) -> None:
        """Record the progress of a trial."""
        with self._queue:
            content = self._content(number)
            content.points += report_points(progress, self._ends.get(number), content.until)
            self._last[number] = progress

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        """Record that a trial has ended."""
        with self._queue:
            content = self._content(number)
            content.points += ladder_points(outcome, content.spec, content.until)
            last = self._last.pop(number, None)
            content.points += cost_points(last, content.until) if last else []
            content.outcome = outcome

    def search_updated(self, overview: Overview) -> None:
        """Record an overview of the search."""
        with self._queue:
            self._state = SearchState(overview, ended=False)
            self._announce()

    def search_ended(self, overview: Overview) -> None:
        """Record the last overview of the search, and end its run."""
        with self._queue:
            self._state = SearchState(overview, ended=True)
            self._announce()

    def close(self, patience: float) -> bool:
        """Write the queue. Return whether MLflow has everything.

        Gives up when nothing was written for `patience` seconds. Later events are dropped.
        """
        with self._queue:
            self._closed = True
            self._queue.notify_all()
        self._progressed = time.monotonic()
        while self._thread.is_alive():
            left = self._progressed + patience - time.monotonic()
            if left <= 0:
                break
            self._thread.join(left)
        return not self._thread.is_alive() and not self._lost

    def sync(self, views: Sequence[TrialView], overview: Overview) -> None:
        """Write to MLflow whatever it lacks of these trials and the search.

        You can call this before, during and after a search. Raises TrackingError if MLflow cannot
        be reached or refuses a write, or if it contains another study of the same name. If a model
        cannot be logged, TrackingError is raised after everything else is written.
        """
        model_errors = []
        with self._mlflow:
            self._experiment = None  # so that the thread reads it again, too
            try:
                experiment = self._open_experiment()
                experiment.delete_doubles()
                for view in views:
                    try:
                        experiment.sync(view)
                    except ModelError as problem:
                        model_errors.append(str(problem))
                experiment.end(overview)
            except SabtuneError:
                raise
            except Exception as problem:
                why = mlflow_client.describe(problem, self.uri)
                raise TrackingError(f"{why}: fix this, then run it again") from None
        with self._queue:
            self._lost, self._problem = False, None
        if model_errors:
            models = "a model" if len(model_errors) == 1 else f"{len(model_errors)} models"
            raise TrackingError(f"MLflow has everything except {models}: {model_errors[0]}")

    def register(self, versions: Sequence[Version], champion: int) -> dict[int, str] | None:
        """Register the models of these trials under the study's name, in this order.

        champion: The number of the trial whose model gets the alias "champion".

        Returns the URIs for `mlflow.pyfunc.load_model` by trial number, without trials that have no
        model in MLflow. Returns None if MLflow fails.
        """
        self._wait_for_queue()
        with self._mlflow:
            try:
                return self._opened().register(versions, champion)
            except Exception as problem:
                self._fail(problem)
                return None

    def keep_files(self, folder: Path, under: str) -> bool:
        """Log all files of a folder to the search's run below `under`, replacing what was there.

        Returns whether that succeeded.
        """
        self._wait_for_queue()
        with self._mlflow:
            try:
                self._opened().keep_files(folder, under)
            except Exception as problem:
                return self._fail(problem)
        return True

    def keep_figures(
        self, draw: Mapping[int, Callable[[Path], None]], seconds: float = math.inf
    ) -> bool:
        """Log figures to the runs of trials that lack them.

        draw: Functions that write PNG files into a folder, by trial number.

        seconds: The time after which no more figures are drawn.

        Returns False if MLflow fails. Errors of these functions are raised.
        """
        self._wait_for_queue()
        end = time.monotonic() + seconds
        return all(
            self._keep_figures(number, function)
            for number, function in draw.items()
            if time.monotonic() < end
        )

    def _keep_figures(self, number: int, draw: Callable[[Path], None]) -> bool:
        with self._mlflow, TemporaryDirectory() as folder:
            try:
                lacks = self._opened().lacks_figures(number)
            except Exception as problem:
                return self._fail(problem)
            if lacks:
                draw(Path(folder))
                try:
                    self._opened().keep_figures(number, Path(folder))
                except Exception as problem:
                    return self._fail(problem)
        return True

    def _fail(self, problem: Exception) -> Literal[False]:
        """Record why MLflow failed. Call this with `_mlflow` held."""
        self._experiment = None
        with self._queue:
            self._record_problem(problem)
        return False

    def _wait_for_queue(self) -> None:
        """Wait until the queue is written, or writing fails."""
        with self._queue:
            self._awaited = True
            self._queue.notify_all()
            self._queue.wait_for(self._is_idle, QUEUE_WAIT_SECONDS)
            self._awaited = False

    def _content(self, number: int) -> RunContent:
        """Return the unwritten content of a trial, so that the caller can add to it."""
        when = now()
        if number not in self._contents:
            self._contents[number] = RunContent(None, since=when)
        content = self._contents[number]
        content.until = when
        if number in self._started:
            content.spec, content.origin = self._started[number]
        self._announce()
        return content

    def _announce(self) -> None:
        """Wake the thread for a new event, or note that the event is dropped."""
        if self._closed:
            self._lost, self._problem = True, "events came after the end of tracking"
        self._queue.notify_all()

    def _is_idle(self) -> bool:
        """Return whether nothing is queued, or writing fails."""
        return self._failing or not (self._contents or self._state or self._writing)

    def _must_write_now(self) -> bool:
        """Return whether the queue must be written without a pause."""
        return self._closed or self._awaited or bool(self._state and self._state.ended)

    def _work(self) -> None:
        """Open MLflow, then write events until the tracker is closed and the queue is empty."""
        contents: dict[int, RunContent] = {}
        state: SearchState | None = None
        failures = 0  # consecutive
        while True:
            try:
                self._write(contents, state)
                failures = 0
            except Exception as problem:
                failures += 1
                self._put_back(contents, state, problem, drop=failures >= WRITE_ATTEMPTS)
            with self._queue:
                self._writing, self._failing = False, failures > 0
                if not self._failing and not self._lost:
                    self._problem = None
                self._queue.notify_all()
                if self._failing:
                    pause = min(2.0 ** (failures - 1), MAX_PAUSE_SECONDS)
                    self._queue.wait_for(lambda: self._closed, pause)
                else:
                    self._queue.wait_for(self._must_write_now, WRITE_INTERVAL_SECONDS)
                self._queue.wait_for(lambda: self._contents or self._state or self._closed)
                if not self._contents and not self._state:
                    break
                contents, self._contents = self._contents, {}
                state, self._state = self._state, None
                self._writing = True
        self._stop_monitor()

    def _write(self, contents: dict[int, RunContent], state: SearchState | None) -> None:
        """Write and remove each entry of `contents`, then write `state`. Raises MLflow's errors."""
        with self._mlflow:
            self._opened()
            if contents:
                self._opened().mark_running()
                self._start_monitor()
            try:
                for number in list(contents):
                    try:
                        self._opened().add(number, contents[number])
                    except Exception as problem:
                        if not mlflow_client.is_about_one_run(problem):
                            raise
                        if not isinstance(problem, ModelError):
                            self._experiment = None  # it differs from what was read
                        with self._queue:
                            self._lost = True
                            self._record_problem(problem)
                    del contents[number]
                    self._progressed = time.monotonic()
                if state is not None and state.ended:
                    self._stop_monitor()
                    self._opened().end(state.overview)
                elif state is not None:
                    self._opened().update_search(state.overview)
            except Exception:
                self._experiment = None
                raise

    def _opened(self) -> Experiment:
        """Return the experiment, opened if need be."""
        if self._experiment is None:
            self._experiment = self._open_experiment()
        return self._experiment

    def _open_experiment(self) -> Experiment:
        return Experiment(self.uri, self.study, self.artifacts, embedded=self.embedded)

    def _start_monitor(self) -> None:
        """Start MLflow's thread that logs system metrics to the search's run."""
        if self.system_metrics and self._monitor is None:
            self._monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
                self._opened().search().id, resume_logging=True, tracking_uri=self.uri
            )
            self._monitor.start()  # type: ignore[no-untyped-call]

    def _stop_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.finish()  # type: ignore[no-untyped-call]
            self._monitor = None

    def _put_back(
        self,
        contents: dict[int, RunContent],
        state: SearchState | None,
        problem: Exception,
        drop: bool,
    ) -> None:
        """Return content to the queue after a failure, before newer content, or drop it."""
        with self._queue:
            self._record_problem(problem)
            if drop or self._closed:
                self._lost = self._lost or bool(contents) or state is not None
                return
            for number, content in contents.items():
                newer = self._contents.get(number)
                if newer is None:
                    self._contents[number] = content
                else:
                    newer.points[:0] = content.points
                    newer.since = content.since
            self._state = self._state or state

    def _record_problem(self, problem: Exception) -> None:
        self._problem = mlflow_client.describe(problem, self.uri)
