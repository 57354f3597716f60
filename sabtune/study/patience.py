"""Retry the operations of Optuna's storage while its database server is unavailable."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from optuna.storages import BaseStorage, RDBStorage

from sabtune.storage import server
from sabtune.storage.database import database_at
from sabtune.study.optuna_private import CACHED_METHODS, CREATING_METHODS, OWN_METHODS
from sabtune.study.optuna_tables import id_of

Method = TypeVar("Method", bound=Callable[..., Any])

PREFIXES = ("get_", "set_", "create_", "delete_")
"""The prefixes of the public methods that access the database. All of them are idempotent, except
for those that `_done` handles."""

_retrying_thread = threading.local()


def make_patient(storage: type[RDBStorage]) -> None:
    """Make the methods of a storage class wait while its database server is unavailable."""
    public = (name for name in vars(BaseStorage) if name.startswith(PREFIXES))
    for name in (*public, *CACHED_METHODS, *OWN_METHODS):
        setattr(storage, name, _with_retries(getattr(storage, name)))


def _with_retries(method: Method) -> Method:
    """Wrap a method so that it is retried while the database server is unavailable.

    A call from within another wrapped method isn't retried, because the outer call is.
    """

    @functools.wraps(method)
    def wrapper(self: RDBStorage, *args: Any, **kwargs: Any) -> Any:
        if getattr(_retrying_thread, "active", False) or not database_at(self.url).is_shared:
            return method(self, *args, **kwargs)
        _retrying_thread.active = True
        try:
            done = _done(self, method.__name__, args, kwargs)
            return server.retried(lambda: method(self, *args, **kwargs), done)
        finally:
            _retrying_thread.active = False

    return wrapper  # type: ignore[return-value]


def _done(
    storage: RDBStorage, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Callable[[], Any]:
    """Return a function that returns the result of a failed call if the server committed the call.

    A call fails although it was committed if the connection breaks after the commit. The function
    returns None if the call must be repeated. The search that holds the lock is the only writer of
    the study. So if there is one more trial than before, the failed call created it.
    """
    if name in CREATING_METHODS:
        study = args[0]
        count = server.retried(lambda: storage.get_n_trials(study))

        def created() -> Any:
            trials = storage.get_all_trials(study, deepcopy=False)
            if len(trials) == count:
                return None
            return trials[count] if name in CACHED_METHODS else id_of(trials[count])

        return created
    if name == "set_trial_state_values":
        state = kwargs["state"] if "state" in kwargs else args[1]
        return lambda: storage.get_trial(args[0]).state == state or None
    return lambda: None
