"""What the commands have in common: who watches, what is printed, and the exit codes."""

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
from sabtune.cli.commands import Values, typed
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

WIDEST = 1000
"""Characters that a table may take where there is no terminal."""


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
    """Runs a contest and prints its page. `again`: the command that goes on with it; `where`: the
    options of its store. `crowns`: the study whose champion it is about."""
    from sabtune.compare.confirm import compare_runs, name_of, planned
    from sabtune.compare.results import page

    console = console_of_terminal()
    asked, name = name, name_of(name, store, runs, lengths_of(lengths))
    if name != asked:
        words = f"{asked} has other lengths or another winner: these runs are {name}"
        console.print(Text(words))
    own = file.renamed(name).with_limits(trials=planned(name, store, runs, seeds), seed=None)
    interrupts.advise(going_on(again))
    with watching(console, own, store) as watchers:
        ending, study = compare_runs(
            name,
            file,
            store,
            runs,
            seeds=seeds,
            lengths=lengths_of(lengths),
            watchers=watchers,
            say=saying(console),
        )
    console.print(page(study))
    for of in (name, name.rpartition(".")[0]):
        log_report(console, of, store, ending)
    if champion_of is not None and ending.complete:
        show_champion(console, champion_of, name, store, typed("sync", champion_of, where=where))
    close(console, ending, again, typed("sync", name, where=where))


def show_champion(console: Console, name: str, confirmation: str, store: Store, sync: str) -> None:
    """Settles, and says, whom a study stands by after a contest of its best."""
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
        console.print(Text(f"MLflow doesn't show it: {behind}"))
        hint(console, "Once it is back:", sync)


def check_free(port: int) -> None:
    """Raises ConfigError if something listens at a port of this machine already."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError as problem:
            raise ConfigError(
                f"port {port} can't be had ({problem.strerror}): give another with --port"
            ) from None


def lengths_of(text: str | None) -> tuple[int, ...] | None:
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
    """Those who watch a search, told how the study stands before it."""
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
    """The last lines of a search, and its exit code."""
    if ending.behind:
        console.print(Text(f"MLflow doesn't hold everything: {ending.behind}"))
        hint(console, "Once it is back:", sync)
    if ending.lost:
        typer.echo(f"sabtune: {ending.lost}; {going_on(again)}", err=True)
        raise typer.Exit(2)
    if not ending.complete:
        word = "The budget is spent." if ending.out_of_budget else "Interrupted."
        hint(console, f"{word} Go on with:", again)
        raise typer.Exit(0 if ending.out_of_budget else INTERRUPTED)


def going_on(command: str) -> str:
    """What to type after a search that was broken off."""
    return f"go on with: {command}"


def saying(console: Console) -> Callable[[str], None]:
    """Prints a line, above the table if there is one."""
    return lambda words: console.print(Text(words))


def hint(console: Console, text: str, command: str) -> None:
    """What to type next, and what for, on one line however narrow the terminal is."""
    console.print(Text(f"{text:<27}{command}"), soft_wrap=True)


def data_folder(named: Path | None) -> Path:
    """The folder that keeps data sets, for this process and the trials it starts."""
    from sabtune.data import place

    if named is not None:
        place.use(named)
    folder = place.folder()
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: name a folder for data sets with --data-dir")
    return folder


def restored(console: Console, store: Store) -> Store:
    """The same, its studies brought back, and that said, where its folder has none and a copy is
    at hand."""
    from sabtune.study.backups import restore

    line = restore(store) if store.snapshots else ""
    if line:
        console.print(Text(line))
    return store


def show_report(console: Console, study: str, store: Store, sync: str) -> None:
    """Print what a study found. sync: the command that copies it to MLflow."""
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
    """Writes the report's files and says which."""
    from sabtune.report.write import FORMATS, write
    from sabtune.study.record import open_study

    wanted = formats.split(",") if formats is not None else FORMATS
    folder = folder.expanduser()
    written = write(open_study(store, study), store, folder, wanted)
    figures = sum(path.parent != folder for path in written)
    names = [path.name for path in written if path.parent == folder]
    names += [f"{counted(figures, 'file')} in figures/"] * bool(figures)
    console.print(Text(f"Wrote to {folder}: {', '.join(names)}"))


def log_report(console: Console, study: str, store: Store, ending: Ending | None = None) -> None:
    """Has MLflow hold the report on a study. No search fails by it: a problem is one line.

    Nothing is made where no trial is complete, after a Ctrl-C, or while MLflow is away.
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
            kept = mirror.keep_report(opened, store, Path(folder))
        problem = "" if kept else "MLflow didn't take it"
    except Exception as failure:
        problem = " ".join(f"{type(failure).__name__}: {failure}".split())
    if problem:
        console.print(Text(f"The report on {study} isn't in MLflow: {problem}"))


class Screen(Console):
    """A console that shows text as it is: no markup, and nothing in it steers the terminal."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(terminal(segment.text), segment.style)


def console_of_terminal() -> Console:
    """As wide as the terminal; what goes to a file or a pipe is neither folded nor cut."""
    if sys.stdout.isatty():
        return Screen(markup=False, emoji=False)
    width = None if "COLUMNS" in os.environ else WIDEST
    return Screen(markup=False, emoji=False, soft_wrap=True, width=width)
