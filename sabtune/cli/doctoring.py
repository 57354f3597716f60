"""The command that says what is wrong: doctor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sabtune.cli.app import app
from sabtune.cli.options import StoreOption, TrackingOption
from sabtune.cli.screen import console_of_terminal
from sabtune.store import DEFAULT, Store


@app.command()
def doctor(
    cluster: Annotated[
        Path | None,
        typer.Option("--cluster", help="The YAML file of a cluster to look at, from outside it."),
    ] = None,
    store: StoreOption = str(DEFAULT),
    files: Annotated[
        str | None,
        typer.Option(
            "--files",
            envvar="SABTUNE_FILES",
            help="Where checkpoints go: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.",
        ),
    ] = None,
    tracking: TrackingOption = None,
) -> None:
    """Look for what is wrong, here and on the cluster's nodes. Exit 0 if nothing is, else 1."""
    console = console_of_terminal()
    if cluster is not None:
        raise typer.Exit(_from_outside(cluster))
    from sabtune.report.health import health_page
    from sabtune.search.doctor import see

    folder = Path(files) if files and "://" not in files else None
    found = see(Store.at(store, folder if "://" in store else None, tracking), files)
    console.print(health_page(found))
    raise typer.Exit(0 if found.well else 1)


def _from_outside(path: Path) -> int:
    """What is wrong on this machine; if nothing is, the head's own page."""
    from sabtune.report.health import findings_page
    from sabtune.search.beforehand import beforehand
    from sabtune.search.cluster_file import ClusterFile
    from sabtune.search.head_page import head_page

    console = console_of_terminal()
    file = ClusterFile.load(path)
    found = beforehand(file)
    console.print(f"This machine, before {os.fspath(path)}")
    console.print(findings_page(found))
    if any(finding.wrong for finding in found):
        return 1
    page, well = head_page(file)
    console.print(f"\n{page}", markup=False, highlight=False)
    return 0 if well else 1
