"""The commands for data sets: data fetch, data add, data list."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sabtune.cli.app import DATA, Command, Group, app, examples
from sabtune.cli.completing import data_sets
from sabtune.cli.options import DataOption
from sabtune.cli.screen import data_folder
from sabtune.terminal.console import make_console
from sabtune.wording import counted

if TYPE_CHECKING:
    from rich.progress import Progress

    from sabtune.data.catalogue import DataSet
    from sabtune.data.fetch import Watch

data = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Download, import and list data sets.",
    epilog=examples(
        ("See which data sets there are, and which are complete here", "sabtune data list"),
        ("Download two of them", "sabtune data fetch mnist ptb"),
    ),
)
app.add_typer(data, name="data", rich_help_panel=DATA)

STATE_WORDS = {"there": "yes", "missing": "no", "damaged": "damaged: fetch it again"}


@data.command(
    cls=Command,
    epilog=examples(("Download two data sets", "sabtune data fetch mnist ptb")),
)
def fetch(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Names of data sets, as `sabtune data list` shows them.",
            autocompletion=data_sets,
        ),
    ],
    data_dir: DataOption = None,
) -> None:
    """Download data sets and verify them. An interrupted download is resumed."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from sabtune.data.fetch import fetch as run_fetch
    from sabtune.data.fetch import find_data_set

    folder, console = data_folder(data_dir), make_console()
    file = TextColumn("{task.description}")
    columns = (file, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    for name, data_set in {name: find_data_set(name) for name in names}.items():
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            paths = run_fetch(name, folder, progress_bars(progress, data_set))
        files = counted(len(paths), "file")
        console.print(f"{name}: {files}, complete, in {folder / name}")


@data.command(
    cls=Command,
    epilog=examples(
        ("Import files that you have, under any names", "sabtune data add mnist ~/Downloads/mnist")
    ),
)
def add(
    name: Annotated[
        str,
        typer.Argument(
            help="The name of a data set, as `sabtune data list` shows it.",
            autocompletion=data_sets,
        ),
    ],
    path: Annotated[Path, typer.Argument(help="A file of the data set, or a folder with files.")],
    data_dir: DataOption = None,
) -> None:
    """Import a data set from a local disk.

    The checksum of the content decides which file it is. A file may be the published one, its raw
    content, or the same content compressed anew, under any name.
    """
    from sabtune.data.add import add as run_add

    folder, console = data_folder(data_dir), make_console()
    added = run_add(name, path.expanduser(), folder)
    files = counted(len(added.paths), "file")
    rest = f"still missing: {', '.join(added.missing)}" if added.missing else "complete"
    console.print(f"{name}: added {files} to {folder / name}, {rest}")


def progress_bars(progress: Progress, data_set: DataSet) -> Watch:
    """Add a progress bar for each file, and return the function that advances them."""
    tasks = {file.name: progress.add_task(file.name, total=file.size) for file in data_set.files}

    def watch(file: str, done: int, total: int) -> None:
        progress.update(tasks[file], completed=done, total=total or None)

    return watch


@data.command(
    "list",
    cls=Command,
    epilog=examples(("List them, with what is here", "sabtune data list")),
)
def list_(data_dir: DataOption = None) -> None:
    """List the data sets, and show which of them are complete on this machine."""
    from rich.table import Table

    from sabtune.data.catalogue import DATA_SETS
    from sabtune.data.fetch import state

    folder = data_folder(data_dir)
    table = Table(title=f"Data sets in {folder}", title_justify="left")
    for column in ("name", "content", "task", "MB", "here"):
        table.add_column(column, justify="right" if column == "MB" else "left")
    for name, data_set in DATA_SETS.items():
        states = {state(folder / name / file.name, file) for file in data_set.files}
        worst = next(s for s in ("damaged", "missing", "there") if s in states)
        size = f"{data_set.size / 1e6:.0f}"
        about = f"{data_set.title}, {data_set.about}"
        table.add_row(name, about, data_set.task, size, STATE_WORDS[worst])
    make_console().print(table)
