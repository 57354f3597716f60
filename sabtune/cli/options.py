"""Options and arguments that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sabtune.cli.completing import study_names
from sabtune.data.place import VARIABLE as DATA_VARIABLE
from sabtune.notification import VARIABLE as NOTIFY_VARIABLE
from sabtune.storage.store import FILES_VARIABLE, TRACKING_VARIABLE

MOST_RUNS = 10_000
"""The largest number of configurations in a comparison, and of seeds for each of them."""

LARGEST_INTEGER = 2**31 - 1
"""The largest integer that both an INTEGER column of a database and a random generator accept."""

STORE_PANEL, CLUSTER_PANEL, NOTIFY_PANEL = "Store", "Cluster", "Notifications"
"""The groups of options in the help of commands that share them."""

StudyArgument = Annotated[
    str, typer.Argument(help="The name of a study in the store.", autocompletion=study_names)
]
StudiesArgument = Annotated[
    list[str],
    typer.Argument(
        help="A study, then any baseline studies to compare it with.", autocompletion=study_names
    ),
]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        help="The folder that holds all studies, or postgresql://USER@HOST/DATABASE.",
        rich_help_panel=STORE_PANEL,
    ),
]
FilesOption = Annotated[
    str | None,
    typer.Option(
        "--files",
        envvar=FILES_VARIABLE,
        help="Where to keep checkpoints, MLflow artifacts and backups of the studies: a folder, "
        "s3://BUCKET/PREFIX or gs://BUCKET/PREFIX. Defaults to the store's folder.",
        rich_help_panel=STORE_PANEL,
    ),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking",
        envvar=TRACKING_VARIABLE,
        help="The URI of an MLflow server, or of MLflow's database as "
        "postgresql://USER@HOST/DATABASE. Defaults to an MLflow database in the store.",
        rich_help_panel=STORE_PANEL,
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar=DATA_VARIABLE,
        help="The folder that holds data sets. Defaults to your cache folder.",
        rich_help_panel=STORE_PANEL,
    ),
]
ClusterOption = Annotated[
    Path | None,
    typer.Option(
        "--cluster",
        help="Run the command on the head of the cluster that this YAML file defines.",
        rich_help_panel=CLUSTER_PANEL,
    ),
]
RequiredClusterOption = Annotated[
    Path,
    typer.Option(
        "--cluster",
        help="The YAML file of the cluster that runs the search.",
        rich_help_panel=CLUSTER_PANEL,
    ),
]
NotifyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--notify",
        envvar=NOTIFY_VARIABLE,
        metavar="URL",
        help="Notify this service at the end, such as mailto://… or slack://…; repeatable. Needs "
        "sabtune[notify].",
        rich_help_panel=NOTIFY_PANEL,
    ),
]
SeedsOption = Annotated[
    int,
    typer.Option(min=1, max=MOST_RUNS, help="Train each configuration on this many fresh seeds."),
]
LengthsOption = Annotated[
    str | None,
    typer.Option(
        help="Measure accuracy at these lengths, such as 100,200. Defaults to the training length "
        "and lengths between and beyond the ladder's."
    ),
]
