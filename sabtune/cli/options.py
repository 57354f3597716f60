"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sabtune.data.place import VARIABLE as DATA_VARIABLE

FILES_VARIABLE, TRACKING_VARIABLE = "SABTUNE_FILES", "MLFLOW_TRACKING_URI"

StoreOption = Annotated[
    str,
    typer.Option(
        "--store", help="The folder that keeps every study, or postgresql://USER@HOST/DATABASE."
    ),
]
FilesOption = Annotated[
    str | None,
    typer.Option(
        "--files",
        envvar=FILES_VARIABLE,
        help="Where checkpoints, MLflow's files and copies of the studies go: a folder, "
        "s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; by default the store's folder.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar=DATA_VARIABLE,
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
        envvar=TRACKING_VARIABLE,
        help="An MLflow server's URI, or MLflow's database as postgresql://USER@HOST/DATABASE; "
        "by default the store has its own MLflow.",
    ),
]
ClusterOption = Annotated[
    Path | None,
    typer.Option("--cluster", help="The YAML file of a cluster to do this on, by its head."),
]
