"""The output of `sabtune status` without a study: the studies of a store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sabtune.study.listing import ListedStudy, parent
from sabtune.terminal.pace import duration
from sabtune.terminal.styles import styled

INDENT = "  "
"""What stands before a study that belongs to the one above it."""


def studies_page(
    store: str, studies: Sequence[ListedStudy], searched: Collection[str], now: datetime
) -> RenderableType:
    """Return a table of studies, those with the latest activity first.

    Confirmations, ablations and baselines follow the study that they belong to.

    store: The location of the store, for the title.

    searched: The names of the studies that are being searched.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("study", overflow="fold")
    for name in ("state", "trials", "best score", "last activity"):
        right = name in ("trials", "best score")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for study, depth in _in_groups(studies, searched):
        planned = "" if study.planned is None else f" of {study.planned:,}"
        is_searched = study.name in searched
        table.add_row(
            INDENT * depth + study.name,
            styled(_state(study, is_searched)),
            f"{study.ended:,}{planned}",
            "" if study.best is None else f"{study.best:.3f}",
            "now" if is_searched else _ago(study.active, now),
        )
    return Group(Text(f"Studies in {store}"), Text(""), table)


def _state(study: ListedStudy, is_searched: bool) -> str:
    if is_searched:
        return "searching"
    if study.complete:
        return f"complete, {study.stopped}" if study.stopped else "complete"
    return "interrupted" if sum(study.counts.values()) else "empty"


def _ago(when: datetime | None, now: datetime) -> str:
    if when is None:
        return ""
    return f"{duration(max((now - when).total_seconds(), 0.0))} ago"


def _in_groups(
    studies: Sequence[ListedStudy], searched: Collection[str]
) -> Iterator[tuple[ListedStudy, int]]:
    """Yield each study with the number of studies that it belongs to."""
    names = {study.name for study in studies}
    below: dict[str | None, list[ListedStudy]] = {}
    for study in studies:
        below.setdefault(parent(study.name, names), []).append(study)
    active = {study.name: _activity(study, searched) for study in studies}
    yield from _group(None, 0, below, active)


def _group(
    name: str | None,
    depth: int,
    below: Mapping[str | None, Sequence[ListedStudy]],
    active: Mapping[str, tuple[bool, datetime]],
) -> Iterator[tuple[ListedStudy, int]]:
    def latest(study: ListedStudy) -> tuple[bool, datetime]:
        return max([active[study.name], *map(latest, below.get(study.name, ()))])

    for study in sorted(below.get(name, ()), key=latest, reverse=True):
        yield study, depth
        yield from _group(study.name, depth + 1, below, active)


def _activity(study: ListedStudy, searched: Collection[str]) -> tuple[bool, datetime]:
    return study.name in searched, study.active or datetime.min
