"""The studies of a store, and searches that are followed: what `sabtune status` does."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from sabtune.cli.commands import Values, command_line
from sabtune.cli.screen import INTERRUPTED, hint, show_report
from sabtune.errors import ConfigError
from sabtune.storage.store import Store

if TYPE_CHECKING:
    from sabtune.study.record import StudyRecord


def show_studies(console: Console, store: Store, where: Values) -> None:
    """Print the studies of a store, the latest first, and how to see one of them."""
    from sabtune.study.listing import listed
    from sabtune.study.locks import held_names
    from sabtune.terminal.studies import studies_page

    studies = listed(store)
    if not studies:
        console.print(Text(f"{store.shown} has no studies yet; run `sabtune search` first."))
        return
    searched = held_names((study.name for study in studies), store)
    console.print(studies_page(store.shown, studies, searched, datetime.now()))
    latest = max(studies, key=lambda s: (s.name in searched, s.active or datetime.min)).name
    console.print()
    if latest in searched:
        hint(
            console, "Follow the search:", command_line("status", latest, where=where, follow=True)
        )
    hint(console, "Show the results:", command_line("report", latest, where=where))


def searched_study(console: Console, store: Store) -> str | None:
    """Return the only study that is being searched; print that there is none, and return None.

    Raises ConfigError if there are several.
    """
    from sabtune.study.listing import listed
    from sabtune.study.locks import held_names

    searched = sorted(held_names((study.name for study in listed(store)), store))
    if len(searched) > 1:
        raise ConfigError(f"name the study to follow; running searches: {', '.join(searched)}")
    if not searched:
        console.print("No search is running, so there is none to follow.")
    return searched[0] if searched else None


def show_status(
    console: Console, store: Store, name: str, where: Values, *, follow: bool = False
) -> None:
    """Print the state of a study, or follow its search if one is running and `follow` is set."""
    from sabtune.study.locks import is_held
    from sabtune.study.record import StudyRecord
    from sabtune.terminal.status import status

    study, is_searched = StudyRecord.open(store, name), is_held(name, store)
    if follow and is_searched:
        follow_search(console, study, where)
    else:
        console.print(status(study, is_searched, follow=follow))


def follow_search(console: Console, study: StudyRecord, where: Values) -> None:
    """Show a running search until it ends, then its results. Ctrl-C leaves it running."""
    from sabtune.terminal.following import follow

    name = study.name
    console.print(Text(f"Following the search of {name}. Ctrl-C leaves it running."))
    try:
        follow(console, study)
    except KeyboardInterrupt:
        console.print(Text(f"{name} keeps running."))
        hint(console, "Follow it again:", command_line("status", name, where=where, follow=True))
        raise typer.Exit(INTERRUPTED) from None
    study.refresh()
    if study.planned is not None and study.ended < study.planned:
        console.print(Text(f"The search ended after {study.ended} of {study.planned} trials."))
    show_report(console, study, study.store, command_line("sync", name, where=where))
