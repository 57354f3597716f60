"""The commands for data sets: data fetch, data list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sabtune.cli.app import app
from sabtune.cli.options import DataOption
from sabtune.cli.screen import console_of_terminal, data_folder
from sabtune.wording import counted

if TYPE_CHECKING:
    from rich.progress import Progress

    from sabtune.data.catalogue import DataSet
    from sabtune.data.fetch import Watch

data = typer.Typer(no_args_is_help=True, help="Data sets: fetch them, list them.")
app.add_typer(data, name="data")

HERE = {"there": "yes", "missing": "no", "damaged": "damaged: fetch it again"}


@data.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Data sets, by the names that list shows.")],
    data_dir: DataOption = None,
) -> None:
    """Download data sets, check them and keep them. What broke off is gone on with."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from sabtune.data.fetch import fetch as run_fetch
    from sabtune.data.fetch import known

    folder, console = data_folder(data_dir), console_of_terminal()
    file = TextColumn("{task.description}")
    columns = (file, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    for name, data_set in {name: known(name) for name in names}.items():
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            paths = run_fetch(name, folder, bars(progress, data_set))
        files = counted(len(paths), "file")
        console.print(f"{name}: {files}, whole, in {folder / name}")


def bars(progress: Progress, data_set: DataSet) -> Watch:
    """A bar a file, moved by who is told how far the file is."""
    of = {file.name: progress.add_task(file.name, total=file.size) for file in data_set.files}

    def watch(file: str, done: int, total: int) -> None:
        progress.update(of[file], completed=done, total=total or None)

    return watch


@data.command("list")
def list_(data_dir: DataOption = None) -> None:
    """Show the data sets, and which of them are here and whole."""
    from rich.table import Table

    from sabtune.data.catalogue import DATA_SETS
    from sabtune.data.fetch import state

    folder = data_folder(data_dir)
    table = Table(title=f"Data sets in {folder}", title_justify="left")
    for column in ("name", "what it is", "task", "MB", "here"):
        table.add_column(column, justify="right" if column == "MB" else "left")
    for name, known in DATA_SETS.items():
        states = {state(folder / name / file.name, file) for file in known.files}
        worst = next(s for s in ("damaged", "missing", "there") if s in states)
        table.add_row(name, known.about, known.task, f"{known.size / 1e6:.0f}", HERE[worst])
    console_of_terminal().print(table)
