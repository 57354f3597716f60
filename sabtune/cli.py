"""The command line: arguments in, exit codes out. 0 done, 2 a mistake to mend, 130 interrupted."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from sabtune import __version__
from sabtune.errors import SabtuneError
from sabtune.schema import check_whole
from sabtune.store import DEFAULT, Store

INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which sparse memory carries credit furthest? Searches over SAB models.",
)

StoreOption = Annotated[Path, typer.Option("--store", help="The folder that keeps every study.")]


@app.command()
def search(
    path: Annotated[Path, typer.Argument(help="A Python file with a STUDY and a space(trial).")],
    trials: Annotated[
        int | None, typer.Option(help="Trials of the study in all; by default the STUDY's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of sampler and trials; by default the STUDY's.")
    ] = None,
    store: StoreOption = DEFAULT,
) -> None:
    """Search the space of a study file, and report on the best model.

    A study that the store knows is gone on with.
    """
    from sabtune.search.study import load

    for name, value, least in (("--trials", trials, 1), ("--seed", seed, 0)):
        if value is not None:
            check_whole(name, value, least)
    file = load(path).with_limits(trials=trials, seed=seed)
    place = Store.create(store)

    from sabtune.search.progress import Watch  # ray and mlflow take seconds: not before a mistake
    from sabtune.search.run import search as run_search

    console = _console()
    try:
        with Watch(console, file.study.trials) as watch:
            complete = run_search(file, place, [watch])
    except KeyboardInterrupt:  # before Tune takes it over, or a second one
        complete = False
    _report(console, file.study.name, place)
    command, where = _command(), "" if store == DEFAULT else f" --store {store}"
    console.print(Text(f"\nAll trials in the browser:  {command} ui{where}"))
    console.print(Text(f"This page again:            {command} report {file.study.name}{where}"))
    if not complete:
        console.print(Text(f"Interrupted. Go on with:    {command} search {path}{where}"))
        raise typer.Exit(INTERRUPTED)


@app.command()
def report(
    study: Annotated[str, typer.Argument(help="The name of a study in the store.")],
    store: StoreOption = DEFAULT,
) -> None:
    """Print what a study found: its best trial, by length."""
    _report(_console(), study, Store.existing(store))


@app.command()
def ui(
    store: StoreOption = DEFAULT,
    port: Annotated[int, typer.Option(min=1, max=65535, help="On the loopback interface.")] = 5000,
) -> None:
    """Open MLflow on the store, at http://127.0.0.1:PORT."""
    from sabtune.tracking.server import serve

    raise typer.Exit(serve(Store.existing(store), port))


def _report(console: Console, study: str, store: Store) -> None:
    from sabtune.report import summary
    from sabtune.search.record import open_study

    console.print(summary(open_study(store, study)))


def _command() -> str:
    """What to type for this command here: its path, where it isn't found by its name."""
    called = Path(sys.argv[0])
    if called.name != "sabtune":
        return "python -m sabtune"
    return "sabtune" if shutil.which("sabtune") else os.path.relpath(called)


def _console() -> Console:
    return Console(soft_wrap=not sys.stdout.isatty())


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


def main() -> None:
    """The console script."""
    try:
        app()
    except SabtuneError as mistake:
        typer.echo(f"sabtune: {mistake}", err=True)
        sys.exit(2)
