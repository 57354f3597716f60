"""Follow a search that another process runs, from the study that it writes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from sabtune.study.attributes import ATTEMPTS
from sabtune.study.checkpoints import Attempts, history
from sabtune.study.locks import is_held
from sabtune.study.record import StudyRecord
from sabtune.study.trial_record import TrialRecord
from sabtune.terminal.live_table import Watch
from sabtune.terminal.steps import Steps
from sabtune.training.trial import TrialSpec

POLL_SECONDS = 1.0
"""The minimum time in seconds between two reads of the study."""

POLL_FRACTION = 0.05
"""The maximum fraction of the time that the reads take. A large study is read less often."""

GAP_SECONDS = 60.0
"""The maximum time in seconds between the end of a trial and the start of the next one in a search.

A study doesn't store when its searches began."""


def follow(console: Console, study: StudyRecord) -> None:
    """Show the search that writes to a study until it ends, as the search itself shows it.

    Raises StoreError if the study can't be read.
    """
    follower = Follower(console, study)
    with follower.watch:
        while True:
            began = time.monotonic()
            is_searched = is_held(study.name, study.store)  # the last read follows the search's end
            follower.update()
            if not is_searched:
                return
            time.sleep(max(POLL_SECONDS, (time.monotonic() - began) / POLL_FRACTION))


class Follower:
    """A live table of a search that another process runs.

    watch: The live table. Use it as a context manager around the calls of `update`.
    """

    def __init__(self, console: Console, study: StudyRecord):
        self.study, self.done = study, set[int]()
        self.late: dict[int, int] = {}  # the updates at the latest score, by trial
        trials = study.counted
        steps = Steps(None, time.time)
        self.watch = Watch(console, study.planned or len(trials), steps=steps, clock=time.time)
        steps.began = began_at(study.frozen, time.time())
        for at, starts, number in _events(study.frozen, steps.began):
            (self.watch.pace.start if starts else self.watch.pace.end)(number, at)
        for trial in trials:
            self.watch.add(trial)
        self.done |= study.run_again | {trial.number for trial in trials if trial.outcome}

    def update(self) -> None:
        """Read the study again, and show what has changed."""
        self.study.refresh()
        for trial in self.study.frozen:
            if trial.number not in self.done and trial.state != TrialState.WAITING:
                self._show(TrialRecord.of(trial, self.study.store))

    def _show(self, trial: TrialRecord) -> None:
        number, pace = trial.number, self.watch.pace
        if trial.spec is not None:
            if number not in self.watch.rows:
                pace.start(number, _seconds(trial.started))
                self.watch.trial_started(trial.spec)
            self._show_reports(trial, trial.spec)
        if trial.outcome is not None:
            pace.end(number, _seconds(trial.ended))
            self.watch.trial_ended(number, trial.outcome)
            self.done.add(number)

    def _show_reports(self, trial: TrialRecord, spec: TrialSpec) -> None:
        """Show the new reports of a trial. The study has their scores, and checkpoints the rest.

        A score whose checkpoint isn't complete yet is shown at the next read.
        """
        number, last = trial.number, max(trial.scores, default=0)
        row, late = self.watch.rows[number], self.late.get(number, 0)
        known = row.report.step if row.report else 0
        folder = self.study.store.trials / self.study.name
        if last > known and folder.path is not None:  # an object store is slow, and costs
            for progress in history(Attempts(folder).checkpoints(number), spec):
                if progress.report.step > known:
                    self.watch.trial_reported(number, progress)
            self.late[number] = last
        else:
            late = last
        if min(last, late) > row.updates:
            self.watch.trial_scored(number, min(last, late), trial.scores[min(last, late)])


def began_at(trials: Sequence[FrozenTrial], now: float) -> float:
    """Estimate when the running search of a study began, from the times of its trials.

    now: The present time, in seconds since 1970. The result is in these seconds, too.
    """
    times = [
        (_seconds(trial.datetime_start) or now, _seconds(trial.datetime_complete) or now)
        for trial in trials
        if trial.datetime_start is not None and ATTEMPTS not in trial.user_attrs
    ]
    began = now
    for start, end in sorted(times, key=lambda each: each[1], reverse=True):
        if end < began - GAP_SECONDS:
            break
        began = min(began, start)
    return began


def _events(trials: Sequence[FrozenTrial], since: float) -> list[tuple[float, bool, int]]:
    """Return the starts and ends of the running trials and of those that started since a time.

    Each is a time, whether it is a start, and the number of the trial. A running trial that began
    earlier was resumed then. They are in order.
    """
    events = []
    for trial in trials:
        start, end = _seconds(trial.datetime_start), _seconds(trial.datetime_complete)
        if trial.state == TrialState.RUNNING and start is not None:
            events.append((max(start, since), True, trial.number))
        elif start is not None and end is not None and start >= since:
            events += [(start, True, trial.number), (end, False, trial.number)]
    return sorted(events, key=lambda event: event[0])


def _seconds(time: datetime | None) -> float | None:
    """Return a local time in seconds since 1970."""
    return None if time is None else time.timestamp()
