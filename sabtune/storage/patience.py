"""Retries of operations on a store while it is unavailable."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sabtune.errors import RefusedError

T = TypeVar("T")

PAUSES_SECONDS = (2.0, 8.0, 30.0, 60.0, 120.0, 240.0)
"""The pauses between the attempts of a worker to reach the object store, until it gives up."""


def patiently(operation: Callable[[], T], retry_on: type[Exception]) -> T:
    """Return the result of `operation`, which is retried after pauses while it raises `retry_on`.

    RefusedError is retried only after the first attempt. Raises the exception of the last attempt.
    """
    for retries, pause in enumerate(PAUSES_SECONDS):
        try:
            return operation()
        except retry_on as problem:
            if isinstance(problem, RefusedError) and retries:
                raise
            time.sleep(pause)
    return operation()
