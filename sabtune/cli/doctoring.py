"""The command that diagnoses an installation or a cluster: doctor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import typer

from sabtune.cli import remote
from sabtune.cli.app import CLUSTER, command
from sabtune.cli.options import ClusterOption, FilesOption, StoreOption, TrackingOption
from sabtune.storage.store import DEFAULT, Store
from sabtune.terminal.console import make_console


@command(
    CLUSTER,
    ("Check this machine", "sabtune doctor"),
    ("Check a cluster, also before it is started", "sabtune doctor --cluster cluster.yaml"),
)
def doctor(
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
    cluster: ClusterOption = None,
) -> NoReturn:
    """Diagnose this machine and the cluster. Exits with 0 if nothing is wrong, else 1."""
    if cluster is not None:
        check_cluster(cluster, remote.location_options(store, files, tracking))
    from sabtune.cluster.doctor import see
    from sabtune.terminal.doctor import health_page

    health = see(Store.at(store, files, tracking))
    make_console().print(health_page(health))
    raise typer.Exit(0 if health.well else 1)


def check_cluster(path: Path, options: list[str]) -> NoReturn:
    """Print what is wrong on this machine; if nothing is, run `doctor` on the cluster's head."""
    from sabtune.cluster.cluster_file import ClusterFile
    from sabtune.cluster.preflight import problems_before
    from sabtune.terminal.doctor import findings_page

    console = make_console()
    findings = problems_before(ClusterFile.load(path))
    console.print(f"This machine, before {os.fspath(path)}")
    console.print(findings_page(findings))
    if any(finding.wrong for finding in findings):
        raise typer.Exit(1)
    console.print()
    remote.run_on_head(path, "doctor", *options)
