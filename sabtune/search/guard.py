"""Keep exceptions of the search's own code away from Ray Tune, which would only retry a trial."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

T = TypeVar("T")

FALLBACKS = {
    "suggest": Searcher.FINISHED,
    "stop_all": True,
    "on_trial_result": TrialScheduler.CONTINUE,
}
"""What a method returns to Ray Tune after an exception; every other method returns None."""


class Guard:
    """Lets no exception reach Ray Tune; the first exception ends the search.

    The guard then calls `stop`, and no guarded method runs any more. Unfinished trials stay
    unfinished in the study, as after Ctrl-C.
    """

    def __init__(self, stop: Callable[[], None]):
        self.stop = stop
        self.problem: Exception | None = None

    def over(self, part: T) -> T:
        """Guard each method of an object that Ray Tune may call, and return the same object."""
        tune_class = next(base for base in type(part).__mro__ if base.__module__.startswith("ray."))
        for name in dir(tune_class):
            if not name.startswith("_") and getattr(type(part), name) is not getattr(
                tune_class, name
            ):
                setattr(part, name, self._guarded(getattr(part, name), FALLBACKS.get(name)))
        return part

    def _guarded(self, call: Callable[..., Any], fallback: object) -> Callable[..., Any]:
        @functools.wraps(call)
        def guarded(*arguments: Any, **named: Any) -> Any:
            if self.problem is None:
                try:
                    return call(*arguments, **named)
                except Exception as problem:
                    self.problem = problem
                    self.stop()
            return fallback

        return guarded

    @contextmanager
    def until_closed(self) -> Iterator[None]:
        """Raise the first problem at the end, in place of exceptions that it causes meanwhile."""
        try:
            yield
        except Exception:
            if self.problem is None:
                raise
        if self.problem is not None:
            raise self.problem

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray Tune pickles its parts, and an exception may not be picklable."""
        return {}
