"""The rate at which the trials of a search end, and durations in words."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable


class Pace:
    """The rate at which trials end, and an estimate of the remaining time of a search.

    clock: Returns the current time in seconds.
    """

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self.started_at: float | None = None  # the start of the first trial
        self.running: dict[int, float] = {}  # the start of each running trial
        self.due: dict[int, float] = {}  # the expected end of each running trial, if not pruned
        self.durations: list[float] = []  # seconds of each trial that ended
        self.slots = 0  # the largest number of trials that ran at once

    def start(self, number: int, at: float | None = None) -> None:
        """Record that a trial starts.

        at: The time of its start, by the clock. None: now.
        """
        at = self.clock() if at is None else at
        self.started_at = at if self.started_at is None else min(self.started_at, at)
        self.running.setdefault(number, at)
        self.slots = max(self.slots, len(self.running))

    def report(self, number: int, remaining: float) -> None:
        """Record the seconds that a trial would still take if it weren't pruned."""
        self.due[number] = self.clock() + remaining

    def end(self, number: int, at: float | None = None) -> None:
        """Record that a trial ended.

        at: The time of its end, by the clock. None: now.
        """
        if number not in self.running:
            return  # the search space rejected its configuration
        at = self.clock() if at is None else at
        self.durations.append(max(at - self.running.pop(number), 0.0))
        self.due.pop(number, None)

    @property
    def rate(self) -> float | None:
        """The number of trials that end in an hour; None before the first has ended."""
        elapsed = self.clock() - self.started_at if self.started_at is not None else 0.0
        return len(self.durations) / elapsed * 3600 if self.durations and elapsed > 0 else None

    def left(self, missing: int) -> float | None:
        """Estimate the seconds until `missing` more trials have ended; None before two have.

        The estimate assumes that a trial that hasn't started takes the mean time, and that a
        running trial makes all its updates. With the second assumption, the estimate isn't too low
        while the last few trials run. After the last trial has started, slots become empty one by
        one. The estimate assumes that each slot but one is then empty for half the mean time.
        """
        if len(self.durations) < 2:
            return None
        mean, now, running = self._mean(), self.clock(), list(self.running.items())
        remaining = [max(self.due.get(n, start + mean) - now, 0.0) for n, start in running]
        waiting, slots = max(missing - len(running), 0), max(self.slots, 1)
        lost = mean / 2 * (slots - 1) if waiting else 0.0
        return max([(waiting * mean + sum(remaining) + lost) / slots, *remaining])

    def _mean(self) -> float:
        """Estimate the mean seconds of a trial by the method of Kaplan and Meier (JASA, 1958).

        At first, most trials that have ended were pruned, so the mean over them alone is too low.
        The running trials are censored observations: their durations have a known lower bound. A
        trial that has run for longer than every ended trial is assumed to make all its updates.
        """
        now, running = self.clock(), list(self.running.items())
        ended, censored = sorted(self.durations), sorted(now - start for _, start in running)
        mean, alive, before = 0.0, 1.0, 0.0
        for count, seconds in enumerate(ended):
            mean += alive * (seconds - before)
            at_risk = len(ended) - count + len(censored) - bisect_left(censored, seconds)
            alive, before = alive * (1 - 1 / at_risk), seconds
        ends = [max(self.due.get(n, now), now) - start for n, start in running]
        ends = [end for (_, start), end in zip(running, ends, strict=True) if now - start >= before]
        return mean + alive * max(sum(ends) / len(ends) - before, 0.0) if ends else mean


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units, as in "2 h 05 min"; "–" for None."""
    if seconds is None:
        return "–"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
