"""The command line: it parses arguments, prints results and sets exit codes.

Exit codes: 0 for success, 1 for a bug or a failed check, 2 for a mistake that you can correct, and
128 plus the number of the signal for an interrupted command (130 for Ctrl-C).

The modules `running`, `showing`, `doctoring` and `data` define the commands.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from sabtune import interrupts
from sabtune.cli import data, doctoring, notifying, problems, running, showing, streams, usage
from sabtune.cli.app import InterruptedCommandError, app
from sabtune.cli.screen import INTERRUPTED
from sabtune.escaping import terminal

__all__ = ["app", "data", "doctoring", "main", "running", "showing"]


def main() -> NoReturn:
    """Run the command that the arguments of this process name, then exit."""
    notifying.hide_urls()
    interrupts.install()
    streams.install()
    code = run()
    if interrupts.received() is not None and code == INTERRUPTED:
        code = interrupts.exit_code()
    interrupts.finish(flush_output(code))


def run() -> int:
    """Run the command and return its exit code."""
    try:
        code = app(standalone_mode=False, prog_name="sabtune")
    except typer.TyperException as mistake:
        explanation = usage.explanation(mistake)
        if explanation:
            typer.echo(f"sabtune: {terminal(explanation)}", err=True)
        return 2
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BrokenPipeError:
        return 1
    except (KeyboardInterrupt, InterruptedCommandError):
        return report_interruption()
    except BaseException as problem:
        if interrupts.received() is not None:  # a consequence of the signal
            return report_interruption()
        known = problems.explained(problem)
        typer.echo(f"sabtune: {terminal(known or problems.unexpected(problem))}", err=True)
        return 2 if known else 1
    return code if isinstance(code, int) else 0


def report_interruption() -> int:
    """Print that the command was interrupted and return its exit code."""
    typer.echo("sabtune: interrupted", err=True)
    return INTERRUPTED


def flush_output(code: int) -> int:
    """Flush stdout and return `code`, or 1 if a successful command lost some of its output."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return code or 1
    problem = getattr(sys.stdout, "problem", None)
    if problem is None:
        return code
    typer.echo(f"sabtune: the output can't be written ({problem.strerror})", err=True)
    return code or 1
