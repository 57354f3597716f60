"""The commands that show, synchronize or stop studies: status, stop, report, ui, sync."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sabtune.cli import remote
from sabtune.cli.app import CLUSTER, RESULTS, SEARCH, command
from sabtune.cli.commands import command_line, location_values
from sabtune.cli.completing import study_names
from sabtune.cli.following import searched_study, show_status, show_studies
from sabtune.cli.options import (
    ClusterOption,
    FilesOption,
    RequiredClusterOption,
    StoreOption,
    StudyArgument,
    TrackingOption,
)
from sabtune.cli.screen import (
    check_free,
    publish_report,
    show_address,
    show_report,
    write_report,
)
from sabtune.schema import check
from sabtune.storage.store import DEFAULT, Store
from sabtune.terminal.console import make_console
from sabtune.wording import counted


@command(
    SEARCH,
    ("List the studies of the store, the latest first", "sabtune status"),
    ("See how far a search is", "sabtune status copying_quick"),
    ("Follow a search that runs in another terminal", "sabtune status copying_quick --follow"),
    ("List the searches on a cluster", "sabtune status --cluster cluster.yaml"),
)
def status(
    study: Annotated[
        str | None,
        typer.Argument(
            help="The name of a study in the store. Without it, list the studies of the store, or "
            "the searches of the --cluster.",
            autocompletion=study_names,
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show a running search until it ends.")
    ] = False,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    cluster: ClusterOption = None,
) -> None:
    """List the studies, or print the state of one, also while it is being searched."""
    if cluster is not None:
        if follow:
            remote.follow_study(cluster, study)
        elif study is None:
            remote.show_jobs(cluster)
        else:
            remote.run_on_head(cluster, "status", study, *remote.location_options(store, files))
        return
    console, place = make_console(), Store.at(store, files).existing()
    if study is None and follow:
        study = searched_study(console, place)
    if study is None:
        show_studies(console, place, location_values(store, files))
    else:
        show_status(console, place, study, location_values(store, files), follow=follow)


@command(
    CLUSTER,
    ("Stop the search of a study", "sabtune stop copying --cluster cluster.yaml"),
)
def stop(
    study: Annotated[str, typer.Argument(help="The name of a study that the cluster searches.")],
    cluster: RequiredClusterOption,
) -> None:
    """Stop a search on a cluster as Ctrl-C does. The next search of the study resumes it."""
    remote.stop(cluster, study)


@command(
    RESULTS,
    ("Print what a study found", "sabtune report copying_quick"),
    ("Write a page, tables and figures", "sabtune report copying_quick --out report"),
    (
        "Write only the tables for a paper",
        "sabtune report copying_quick --out report --format tex,pdf",
    ),
)
def report(
    study: StudyArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the report into this folder: a page, tables and figures."),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Write only these formats, such as html,png. Defaults to html,md,csv,tex,png,pdf.",
        ),
    ] = None,
    style: Annotated[
        str | None,
        typer.Option(
            help="The style of the figures: paper has the widths and fonts of NeurIPS and ICML."
        ),
    ] = None,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Print the results of a study. With --out, write a page, tables and figures."""
    if cluster is not None:
        check(
            out is None, "--out", out, "it in a command on the head, where it would write the files"
        )
        remote.run_on_head(cluster, "report", study, *remote.location_options(store, files))
    from sabtune.study.record import StudyRecord

    place = Store.at(store, files).existing()
    if out is None:
        check(formats is None, "--format", formats, "--out too, the folder to write into")
        check(style is None, "--style", style, "--out too, the folder to write into")
        where, console = location_values(store, files), make_console()
        record = StudyRecord.open(place, study)
        show_report(console, record, place, command_line("sync", study, where=where))
        show_address(console, record, place, command_line("ui", study, where=where))
    else:
        write_report(make_console(), study, place, out, formats, style)


@command(
    RESULTS,
    ("Open MLflow at http://127.0.0.1:5000", "sabtune ui"),
    ("Open a study in MLflow", "sabtune ui copying_quick"),
    ("Open optuna-dashboard at another port", "sabtune ui --optuna --port 8090"),
    ("Open the MLflow of a cluster", "sabtune ui --cluster cluster.yaml"),
)
def ui(
    study: Annotated[
        str | None,
        typer.Argument(
            help="The study to open. Defaults to the one that was searched last.",
            autocompletion=study_names,
        ),
    ] = None,
    optuna: Annotated[
        bool, typer.Option("--optuna", help="Open optuna-dashboard instead of MLflow.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="The port on the loopback interface. Defaults to 5000, or 8080 with --optuna.",
        ),
    ] = None,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Serve MLflow for the store at http://127.0.0.1:PORT until Ctrl-C."""
    port = port or (8080 if optuna else 5000)
    if cluster is not None:
        where = remote.location_options(store, files, tracking)
        remote.page(cluster, study, optuna=optuna, port=port, arguments=where)
        return
    place = Store.at(store, files, tracking).existing()
    check_free(port)
    if optuna:
        from sabtune.tuning.optuna_ui import serve as serve_optuna

        serve_optuna(place, port, study, typer.echo)
        return
    from sabtune.tracking.ui import serve

    serve(place, port, study, typer.echo)


@command(
    RESULTS,
    (
        "Complete MLflow's copy, for example after its server was down or the store moved",
        "sabtune sync copying_quick",
    ),
)
def sync(
    study: StudyArgument,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Copy to MLflow everything of a study that it doesn't have yet."""
    if cluster is not None:
        where = remote.location_options(store, files, tracking)
        remote.run_on_head(cluster, "sync", study, *where)
    from sabtune.study.writer import StudyWriter
    from sabtune.tracking.mirror import sync as run_sync

    place = Store.at(store, files, tracking).existing()
    opened = StudyWriter.open(place, study)
    run_sync(opened, place)
    console = make_console()
    publish_report(console, study, place)
    record = opened.read()
    trials, note = record.frozen, "" if record.ended else " No trial has ended yet."
    console.print(f"MLflow holds all {counted(len(trials), 'trial')} of {study}.{note}")
