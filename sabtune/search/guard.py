"""Keeps the exceptions of a search's own code from Ray Tune, which would only try a trial again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

T = TypeVar("T")

ANSWERS = {
    "suggest": Searcher.FINISHED,
    "stop_all": True,
    "on_trial_result": TrialScheduler.CONTINUE,
}
"""What Tune is told by a method that can't answer; None by every other."""


class Guard:
    """Lets no exception reach Tune. The first one ends the search.

    `stop` is called then, and nothing that is guarded runs any more. Trials that haven't ended
    stay so in the study, as after Ctrl-C.
    """

    def __init__(self, stop: Callable[[], None]):
        self.stop = stop
        self.problem: Exception | None = None

    def over(self, part: T) -> T:
        """The same object, each of its methods that Tune may call guarded."""
        tunes = next(base for base in type(part).__mro__ if base.__module__.startswith("ray."))
        for name in dir(tunes):
            if not name.startswith("_") and getattr(type(part), name) is not getattr(tunes, name):
                setattr(part, name, self._guarded(getattr(part, name), ANSWERS.get(name)))
        return part

    def _guarded(self, call: Callable[..., Any], answer: object) -> Callable[..., Any]:
        @functools.wraps(call)
        def guarded(*arguments: Any, **named: Any) -> Any:
            if self.problem is None:
                try:
                    return call(*arguments, **named)
                except Exception as problem:
                    self.problem = problem
                    self.stop()
            return answer

        return guarded

    @contextmanager
    def until_closed(self) -> Iterator[None]:
        """Raises the problem at the end, in place of what comes of it while the search closes."""
        try:
            yield
        except Exception:
            if self.problem is None:
                raise
        if self.problem is not None:
            raise self.problem

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes down what it is given, and an exception may not let it."""
        return {}
