"""The command line: arguments in, exit codes out. 0 done, 2 a mistake to mend, 1 a bug or a check
that failed, 128 and the signal's number interrupted (130 by Ctrl-C).

The commands are in `running`, `showing`, `doctoring` and `data`; no logic is.
"""

from __future__ import annotations

import sys

import typer

from sabtune import interrupts
from sabtune.cli import data, doctoring, problems, running, showing, streams, usage
from sabtune.cli.app import app
from sabtune.cli.screen import INTERRUPTED
from sabtune.escaping import terminal

__all__ = ["app", "data", "doctoring", "main", "running", "showing"]


def main() -> None:
    """Run the command of this process's arguments, and exit."""
    interrupts.install()
    streams.install()
    code = run()
    if interrupts.received() is not None and code == INTERRUPTED:
        code = interrupts.exit_code()
    interrupts.finish(flushed(code))


def run() -> int:
    """Run the command; the exit code."""
    try:
        code = app(standalone_mode=False, prog_name="sabtune")
    except typer.TyperException as mistake:
        explanation = usage.explanation(mistake)
        if explanation:
            typer.echo(f"sabtune: {terminal(explanation)}", err=True)
        return 2
    except SystemExit as end:
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            return told_of_interruption()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return told_of_interruption()
    except BaseException as problem:
        if interrupts.received() is not None:  # what a signal broke off
            return told_of_interruption()
        words = problems.explained(problem)
        typer.echo(f"sabtune: {terminal(words or problems.unexpected(problem))}", err=True)
        return 2 if words else 1
    return code if isinstance(code, int) else 0


def told_of_interruption() -> int:
    typer.echo("sabtune: interrupted", err=True)
    return INTERRUPTED


def flushed(code: int) -> int:
    """Write out what is buffered; the exit code, 1 if a finished command's output got lost."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return code or 1
    problem = getattr(sys.stdout, "problem", None)
    if problem is None:
        return code
    typer.echo(f"sabtune: what it shows can't be written ({problem.strerror})", err=True)
    return code or 1
