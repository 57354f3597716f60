"""The command line: arguments in, exit codes out. 0 done, 2 a mistake to mend, 130 interrupted.

The commands are in `running`, `showing`, `doctoring` and `data`; no logic is.
"""

from __future__ import annotations

import os
import sys

import typer

from sabtune.cli import data, doctoring, running, showing
from sabtune.cli.app import app
from sabtune.cli.options import FILES_VARIABLE, TRACKING_VARIABLE
from sabtune.errors import SabtuneError
from sabtune.escaping import terminal
from sabtune.redaction import redact

__all__ = ["app", "data", "doctoring", "main", "running", "showing"]


def main() -> None:
    """The console script."""
    try:
        app()
    except SabtuneError as mistake:
        typer.echo(f"sabtune: {terminal(redact(str(mistake), *_given()))}", err=True)
        sys.exit(2)


def _given() -> list[str]:
    """The values that the command was given, among which an address may hold a password."""
    words = [word.partition("=")[2] if word.startswith("--") else word for word in sys.argv[1:]]
    return [*words, *(os.environ.get(name, "") for name in (FILES_VARIABLE, TRACKING_VARIABLE))]
