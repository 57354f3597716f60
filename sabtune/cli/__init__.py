"""The command line: arguments in, exit codes out. 0 done, 2 a mistake to mend, 130 interrupted.

The commands are in `running`, `showing`, `doctoring` and `data`; no logic is.
"""

from __future__ import annotations

import sys

import typer

from sabtune.cli import data, doctoring, running, showing
from sabtune.cli.app import app
from sabtune.errors import SabtuneError

__all__ = ["app", "data", "doctoring", "main", "running", "showing"]


def main() -> None:
    """The console script."""
    try:
        app()
    except SabtuneError as mistake:
        typer.echo(f"sabtune: {mistake}", err=True)
        sys.exit(2)
