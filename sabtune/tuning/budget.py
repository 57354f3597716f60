"""The time limits of a search."""

from __future__ import annotations

import time
from typing import Any

from ray.tune.stopper import Stopper


class Budget(Stopper):
    """A Ray Tune stopper that limits the hours of a search and the GPU hours of its trials.

    All trials stop when either limit is reached. The next search resumes them.

    hours, gpu_hours: the limits; None for no limit. gpus: the number of GPUs that a trial occupies,
    which may be a fraction.
    """

    def __init__(
        self, hours: float | None = None, gpu_hours: float | None = None, gpus: float = 0.0
    ):
        self.hours, self.gpu_hours, self.gpus = hours, gpu_hours, gpus
        self.started: float | None = None
        self.seconds_before: dict[int, float] = {}  # of earlier searches, by trial
        self.seconds: dict[int, float] = {}  # of all searches so far, by trial
        self.spent = False

    def start(self) -> None:
        """Start counting the hours. Call this method once Ray has started."""
        self.started = time.monotonic()

    def count(self, trial: int, seconds: float) -> None:
        """Record the seconds that a trial has taken so far, over all its attempts."""
        self.seconds_before.setdefault(trial, 0.0)
        self.seconds[trial] = seconds

    def resume(self, trial: int, seconds: float) -> None:
        """Record the seconds that a trial took in earlier searches, which don't count here."""
        self.seconds_before[trial] = seconds

    @property
    def used_gpu_hours(self) -> float:
        """The GPU hours that the trials of this search have used so far."""
        seconds = sum(self.seconds[trial] - self.seconds_before[trial] for trial in self.seconds)
        return seconds * self.gpus / 3600

    def stop(self) -> None:
        """End the search as if the budget were spent."""
        self.spent = True

    def stop_all(self) -> bool:
        """Return whether the budget is spent; Ray Tune then stops all trials."""
        if self.hours is not None and self.started is not None:
            self.spent = self.spent or time.monotonic() - self.started >= 3600 * self.hours
        if self.gpu_hours is not None and self.used_gpu_hours >= self.gpu_hours:
            self.spent = True
        return self.spent

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: the budget stops either all trials or none."""
        return False
