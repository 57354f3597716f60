"""Names of studies that come about beside another."""

from __future__ import annotations

from itertools import count

from sabtune.search import record
from sabtune.store import Store


def free_name(name: str, store: Store) -> str:
    """NAME, or NAME-2, NAME-3, …: the first that the store doesn't know."""
    known = set(record.names(store))
    return next(free for i in count(1) if (free := name if i == 1 else f"{name}-{i}") not in known)
