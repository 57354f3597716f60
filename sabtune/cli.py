"""The command line: arguments in, exit codes out. 0 done, 2 a mistake to mend, 130 interrupted."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from sabtune import __version__
from sabtune.errors import ConfigError, SabtuneError
from sabtune.schema import check, check_whole
from sabtune.store import DEFAULT, Store, hide_password

if TYPE_CHECKING:
    from sabtune.config import TrialConfig
    from sabtune.search.run import Ending
    from sabtune.search.study import StudyFile
    from sabtune.watcher import Watcher

INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which sparse memory carries credit furthest? Searches over SAB models.",
)

StoreOption = Annotated[
    str,
    typer.Option(
        "--store", help="The folder that keeps every study, or postgresql://USER@HOST/DATABASE."
    ),
]
FilesOption = Annotated[
    Path | None,
    typer.Option("--files", help="The folder for checkpoints, where the store is a database."),
]
LengthsOption = Annotated[
    str | None,
    typer.Option(help="Lengths to measure at, such as 100,200; by default none of the ladder's."),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking",
        envvar="MLFLOW_TRACKING_URI",
        help="The URI of an MLflow server; by default the store has its own MLflow.",
    ),
]


@app.command()
def search(
    path: Annotated[Path, typer.Argument(help="A Python file with a STUDY and a space(trial).")],
    trials: Annotated[
        int | None, typer.Option(help="Trials of the study in all; by default the STUDY's.")
    ] = None,
    hours: Annotated[float | None, typer.Option(help="Most hours that this search takes.")] = None,
    gpu_hours: Annotated[
        float | None, typer.Option(help="Most GPU hours that this search's trials take.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of sampler and trials; by default the STUDY's.")
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Start another study beside the one that is there.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run failed trials again.")
    ] = False,
    warm_start: Annotated[
        str | None, typer.Option(help="A study of the store whose best points are tried first.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Probe one trial, and say what a search would take.")
    ] = False,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
) -> None:
    """Search the space of a study file, and report on the best model.

    A study that the store knows is gone on with: unfinished trials first, from their checkpoints.
    """
    from sabtune.search.study import load

    for name, whole, least in (("--trials", trials, 1), ("--seed", seed, 0)):
        if whole is not None:
            check_whole(name, whole, least)
    for name, bound in (("--hours", hours), ("--gpu-hours", gpu_hours)):
        check(bound is None or bound > 0, name, bound, "a number above 0")
    file = load(path).with_limits(trials=trials, seed=seed)
    console = _console()
    if dry_run:
        from sabtune.report.pages import forecast_page
        from sabtune.search.forecast import forecast

        console.print(forecast_page(forecast(file), file.study))
        return
    place = Store.at(store, files, tracking).made()

    from sabtune.search.budget import Budget  # ray takes seconds: not before a mistake
    from sabtune.search.naming import free_name
    from sabtune.search.run import search as run_search

    if new:
        file = file.renamed(free_name(file.study.name, place))
    name = file.study.name
    budget = Budget(hours=hours, gpu_hours=gpu_hours)
    options = {"budget": budget, "retry_failed": retry_failed, "warm_start": warm_start}
    with _watch(console, file, place, retry_failed) as watchers:
        ending = run_search(file, place, watchers, **options)  # type: ignore[arg-type]
    _report(console, name, place)
    where = _where(store, files, tracking)
    _hint(console, "All trials in the browser:", f"ui{where}")
    _hint(console, "This page again:", f"report {name}{where}")
    _hint(console, "On fresh seeds:", f"confirm {name}{where}")
    _close(console, ending, f"search {path}{where}", f"sync {name}{where}")


@app.command()
def confirm(
    studies: Annotated[
        list[str], typer.Argument(help="A study, and others whose best are its rivals.")
    ],
    top: Annotated[int, typer.Option(min=1, help="Configurations of the first study.")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="Fresh seeds for each.")] = 10,
    lengths: LengthsOption = None,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
) -> None:
    """Train the best again on fresh seeds, and measure them at lengths the search never used."""
    from sabtune.search.contest import finalists, study_file

    place = Store.at(store, files, tracking).existing()
    configs = finalists(place, studies, top)
    where = _where(store, files, tracking)
    again = f"confirm {' '.join(studies)} --top {top} --seeds {seeds}{where}"
    _contest(f"{studies[0]}.confirm", study_file(place, studies[0]), place, configs,
             seeds, lengths, again)  # fmt: skip


@app.command()
def ablate(
    study: Annotated[str, typer.Argument(help="The name of a study in the store.")],
    seeds: Annotated[int, typer.Option(min=1, help="Fresh seeds for each.")] = 5,
    lengths: LengthsOption = None,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
) -> None:
    """Change one thing of the winner at a time, and measure what it was worth."""
    from sabtune.search.contest import ablations, finalists, study_file

    place = Store.at(store, files, tracking).existing()
    (winner,) = finalists(place, [study], 1).values()
    again = f"ablate {study} --seeds {seeds}{_where(store, files, tracking)}"
    _contest(f"{study}.ablate", study_file(place, study), place, ablations(winner),
             seeds, lengths, again)  # fmt: skip


@app.command()
def reproduce(
    study: Annotated[str, typer.Argument(help="The name of a study in the store.")],
    trial: Annotated[int, typer.Argument(min=0, help="The number of one of its trials.")],
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
) -> None:
    """Train a trial again from what was recorded. Exit 0 if every metric came back, else 1."""
    from sabtune.report.pages import reproduction_page
    from sabtune.search.record import one, open_study
    from sabtune.search.reproduce import reproduce as run_again

    place = Store.at(store, files).existing()
    found = run_again(one(open_study(place, study), trial))
    _console().print(reproduction_page(trial, found))
    raise typer.Exit(1 if found.differences else 0)


@app.command()
def status(
    study: Annotated[str, typer.Argument(help="The name of a study in the store.")],
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
) -> None:
    """Print how a study stands; from another terminal while it is searched, too."""
    from sabtune.report.status import status as page
    from sabtune.search.locks import is_held
    from sabtune.search.record import open_study

    place = Store.at(store, files).existing()
    _console().print(page(open_study(place, study), is_held(study, place)))


@app.command()
def sync(
    study: Annotated[str, typer.Argument(help="The name of a study in the store.")],
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
) -> None:
    """Make MLflow hold all of a study, nothing twice."""
    from sabtune.search.projection import sync as run_sync
    from sabtune.search.record import open_study

    place = Store.at(store, files, tracking).existing()
    opened = open_study(place, study)
    run_sync(opened, place)
    _console().print(
        f"MLflow holds all {len(opened.get_trials(deepcopy=False))} trials of {study}."
    )


@app.command()
def report(
    study: Annotated[str, typer.Argument(help="The name of a study in the store.")],
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
) -> None:
    """Print what a study found: its best trial, by length."""
    _report(_console(), study, Store.at(store, files).existing())


@app.command()
def ui(
    store: StoreOption = str(DEFAULT),
    port: Annotated[int, typer.Option(min=1, max=65535, help="On the loopback interface.")] = 5000,
) -> None:
    """Open MLflow on the store, at http://127.0.0.1:PORT."""
    from sabtune.tracking.server import serve

    raise typer.Exit(serve(Store.at(store).existing(), port))


def _contest(
    name: str,
    file: StudyFile,
    store: Store,
    configs: Mapping[str, TrialConfig],
    seeds: int,
    lengths: str | None,
    again: str,
) -> None:
    from sabtune.report.contest import page
    from sabtune.search.contest import contest

    console = _console()
    own = file.renamed(name).with_limits(trials=seeds * len(configs), seed=None)
    with _watch(console, own, store) as watchers:
        ending, study = contest(
            name, file, store, configs, seeds=seeds, lengths=_lengths(lengths), watchers=watchers
        )
    console.print(page(study))
    _close(console, ending, again, f"sync {name}")


def _lengths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(length) for length in text.split(","))
    except ValueError:
        raise ConfigError(f"--lengths is {text!r}: give whole numbers, such as 100,200") from None


@contextmanager
def _watch(
    console: Console, file: StudyFile, store: Store, retry_failed: bool = False
) -> Iterator[list[Watcher]]:
    """Those who watch a search, told how the study stands before it."""
    from sabtune.search import record
    from sabtune.search.logbook import Logbook
    from sabtune.search.progress import Watch
    from sabtune.search.run import failed

    name = file.study.name
    study = record.open_study(store, name) if name in record.names(store) else None
    ended = record.ended(study) if study else 0
    if study and retry_failed:
        ended -= len(failed(study))
    earlier = record.records(study) if study else []
    with Watch(console, file.study.trials, ended=ended, earlier=earlier) as watch:
        yield [watch, Logbook(store.log(name))]


def _close(console: Console, ending: Ending, again: str, sync: str) -> None:
    """The last lines of a search, and its exit code."""
    if ending.behind:
        console.print(Text(f"MLflow doesn't hold everything: {ending.behind}"))
        _hint(console, "Once it is back:", sync)
    if not ending.complete:
        word = "The budget is spent." if ending.out_of_budget else "Interrupted."
        _hint(console, f"{word} Go on with:", again)
        raise typer.Exit(0 if ending.out_of_budget else INTERRUPTED)


def _hint(console: Console, text: str, command: str) -> None:
    console.print(Text(f"{text:<27}{_command()} {command}"))


def _where(store: str, files: Path | None, tracking: str | None) -> str:
    """The options that lead to the same store again; no password."""
    where = "" if store == str(DEFAULT) else f" --store {hide_password(store)}"
    where += f" --files {files}" if files else ""
    return where + (f" --tracking {hide_password(tracking)}" if tracking else "")


def _report(console: Console, study: str, store: Store) -> None:
    from sabtune.report import contest, summary
    from sabtune.search.record import open_study, plan

    opened = open_study(store, study)
    console.print(contest.page(opened) if "contest" in plan(opened) else summary(opened))


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
