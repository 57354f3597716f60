"""What a search talks to: it takes every event at once, and a thread of its own writes to MLflow.

MLflow is a projection of the study: what could not be written is dropped, the tracker is then
`behind`, and `sync` makes MLflow whole again from the study.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from sabtune.errors import SabtuneError, TrackingError
from sabtune.study.events import Origin, Outcome, Overview, TrialView, Version
from sabtune.tracking import mlflow_client
from sabtune.tracking.experiment import Experiment, ModelError
from sabtune.tracking.runs import now
from sabtune.tracking.trial_run import Page, ladder_points, report_points
from sabtune.training.trial import Progress, TrialSpec

TRIES = 3
"""How often the same is tried before it is dropped."""

LONGEST_PAUSE = 60.0
"""Seconds between two tries to reach an MLflow that stays away."""

PACE = 1.0
"""Seconds between two writes: what is told meanwhile goes out together, at a fraction of the cost.
The end of a search, and who waits for what is queued, don't wait for them."""

PATIENCE = 60.0
"""Seconds that `register` and `keep_files` wait for what is queued to be written."""


@dataclass(frozen=True)
class SearchState:
    """How the search stands."""

    overview: Overview
    ended: bool


class Tracker:
    """Shows a search in MLflow. The runs of an earlier search of the study are gone on with.

    uri: sqlite:///… of an embedded store, made if need be, or http(s)://… of a server.
    artifacts: the URI where files go; None where a server decides. embedded: MLflow is the store's
    own, and moves with it. system_metrics: the search's run shows what the machine does. No event
    raises, or waits for MLflow.
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
        self._queue = threading.Condition()  # guards all up to the thread
        self._pages: dict[int, Page] = {}  # what is new, by trial
        self._state: SearchState | None = None
        self._writing = True  # opening, at first
        self._closed = False
        self._awaited = False  # somebody waits for what is queued
        self._failing = False  # it was so at the last try
        self._lost = False  # something was dropped
        self._problem: str | None = None
        self._mlflow = threading.Lock()  # guards the board, and all that MLflow does for us
        self._experiment: Experiment | None = None
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    @property
    def behind(self) -> str | None:
        """Why MLflow shows less than was told, in one line; None if it will show all."""
        return self._problem

    def trial_started(self, spec: TrialSpec, origin: Origin | None = None) -> None:
        self._started[spec.number] = (spec, origin or Origin())
        with self._queue:
            self._page(spec.number).outcome = None

    def trial_reported(self, number: int, progress: Progress) -> None:
        with self._queue:
            page = self._page(number)
            page.points += report_points(progress, page.until)

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        with self._queue:
            page = self._page(number)
            page.points += ladder_points(outcome, page.spec, page.until)
            page.outcome = outcome

    def search_told(self, overview: Overview) -> None:
        """How the search stands."""
        with self._queue:
            self._state = SearchState(overview, ended=False)
            self._told()

    def search_ended(self, overview: Overview) -> None:
        """The same, at its end: closes its run."""
        with self._queue:
            self._state = SearchState(overview, ended=True)
            self._told()

    def close(self, timeout: float) -> bool:
        """Writes what is queued, for at most `timeout` seconds; whether MLflow now shows all.

        What is told from here on is dropped.
        """
        with self._queue:
            self._closed = True
            self._queue.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive() and not self._lost

    def sync(self, views: Sequence[TrialView], overview: Overview) -> None:
        """Makes MLflow show just these trials' state, whatever it showed of them before.

        Nothing that is there is written again. May be called before, during and after a search.
        Raises TrackingError if MLflow can't be reached or refuses, if another study of the same
        name is shown there, or, when all else is shown, if it lacks a model.
        """
        lacking = []
        with self._mlflow:
            self._experiment = None  # read anew, by the thread too
            try:
                experiment = self._open_experiment()
                experiment.delete_doubles()
                for view in views:
                    try:
                        experiment.put_right(view)
                    except ModelError as problem:
                        lacking.append(str(problem))
                experiment.end(overview)
            except SabtuneError:
                raise
            except Exception as problem:
                why = mlflow_client.describe(problem, self.uri)
                raise TrackingError(f"{why}: see to it, then do this again") from None
        with self._queue:
            self._lost, self._problem = False, None
        if lacking:
            models = "a model" if len(lacking) == 1 else f"{len(lacking)} models"
            raise TrackingError(f"MLflow has all but {models}: {lacking[0]}")

    def register(self, versions: Sequence[Version], champion: int) -> dict[int, str] | None:
        """Registers the models of these trials under the study's name, in this order, and lets the
        alias `champion` stand on that trial's. Returns the URIs that mlflow.pyfunc.load_model
        takes, by trial, without those that MLflow has no model of; None if it doesn't take them.
        """
        self._await()
        with self._mlflow:
            try:
                return self._opened().register(versions, champion)
            except Exception as problem:
                self._experiment = None
                with self._queue:
                    self._note(problem)
                return None

    def keep_files(self, folder: Path, under: str) -> bool:
        """Logs all files of a folder to the search's run, below `under`, in place of what was there
        before; whether MLflow took them."""
        self._await()
        with self._mlflow:
            try:
                self._opened().keep_files(folder, under)
            except Exception as problem:
                self._experiment = None
                with self._queue:
                    self._note(problem)
                return False
        return True

    def _await(self) -> None:
        """Waits until what is queued is written, or can't be."""
        with self._queue:
            self._awaited = True
            self._queue.notify_all()
            self._queue.wait_for(self._rests, PATIENCE)
            self._awaited = False

    def _page(self, number: int) -> Page:
        """What is not yet written of a trial, to be added to."""
        when = now()
        if number not in self._pages:
            self._pages[number] = Page(None, since=when)
        page = self._pages[number]
        page.until = when
        if number in self._started:
            page.spec, page.origin = self._started[number]
        self._told()
        return page

    def _told(self) -> None:
        if self._closed:
            self._lost, self._problem = True, "events came after the end of tracking"
        self._queue.notify_all()

    def _rests(self) -> bool:
        """Nothing is queued, or nothing can be written."""
        return self._failing or not (self._pages or self._state or self._writing)

    def _pressed(self) -> bool:
        """What is queued is to be written at once."""
        return self._closed or self._awaited or bool(self._state and self._state.ended)

    def _work(self) -> None:
        """Opens MLflow, then writes what is told, until that is all and the tracker is closed."""
        pages: dict[int, Page] = {}
        state: SearchState | None = None
        failures = 0  # in a row
        while True:
            try:
                self._write(pages, state)
                failures = 0
            except Exception as problem:
                failures += 1
                self._put_back(pages, state, problem, drop=failures >= TRIES)
            with self._queue:
                self._writing, self._failing = False, failures > 0
                if not self._failing and not self._lost:
                    self._problem = None
                self._queue.notify_all()
                if self._failing:
                    pause = min(2.0 ** (failures - 1), LONGEST_PAUSE)
                    self._queue.wait_for(lambda: self._closed, pause)
                else:
                    self._queue.wait_for(self._pressed, PACE)
                self._queue.wait_for(lambda: self._pages or self._state or self._closed)
                if not self._pages and not self._state:
                    break
                pages, self._pages = self._pages, {}
                state, self._state = self._state, None
                self._writing = True
        self._stop_monitor()

    def _write(self, pages: dict[int, Page], state: SearchState | None) -> None:
        """Writes the pages and takes them out of `pages`; raises what keeps MLflow from it."""
        with self._mlflow:
            self._opened()
            if pages:
                self._opened().go_on()
                self._start_monitor()
            try:
                for number in list(pages):
                    try:
                        self._opened().add(number, pages[number])
                    except Exception as problem:
                        if not mlflow_client.is_about_one_run(problem):
                            raise
                        if not isinstance(problem, ModelError):
                            self._experiment = None  # it is not as we thought
                        with self._queue:
                            self._lost = True
                            self._note(problem)
                    del pages[number]
                if state is not None and state.ended:
                    self._stop_monitor()
                    self._opened().end(state.overview)
                elif state is not None:
                    self._opened().tell(state.overview)
            except Exception:
                self._experiment = None
                raise

    def _opened(self) -> Experiment:
        if self._experiment is None:
            self._experiment = self._open_experiment()
        return self._experiment

    def _open_experiment(self) -> Experiment:
        return Experiment(self.uri, self.study, self.artifacts, embedded=self.embedded)

    def _start_monitor(self) -> None:
        """System metrics go to the search's run, by a thread of MLflow's own."""
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
        self, pages: dict[int, Page], state: SearchState | None, problem: Exception, drop: bool
    ) -> None:
        """Queues again what could not be written, before what came since; or drops it."""
        with self._queue:
            self._note(problem)
            if drop or self._closed:
                self._lost = self._lost or bool(pages) or state is not None
                return
            for number, page in pages.items():
                newer = self._pages.get(number)
                if newer is None:
                    self._pages[number] = page
                else:
                    newer.points[:0] = page.points
                    newer.since = page.since
            self._state = self._state or state

    def _note(self, problem: Exception) -> None:
        self._problem = mlflow_client.describe(problem, self.uri)
