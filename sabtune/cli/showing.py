"""The commands that show what there is: status, report, ui; and sync."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sabtune.cli import remote
from sabtune.cli.app import app
from sabtune.cli.commands import typed, where_of
from sabtune.cli.options import ClusterOption, FilesOption, StoreOption, TrackingOption
from sabtune.cli.screen import (
    check_free,
    console_of_terminal,
    log_report,
    show_report,
    write_report,
)
from sabtune.errors import ConfigError
from sabtune.schema import check
from sabtune.storage.store import DEFAULT, Store
from sabtune.wording import counted


@app.command()
def status(
    study: Annotated[
        str | None,
        typer.Argument(help="The name of a study in the store; none shows a --cluster's searches."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show what the search prints on the --cluster.")
    ] = False,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Print how a study stands; from another terminal while it is searched, too."""
    if cluster is not None:
        if follow:
            remote.follow_study(cluster, study)
        elif study is None:
            remote.show_jobs(cluster)
        else:
            where = remote.options({"--store": store, "--files": files})
            remote.ask(cluster, "status", study, *where)
        return
    check(not follow, "--follow", follow, "--cluster too: a search here shows what it does")
    if study is None:
        raise ConfigError("status wants a study's name: give one, or --cluster")
    from sabtune.study.locks import is_held
    from sabtune.study.record import open_study
    from sabtune.terminal.status import status as page

    place = Store.at(store, files).existing()
    console_of_terminal().print(page(open_study(place, study), is_held(study, place)))


@app.command()
def stop(
    study: Annotated[str, typer.Argument(help="The name of a study that is searched there.")],
    cluster: Annotated[
        Path, typer.Option("--cluster", help="The YAML file of the cluster that searches it.")
    ],
) -> None:
    """Stop a search on a cluster as Ctrl-C would one here: the next search goes on with it."""
    remote.stop(cluster, study)


@app.command()
def sync(
    study: Annotated[str, typer.Argument(help="The name of a study in the store.")],
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Make MLflow hold all of a study, nothing twice."""
    if cluster is not None:
        given = {"--store": store, "--files": files, "--tracking": tracking}
        remote.ask(cluster, "sync", study, *remote.options(given))
    from sabtune.study.record import open_study
    from sabtune.tracking.mirror import sync as run_sync

    place = Store.at(store, files, tracking).existing()
    opened = open_study(place, study, write=True)
    run_sync(opened, place)
    console = console_of_terminal()
    log_report(console, study, place)
    trials = opened.get_trials(deepcopy=False)
    none = "" if any(trial.state.is_finished() for trial in trials) else " None has ended yet."
    console.print(f"MLflow holds all {counted(len(trials), 'trial')} of {study}.{none}")


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
    cluster: ClusterOption = None,
) -> None:
    """Print what a study found: its best trial, by length. With --out, write it for a paper."""
    if cluster is not None:
        check(out is None, "--out", out, "it on the head, where its files would be")
        remote.ask(cluster, "report", study, *remote.options({"--store": store, "--files": files}))
    place = Store.at(store, files).existing()
    if out is None:
        check(formats is None, "--format", formats, "--out too, the folder to write into")
        where = where_of(store, files)
        show_report(console_of_terminal(), study, place, typed("sync", study, where=where))
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
    cluster: ClusterOption = None,
) -> None:
    """Open MLflow on the store, at http://127.0.0.1:PORT, until Ctrl-C."""
    port = port or (8080 if optuna else 5000)
    if cluster is not None:
        where = remote.options({"--store": store, "--files": files, "--tracking": tracking})
        remote.page(cluster, optuna=optuna, port=port, arguments=where)
        return
    place = Store.at(store, files, tracking).existing()
    check_free(port)
    if optuna:
        from sabtune.search.optuna_ui import serve as serve_optuna

        typer.echo(f"optuna-dashboard: http://127.0.0.1:{port}")
        serve_optuna(place, port)
        return
    from sabtune.tracking.ui import serve

    typer.echo(f"MLflow: http://127.0.0.1:{port}")
    serve(place, port)
