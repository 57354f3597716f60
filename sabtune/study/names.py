"""Names of studies that derive from another study's name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, takewhile

from sabtune.storage.store import Store
from sabtune.study.optuna_storage import exists, open_storage

COMPARISONS = ("confirm", "ablate")
"""The kinds of comparison, by the last part of a study's name."""


def stored_names(store: Store) -> list[str]:
    """Return the names of the studies in a store; [] if it has no database yet."""
    if not exists(store):
        return []
    return [study.study_name for study in open_storage(store).get_all_studies()]


def kind(name: str) -> str:
    """Return the kind of a study by its name, such as "ablate" for NAME.ablate-2.

    The kind of a comparison is one of COMPARISONS.
    """
    return name.rpartition(".")[2].partition("-")[0]


def numbered(name: str) -> Iterator[str]:
    """Yield NAME, NAME-2, NAME-3, …, without end."""
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def free_name(name: str, store: Store) -> str:
    """Return the first of the numbered names that no study in the store has."""
    existing = set(stored_names(store))
    return next(candidate for candidate in numbered(name) if candidate not in existing)


def free_base(name: str, parts: Sequence[str], store: Store) -> str:
    """Return the first of the numbered names for which the store has no study NAME.PART."""
    existing = set(stored_names(store))
    return next(
        candidate
        for candidate in numbered(name)
        if existing.isdisjoint(f"{candidate}.{part}" for part in parts)
    )


def kept_names(name: str, store: Store) -> list[str]:
    """Return the numbered names up to the first one that no study in the store has."""
    existing = set(stored_names(store))
    return list(takewhile(existing.__contains__, numbered(name)))
