"""The command that says what is wrong: doctor."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from sabtune.cli import remote
from sabtune.cli.app import app
from sabtune.cli.options import ClusterOption, FilesOption, StoreOption, TrackingOption
from sabtune.cli.screen import console_of_terminal
from sabtune.storage.store import DEFAULT, Store


@app.command()
def doctor(
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Look for what is wrong, here and on the cluster's nodes. Exit 0 if nothing is, else 1."""
    if cluster is not None:
        given = remote.options({"--store": store, "--files": files, "--tracking": tracking})
        from_outside(cluster, given)
        return
    from sabtune.cluster.doctor import see
    from sabtune.terminal.doctor import health_page

    found = see(Store.at(store, files, tracking))
    console_of_terminal().print(health_page(found))
    raise typer.Exit(0 if found.well else 1)


def from_outside(path: Path, given: list[str]) -> None:
    """What is wrong on this machine; if nothing is, what the head's own doctor finds."""
    from sabtune.cluster.cluster_file import ClusterFile
    from sabtune.cluster.preflight import problems_before
    from sabtune.terminal.doctor import findings_page

    console = console_of_terminal()
    found = problems_before(ClusterFile.load(path))
    console.print(f"This machine, before {os.fspath(path)}")
    console.print(findings_page(found))
    if any(finding.wrong for finding in found):
        raise typer.Exit(1)
    console.print()
    remote.ask(path, "doctor", *given)
