"""How long a search may go on."""

from __future__ import annotations

import time
from typing import Any

from ray.tune.stopper import Stopper


class Budget(Stopper):
    """Hours of this search and GPU hours of its trials. When one is spent, all trials are stopped;
    they aren't lost: the next search goes on with them.

    hours, gpu_hours: None for no bound. gpus: those that one trial occupies.
    """

    def __init__(
        self, hours: float | None = None, gpu_hours: float | None = None, gpus: float = 0.0
    ):
        self.hours, self.gpu_hours, self.gpus = hours, gpu_hours, gpus
        self.begun: float | None = None
        self.first: dict[int, float] = {}  # seconds that trials had taken when first heard of
        self.last: dict[int, float] = {}
        self.spent = False

    def start(self) -> None:
        """The hours count from here: when Ray is up."""
        self.begun = time.monotonic()

    def count(self, trial: int, seconds: float) -> None:
        """A trial has taken this long so far, over all its attempts."""
        self.first.setdefault(trial, 0.0)
        self.last[trial] = seconds

    def known(self, trial: int, seconds: float) -> None:
        """A trial that is gone on with had taken this long before."""
        self.first[trial] = seconds

    @property
    def used_gpu_hours(self) -> float:
        """GPU hours of this search's trials, as far as they have reported."""
        seconds = sum(self.last[trial] - self.first[trial] for trial in self.last)
        return seconds * self.gpus / 3600

    def stop(self) -> None:
        """Ends it here."""
        self.spent = True

    def stop_all(self) -> bool:
        if self.hours is not None and self.begun is not None:
            self.spent = self.spent or time.monotonic() - self.begun >= 3600 * self.hours
        if self.gpu_hours is not None and self.used_gpu_hours >= self.gpu_hours:
            self.spent = True
        return self.spent

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False
