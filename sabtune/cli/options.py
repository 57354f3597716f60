"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StoreOption = Annotated[
    str,
    typer.Option(
        "--store", help="The folder that keeps every study, or postgresql://USER@HOST/DATABASE."
    ),
]
FilesOption = Annotated[
    Path | None,
    typer.Option(
        "--files",
        envvar="SABTUNE_FILES",
        help="The folder for checkpoints, where the store is a database.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="SABTUNE_DATA",
        help="The folder that keeps data sets; by default the user's cache.",
    ),
]
LengthsOption = Annotated[
    str | None,
    typer.Option(help="Lengths to measure at, such as 100,200; by default none of the ladder's."),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking",
        envvar="MLFLOW_TRACKING_URI",
        help="The URI of an MLflow server; by default the store has its own MLflow.",
    ),
]
ClusterOption = Annotated[
    Path | None,
    typer.Option("--cluster", help="The YAML file of a cluster to do this on, by its head."),
]
