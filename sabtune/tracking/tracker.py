"""What a search talks to: it takes every event at once, and a thread of its own writes to MLflow.

MLflow is a projection of the study: what could not be written is dropped, the tracker is then
`behind`, and `sync` makes MLflow whole again from the study.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow

from sabtune.errors import SabtuneError, TrackingError
from sabtune.evaluation import Rung
from sabtune.tracking import manners, recall
from sabtune.tracking.board import Board, now
from sabtune.tracking.page import Page, ladder_points, report_points
from sabtune.trial import Assignment, Progress
from sabtune.watcher import Outcome, Picture

TRIES = 3
"""How often the same is tried before it is dropped."""

LONGEST_PAUSE = 60.0
"""Seconds between two tries to reach an MLflow that stays away."""

PACE = 1.0
"""Seconds between two writes: what is told meanwhile goes out together, at a fraction of the cost.
The end of a search, and who waits for what is queued, don't wait for them."""

PATIENCE = 60.0
"""Seconds that `keep_model` and `keep_files` wait for what is queued to be written."""


@dataclass(frozen=True)
class Ending:
    """The end of a search."""

    complete: bool
    best: Sequence[Rung]


class Tracker:
    """Shows a search in MLflow. The runs of an earlier search of the study are gone on with.

    uri: sqlite:///… of an embedded store, made if need be, or http(s)://… of a server.
    artifacts: where files go; None where a server decides. No event raises, or waits for MLflow.
    """

    def __init__(self, uri: str, study: str, artifacts: Path | None):
        manners.hasten(uri)
        self.uri, self.study, self.artifacts = uri, study, artifacts
        self._assignments: dict[int, Assignment] = {}
        self._queue = threading.Condition()  # guards all up to the thread
        self._pages: dict[int, Page] = {}  # what is new, by trial
        self._ending: Ending | None = None
        self._writing = True  # opening, at first
        self._closed = False
        self._awaited = False  # somebody waits for what is queued
        self._failing = False  # it was so at the last try
        self._lost = False  # something was dropped
        self._problem: str | None = None
        self._mlflow = threading.Lock()  # guards the board, and all that MLflow does for us
        self._board: Board | None = None
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    @property
    def behind(self) -> str | None:
        """Why MLflow shows less than was told, in one line; None if it will show all."""
        return self._problem

    def trial_started(self, assignment: Assignment) -> None:
        self._assignments[assignment.number] = assignment
        with self._queue:
            self._page(assignment.number).outcome = None

    def trial_reported(self, number: int, progress: Progress) -> None:
        with self._queue:
            page = self._page(number)
            page.points += report_points(progress, page.until)

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        with self._queue:
            page = self._page(number)
            page.points += ladder_points(outcome, page.until)
            page.outcome = outcome

    def search_ended(self, complete: bool, best: Sequence[Rung]) -> None:
        """Closes the search's run; `best`: the best trial on the test sequences."""
        with self._queue:
            self._ending = Ending(complete, best)
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

    def sync(self, pictures: Sequence[Picture], complete: bool, best: Sequence[Rung]) -> None:
        """Makes MLflow show just these trials' state, whatever it showed of them before.

        Nothing that is there is written again. May be called before, during and after a search.
        Raises TrackingError if MLflow can't be reached or refuses, or if another study of the
        same name is shown there.
        """
        with self._mlflow:
            self._board = None  # read anew, by the thread too
            try:
                board = Board(self.uri, self.study, self.artifacts)
                board.delete_doubles()
                for picture in pictures:
                    board.put_right(picture)
                board.end(complete, best)
            except SabtuneError:
                raise
            except Exception as problem:
                why = manners.describe(problem, self.uri)
                raise TrackingError(f"{why}: see to it, then do this again") from None
        with self._queue:
            self._lost, self._problem = False, None

    def keep_model(self, number: int, checkpoint: Path) -> str | None:
        """Logs a trial's model; returns the URI that mlflow.pyfunc.load_model takes.

        None if MLflow is away, or has no run of the trial. Raises CheckpointError if the
        checkpoint is damaged.
        """
        self._await()
        with self._mlflow:
            try:
                runs = self._opened().trials.get(number)
                if runs is None:
                    return None
                mlflow.set_tracking_uri(self.uri)
                return recall.log(checkpoint, run_id=runs[0].id, name=f"trial-{number}")
            except SabtuneError:
                raise
            except Exception as problem:
                self._board = None
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
                self._board = None
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
        page.assignment, page.until = self._assignments.get(number), when
        self._told()
        return page

    def _told(self) -> None:
        if self._closed:
            self._lost, self._problem = True, "events came after the end of tracking"
        self._queue.notify_all()

    def _rests(self) -> bool:
        """Nothing is queued, or nothing can be written."""
        return self._failing or not (self._pages or self._ending or self._writing)

    def _pressed(self) -> bool:
        """What is queued is to be written at once."""
        return self._closed or self._awaited or self._ending is not None

    def _work(self) -> None:
        """Opens MLflow, then writes what is told, until that is all and the tracker is closed."""
        pages: dict[int, Page] = {}
        ending: Ending | None = None
        failures = 0  # in a row
        while True:
            try:
                self._write(pages, ending)
                failures = 0
            except Exception as problem:
                failures += 1
                self._put_back(pages, ending, problem, drop=failures >= TRIES)
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
                self._queue.wait_for(lambda: self._pages or self._ending or self._closed)
                if not self._pages and not self._ending:
                    return
                pages, self._pages = self._pages, {}
                ending, self._ending = self._ending, None
                self._writing = True

    def _write(self, pages: dict[int, Page], ending: Ending | None) -> None:
        """Writes the pages and takes them out of `pages`; raises what keeps MLflow from it."""
        with self._mlflow:
            self._opened()
            if pages:
                self._opened().go_on()
            try:
                for number in list(pages):
                    try:
                        self._opened().add(number, pages[number])
                    except Exception as problem:
                        if not manners.is_about_one_run(problem):
                            raise
                        self._board = None  # it is not as we thought
                        with self._queue:
                            self._lost = True
                            self._note(problem)
                    del pages[number]
                if ending is not None:
                    self._opened().end(ending.complete, ending.best)
            except Exception:
                self._board = None
                raise

    def _opened(self) -> Board:
        if self._board is None:
            self._board = Board(self.uri, self.study, self.artifacts)
        return self._board

    def _put_back(
        self, pages: dict[int, Page], ending: Ending | None, problem: Exception, drop: bool
    ) -> None:
        """Queues again what could not be written, before what came since; or drops it."""
        with self._queue:
            self._note(problem)
            if drop or self._closed:
                self._lost = self._lost or bool(pages) or ending is not None
                return
            for number, page in pages.items():
                newer = self._pages.get(number)
                if newer is None:
                    self._pages[number] = page
                else:
                    newer.points[:0] = page.points
                    newer.since = page.since
            self._ending = self._ending or ending

    def _note(self, problem: Exception) -> None:
        self._problem = manners.describe(problem, self.uri)
