"""The root command, `sabtune`."""

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
    help="Tune LSTMs with Sparse Attentive Backtracking: how sparse can the memory be?",
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"sabtune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass
