"""The commands that show what there is: status, report, ui; and sync."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sabtune.cli.app import app
from sabtune.cli.options import FilesOption, StoreOption, TrackingOption
from sabtune.cli.screen import (
    check_free,
    console_of_terminal,
    log_report,
    show_report,
    write_report,
)
from sabtune.schema import check
from sabtune.store import DEFAULT, Store


@app.command()
def status(
    study: Annotated[str, typer.Argument(help="The name of a study in the store.")],
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
) -> None:
    """Print how a study stands; from another terminal while it is searched, too."""
    from sabtune.report.status import status as page
    from sabtune.search.locks import is_held
    from sabtune.search.record import open_study

    place = Store.at(store, files).existing()
    console_of_terminal().print(page(open_study(place, study), is_held(study, place)))


@app.command()
def sync(
    study: Annotated[str, typer.Argument(help="The name of a study in the store.")],
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
) -> None:
    """Make MLflow hold all of a study, nothing twice."""
    from sabtune.search.projection import sync as run_sync
    from sabtune.search.record import open_study

    place = Store.at(store, files, tracking).existing()
    opened = open_study(place, study)
    run_sync(opened, place)
    console = console_of_terminal()
    log_report(console, study, place)
    trials = opened.get_trials(deepcopy=False)
    none = "" if any(trial.state.is_finished() for trial in trials) else " None has ended yet."
    console.print(f"MLflow holds all {len(trials)} trials of {study}.{none}")


@app.command()
def report(
    study: Annotated[str, typer.Argument(help="The name of a study in the store.")],
    out: Annotated[
        Path | None, typer.Option(help="A folder to write a page, tables and figures into.")
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option("--format", help="Of those html, md, csv, tex, png, pdf; by default all."),
    ] = None,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
) -> None:
    """Print what a study found: its best trial, by length. With --out, write it for a paper."""
    place = Store.at(store, files).existing()
    if out is None:
        check(formats is None, "--format", formats, "--out too, the folder to write into")
        show_report(console_of_terminal(), study, place)
    else:
        write_report(console_of_terminal(), study, place, out, formats)


@app.command()
def ui(
    optuna: Annotated[
        bool, typer.Option("--optuna", help="Open optuna-dashboard in place of MLflow.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="On the loopback interface; by default 5000, of --optuna 8080."
        ),
    ] = None,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
) -> None:
    """Open MLflow on the store, at http://127.0.0.1:PORT, until Ctrl-C."""
    place = Store.at(store, files, tracking).existing()
    port = port or (8080 if optuna else 5000)
    check_free(port)
    if optuna:
        from sabtune.search.dashboard import serve as serve_optuna

        typer.echo(f"optuna-dashboard: http://127.0.0.1:{port}")
        serve_optuna(place, port)
        return
    from sabtune.tracking.server import serve

    raise typer.Exit(serve(place, port))
