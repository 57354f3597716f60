"""Steps that several commands share: watching a search, printing results, exit codes."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from sabtune import interrupts
from sabtune.cli.commands import Values, command_line
from sabtune.errors import ConfigError, DataError
from sabtune.escaping import terminal
from sabtune.redaction import without_secrets
from sabtune.storage.store import Store
from sabtune.wording import counted

if TYPE_CHECKING:
    from sabtune.config import RunConfig
    from sabtune.search.run import Ending
    from sabtune.study.definition import StudyFile
    from sabtune.study.events import Watcher

INTERRUPTED = 130
"""The exit code of an interrupted command."""

MAX_COLUMNS = 1000
"""The maximum width in characters of a table that is printed to a file or pipe."""


def run_comparison(
    name: str,
    file: StudyFile,
    store: Store,
    runs: Mapping[str, RunConfig],
    seeds: int,
    lengths: str | None,
    again: str,
    where: Values,
    champion_of: str | None = None,
) -> None:
    """Run a comparison, print its results, and exit as `close` does.

    name: The name of the comparison's study. If that study holds other runs, the runs go to NAME-2,
    and so on.

    file: The study file of the first study that takes part.

    runs: The configurations by their labels.

    seeds: The number of fresh seeds of each configuration.

    lengths: The value of --lengths.

    again: The command that resumes the comparison.

    where: The options that select the store.

    champion_of: The study whose champion a finished comparison updates.
    """
    from sabtune.compare.confirm import compare_runs, name_of, planned
    from sabtune.compare.results import page

    console = make_console()
    requested, name = name, name_of(name, store, runs, parse_lengths(lengths))
    if name != requested:
        words = f"{requested} has other lengths or another winner; these runs go to {name}"
        console.print(Text(words))
    comparison = file.renamed(name).with_limits(trials=planned(name, store, runs, seeds), seed=None)
    interrupts.advise(resume_advice(again))
    with watching(console, comparison, store) as watchers:
        ending, study = compare_runs(
            name,
            file,
            store,
            runs,
            seeds=seeds,
            lengths=parse_lengths(lengths),
            watchers=watchers,
            say=line_printer(console),
        )
    console.print(page(study))
    for study_name in (name, name.rpartition(".")[0]):
        log_report(console, study_name, store, ending)
    if champion_of is not None and ending.complete:
        sync = command_line("sync", champion_of, where=where)
        show_champion(console, champion_of, name, store, sync)
    close(console, ending, again, command_line("sync", name, where=where))


def show_champion(console: Console, name: str, confirmation: str, store: Store, sync: str) -> None:
    """Update the champion of a study after a confirmation, and print it.

    sync: The command that copies the study to MLflow.
    """
    from sabtune.compare.champion import update_champion
    from sabtune.study.record import open_study
    from sabtune.tracking import mirror

    study = open_study(store, name, write=True)
    champion = update_champion(study, open_study(store, confirmation))
    if champion is None:
        return
    console.print(Text(f"Champion of {name}: {champion.words}"))
    behind = mirror.show_champion(study, store)
    if behind:
        console.print(Text(f"MLflow doesn't show the champion: {behind}"))
        hint(console, "Once MLflow is back:", sync)


def check_free(port: int) -> None:
    """Raise ConfigError if a port of this machine isn't available."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as problem:
            raise ConfigError(
                f"port {port} isn't available ({problem.strerror}): give another with --port"
            ) from None


def parse_lengths(text: str | None) -> tuple[int, ...] | None:
    """Return the lengths that a value of --lengths lists. Raises ConfigError if it is invalid."""
    if text is None:
        return None
    try:
        return tuple(int(length) for length in text.split(","))
    except ValueError:
        raise ConfigError(f"--lengths is {text!r}: give whole numbers, such as 100,200") from None


@contextmanager
def watching(
    console: Console, file: StudyFile, store: Store, retry_failed: bool = False
) -> Iterator[list[Watcher]]:
    """Show a search on the console and log its trials; yield the watchers that do so.

    retry_failed: Whether the search runs failed trials again. They then don't count as ended.
    """
    from sabtune.search.run import failed
    from sabtune.study import record
    from sabtune.terminal.live_table import Watch
    from sabtune.terminal.trial_log import Logbook

    name = file.study.name
    study = record.open_study(store, name) if name in record.names(store) else None
    ended = record.ended(study) if study else 0
    if study and retry_failed:
        ended -= len(failed(study))
    earlier = record.records(study) if study else []
    with Watch(console, file.study.trials, ended=ended, earlier=earlier) as watch:
        yield [watch, Logbook(store.log(name))]


def close(console: Console, ending: Ending, again: str, sync: str) -> None:
    """Print how a search ended and how to resume it. Raises typer.Exit unless it is complete."""
    if ending.behind:
        console.print(Text(f"MLflow doesn't hold everything: {ending.behind}"))
        hint(console, "Once MLflow is back:", sync)
    if ending.lost:
        typer.echo(f"sabtune: {ending.lost}; {resume_advice(again)}", err=True)
        raise typer.Exit(2)
    if not ending.complete:
        word = "The budget is spent." if ending.out_of_budget else "Interrupted."
        hint(console, f"{word} Resume with:", again)
        raise typer.Exit(0 if ending.out_of_budget else INTERRUPTED)


def resume_advice(command: str) -> str:
    """Return what to do after a search was interrupted."""
    return f"resume with: {command}"


def line_printer(console: Console) -> Callable[[str], None]:
    """Return a function that prints a line, above the live table if there is one."""
    return lambda line: console.print(Text(line))


def hint(console: Console, text: str, command: str) -> None:
    """Print a command to run next and its purpose, on one line however narrow the terminal is."""
    console.print(Text(f"{text:<26} {command}"), soft_wrap=True)


def data_folder(named: Path | None) -> Path:
    """Use a folder for data sets in this process and its trials, and return the folder.

    named: The folder. None: the configured folder, or else the default one.

    Raises DataError if the folder is a file.
    """
    from sabtune.data import place

    if named is not None:
        place.use(named)
    folder = place.folder()
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: give a folder for data sets with --data-dir")
    return folder


def restore_if_lost(console: Console, store: Store) -> Store:
    """Restore the studies from a backup, if the store has lost them, and return the store."""
    from sabtune.study.backups import restore

    line = restore(store) if store.snapshots else ""
    if line:
        console.print(Text(line))
    return store


def show_report(console: Console, study: str, store: Store, sync: str) -> None:
    """Print the results of a study.

    sync: The command that copies the study to MLflow.
    """
    from sabtune.compare import results
    from sabtune.study.record import COMPARISON, open_study, plan, tracking
    from sabtune.terminal.summary import summary
    from sabtune.tracking.database import is_elsewhere

    opened = open_study(store, study)
    if COMPARISON in plan(opened):
        console.print(results.page(opened))
    else:
        uri = store.tracking or tracking(opened) or store.mlflow_uri
        console.print(summary(opened, without_secrets(uri)), crop=False)
        if uri == store.mlflow_uri and is_elsewhere(store):
            hint(console, "The store moved; first:", sync)


def write_report(
    console: Console, study: str, store: Store, folder: Path, formats: str | None
) -> None:
    """Write the files of a report and print their names.

    formats: The value of --format. None: all formats.
    """
    from sabtune.report.write import FORMATS, write
    from sabtune.study.record import open_study

    requested = formats.split(",") if formats is not None else FORMATS
    folder = folder.expanduser()
    written = write(open_study(store, study), store, folder, requested)
    figures = sum(path.parent != folder for path in written)
    names = [path.name for path in written if path.parent == folder]
    names += [f"{counted(figures, 'file')} in figures/"] * bool(figures)
    console.print(Text(f"Wrote to {folder}: {', '.join(names)}"))


def log_report(console: Console, study: str, store: Store, ending: Ending | None = None) -> None:
    """Write the report of a study and log it to MLflow. An error is printed and not raised.

    Nothing is logged if no trial is complete.

    ending: How the search ended. Nothing is logged if it was interrupted, or if MLflow lacks a part
    of the study.
    """
    from sabtune.report.write import QUICK, write
    from sabtune.study.configurations import best_trial
    from sabtune.study.record import open_study
    from sabtune.tracking import mirror

    if ending and (ending.behind or not (ending.complete or ending.out_of_budget)):
        return
    try:
        opened = open_study(store, study)
        if best_trial(opened) is None:
            return
        with TemporaryDirectory() as folder:
            write(opened, store, Path(folder), QUICK)
            logged = mirror.keep_report(opened, store, Path(folder))
        problem = "" if logged else "MLflow didn't take it"
    except Exception as failure:
        problem = " ".join(f"{type(failure).__name__}: {failure}".split())
    if problem:
        console.print(Text(f"The report on {study} isn't in MLflow: {problem}"))


class Screen(Console):
    """A console that removes control characters from text."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(terminal(segment.text), segment.style)


def make_console() -> Console:
    """Return a console as wide as the terminal; in a file or pipe, lines are not wrapped or cut."""
    if sys.stdout.isatty():
        return Screen(markup=False, emoji=False)
    width = None if "COLUMNS" in os.environ else MAX_COLUMNS
    return Screen(markup=False, emoji=False, soft_wrap=True, width=width)
