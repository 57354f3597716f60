"""Steps that several commands share: watching a search, printing results, exit codes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from sabtune import interrupts
from sabtune.cli.commands import Values, command_line
from sabtune.errors import ConfigError
from sabtune.redaction import without_secrets
from sabtune.storage.store import Store
from sabtune.terminal.console import line_printer
from sabtune.terminal.steps import REPORT_STEP, Steps
from sabtune.wording import counted

if TYPE_CHECKING:
    from sabtune.compare.run import ComparisonPlan
    from sabtune.notification import Notifier
    from sabtune.study.record import StudyRecord
    from sabtune.tuning.run import Ending

INTERRUPTED = 130
"""The exit code of an interrupted command."""


def run_comparison(
    console: Console,
    plan: ComparisonPlan,
    again: str,
    where: Values,
    steps: Steps,
    notifier: Notifier,
) -> NoReturn:
    """Run a comparison, print its results, and exit as `close` does.

    again: The command that resumes the comparison.

    where: The options that select the store.

    steps: The steps of the command.

    notifier: The services to notify of its end.
    """
    from sabtune.compare.run import run_comparison as run
    from sabtune.compare.run import update_champion_of
    from sabtune.terminal.summary import comparison_summary
    from sabtune.terminal.watching import watching

    interrupts.advise(resume_advice(again))
    with notifier.failures(plan.name, line_printer(console)):
        with watching(console, plan.renamed_file, plan.store, steps=steps) as watchers:
            ending, study = run(plan, watchers, line_printer(console), steps)
        console.print(comparison_summary(study))
        steps(REPORT_STEP)
        for name in (plan.name, plan.name.rpartition(".")[0]):
            publish_report(console, name, plan.store, ending)
        champion, behind = update_champion_of(plan, ending)
    steps("")
    if champion is not None:
        console.print(Text(f"Champion of {plan.champion_of}: {champion.words}"))
    if behind:
        console.print(Text(f"MLflow doesn't show the champion: {behind}"))
        hint(console, "Once MLflow is back:", command_line("sync", plan.champion_of, where=where))
    with notifying(console, notifier, plan.name, plan.store, ending, where):
        close(console, ending, again, command_line("sync", plan.name, where=where))
    raise typer.Exit


@contextmanager
def notifying(
    console: Console, notifier: Notifier, name: str, store: Store, ending: Ending, where: Values
) -> Iterator[None]:
    """Notify of the end of a search, and print at the end of the block if that failed.

    where: The options that select the store.
    """
    notifier.ended(name, store, ending, command_line("ui", name, where=where))
    try:
        yield
    finally:
        problem = notifier.finish()
        if problem:
            console.print(Text(problem))


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


def close(console: Console, ending: Ending, again: str, sync: str, go_on: str = "") -> None:
    """Print how a search ended and how to resume it. Raises typer.Exit unless it is complete.

    again: The command that resumes it.

    sync: The command that completes MLflow's copy.

    go_on: The command that goes on although a stopping rule is fulfilled.
    """
    if ending.behind:
        console.print(Text(f"MLflow doesn't hold everything: {ending.behind}"))
        hint(console, "Once MLflow is back:", sync)
    if ending.lost:
        typer.echo(f"sabtune: {ending.lost}; {resume_advice(again)}", err=True)
        raise typer.Exit(2)
    if ending.stopped:
        console.print(Text(f"Complete: ended by {ending.stopped}."), soft_wrap=True)
        hint(console, "To go on, change the study's stop, or ignore it with:", go_on)
    if not ending.complete:
        word = "The budget is spent." if ending.out_of_budget else "Interrupted."
        hint(console, f"{word} Resume with:", again)
        raise typer.Exit(0 if ending.out_of_budget else INTERRUPTED)


def resume_advice(command: str) -> str:
    """Return what to do after a search was interrupted."""
    return f"resume with: {command}"


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
    return place.existing_folder()


def restore_if_lost(console: Console, store: Store) -> Store:
    """Restore the studies from a backup, if the store has lost them, and return the store."""
    from sabtune.study.backups import restored

    return restored(store, line_printer(console))


def show_report(console: Console, study: StudyRecord, store: Store, sync: str) -> None:
    """Print the results of a study.

    sync: The command that copies the study to MLflow.
    """
    from sabtune.terminal.summary import comparison_summary, summary
    from sabtune.tracking.database import is_elsewhere

    if study.is_comparison:
        console.print(comparison_summary(study))
    else:
        uri = store.tracking or study.tracking or store.mlflow_uri
        console.print(summary(study, without_secrets(uri)), crop=False)
        if uri == store.mlflow_uri and is_elsewhere(store):
            hint(console, "The store moved; first:", sync)


def show_address(console: Console, study: StudyRecord, store: Store, command: str) -> None:
    """Print where MLflow shows a study.

    command: The command that serves it, which is printed unless a server has it.
    """
    from sabtune.tracking.links import server_address

    uri = store.tracking or study.tracking or store.mlflow_uri
    hint(console, "Browse all trials:", server_address(uri, study.name) or command)


def write_report(
    console: Console,
    study: str,
    store: Store,
    folder: Path,
    formats: str | None,
    style: str | None,
) -> None:
    """Write the files of a report and print their names.

    formats: The value of --format. None: all formats.

    style: The value of --style. None: the default one.
    """
    from sabtune.reporting.write import FORMATS, STYLES, write
    from sabtune.study.record import StudyRecord

    requested = formats.split(",") if formats is not None else FORMATS
    style = STYLES[0] if style is None else style
    folder = folder.expanduser()
    written = write(StudyRecord.open(store, study), folder, requested, style)
    figures = sum(path.parent != folder for path in written)
    names = [path.name for path in written if path.parent == folder]
    names += [f"{counted(figures, 'file')} in figures/"] * bool(figures)
    console.print(Text(f"Wrote to {folder}: {', '.join(names)}"))


def publish_report(
    console: Console, study: str, store: Store, ending: Ending | None = None
) -> None:
    """Log the report of a study to MLflow, and print why if that fails; see `publish`."""
    from sabtune.reporting.publish import publish

    problem = publish(study, store, ending)
    if problem:
        console.print(Text(problem))
