"""Operations on a store, tried again while it is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sabtune.errors import RefusedError

T = TypeVar("T")

PAUSES = (2.0, 8.0, 30.0, 60.0, 120.0, 240.0)
"""Seconds between the tries of a worker that can't reach the object store, before it gives up."""


def patiently(do: Callable[[], T], problem: type[Exception]) -> T:
    """Does it, again after each of the pauses if it raises this problem; then lets it raise. A
    store that refuses is asked twice."""
    for count, pause in enumerate(PAUSES):
        try:
            return do()
        except problem as raised:
            if isinstance(raised, RefusedError) and count:
                raise
            time.sleep(pause)
    return do()
