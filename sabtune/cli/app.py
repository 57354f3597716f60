"""The command that all others belong to."""

from __future__ import annotations

from typing import Annotated

import typer

from sabtune import __version__
from sabtune.cli.former import Commands

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which sparse memory carries credit furthest? Searches over SAB models.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sabtune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
