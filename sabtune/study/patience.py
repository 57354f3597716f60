"""Optuna's storage in a database server, whose operations are tried again while that is away."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from optuna.storages import BaseStorage, RDBStorage

from sabtune.storage import server

Method = TypeVar("Method", bound=Callable[..., Any])

PREFIXES = ("get_", "_get_trials", "set_", "_set_", "create_", "_create_new_trial", "delete_")
"""Of the methods that talk to the database. To do one of these twice is as good as once, but for
two: see `_done`."""

PRIVATE = ("_create_new_trial", "_get_trials", "_set_trial_param")
"""What Optuna's cache calls of a storage beside its public methods."""

_within = threading.local()


def make_patient(storage: type[RDBStorage]) -> None:
    """Have the methods of a storage in a server wait while that is away."""
    for name in (*vars(BaseStorage), *PRIVATE):
        if name.startswith(PREFIXES):
            setattr(storage, name, _retrying(getattr(storage, name)))


def _retrying(method: Method) -> Method:
    @functools.wraps(method)
    def patient(self: RDBStorage, *arguments: Any, **named: Any) -> Any:
        if getattr(_within, "one", False) or not server.is_server(self.url):
            return method(self, *arguments, **named)
        _within.one = True
        try:
            done = _done(self, method.__name__, arguments, named)
            return server.retried(lambda: method(self, *arguments, **named), done)
        finally:
            _within.one = False

    return patient  # type: ignore[return-value]


def _done(
    storage: RDBStorage, name: str, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> Callable[[], Any]:
    """Return what tells whether a try that failed had been committed before its answer was lost.

    Who holds the lock is the study's only writer: a trial more than before is the one just made.
    """
    if name in ("create_new_trial", "_create_new_trial"):
        study = arguments[0]
        before = server.retried(lambda: storage.get_n_trials(study))

        def made() -> Any:
            trials = storage.get_all_trials(study, deepcopy=False)
            if len(trials) == before:
                return None
            return trials[before]._trial_id if name == "create_new_trial" else trials[before]

        return made
    if name == "set_trial_state_values":
        state = named["state"] if "state" in named else arguments[1]
        return lambda: storage.get_trial(arguments[0]).state == state or None
    return lambda: None
