"""Names of studies that come about beside another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, takewhile

from sabtune.storage.store import Store
from sabtune.study import record

COMPARISONS = ("confirm", "ablate")
"""The kinds of study that follow a search, by how their names end."""


def kind(name: str) -> str:
    """Of a study NAME.confirm, NAME.ablate-2 and so on, which of CONTESTS."""
    return name.rpartition(".")[2].partition("-")[0]


def numbered(name: str) -> Iterator[str]:
    """NAME, NAME-2, NAME-3, …"""
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def free_name(name: str, store: Store) -> str:
    """The first of `numbered` that the store doesn't know."""
    known = set(record.names(store))
    return next(free for free in numbered(name) if free not in known)


def kept_names(name: str, store: Store) -> list[str]:
    """Those of `numbered` that the store knows, as they came about."""
    known = set(record.names(store))
    return list(takewhile(known.__contains__, numbered(name)))
