"""Keep exceptions in the search's own code from reaching Ray Tune.

Ray Tune would only retry a trial after such an exception.
"""

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
"""What a guarded method returns after an exception, by its name; other methods return None."""


class Guard:
    """A guard around the methods that Ray Tune calls, which catches their exceptions.

    The first exception ends the search: the guard stores it in `problem` and calls `stop`. After
    that, guarded methods do nothing. Unfinished trials stay unfinished in the study, as after
    Ctrl-C.

    stop: a function that ends the search.
    """

    def __init__(self, stop: Callable[[], None]):
        self.stop = stop
        self.problem: Exception | None = None

    def over(self, part: T) -> T:
        """Guard the public methods of `part` that override Ray Tune's own, and return `part`."""
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
        """Raise the first caught exception when the block ends.

        It replaces an exception that the block itself raises, which is probably a consequence.
        """
        try:
            yield
        except Exception:
            if self.problem is None:
                raise
        if self.problem is not None:
            raise self.problem

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty state.

        Ray Tune pickles the guarded objects, and `problem` may not be picklable.
        """
        return {}
