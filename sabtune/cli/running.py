"""Parse the commands that train or measure models."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sabtune import interrupts
from sabtune.cli import remote
from sabtune.cli.app import app
from sabtune.cli.commands import FROM, STUDY_FILE, Value, typed, where_of
from sabtune.cli.options import (
    ClusterOption,
    DataOption,
    FilesOption,
    LengthsOption,
    StoreOption,
    TrackingOption,
)
from sabtune.cli.screen import (
    close,
    console_of_terminal,
    data_folder,
    going_on,
    hint,
    lengths_of,
    log_report,
    restored,
    run_comparison,
    saying,
    show_report,
    watching,
)
from sabtune.errors import ConfigError, StoreError
from sabtune.schema import check, check_seed, check_whole
from sabtune.storage.store import DEFAULT, Store

if TYPE_CHECKING:
    from sabtune.study.definition import StudyFile

MOST_RUNS = 10_000
"""The most configurations, and seeds of each, that a comparison is made of."""

LARGEST = 2**31 - 1
"""The largest whole number that a database's INTEGER and a generator take."""


@app.command()
def search(
    path: Annotated[Path, typer.Argument(help="A Python file with a STUDY and a space(trial).")],
    baseline: Annotated[
        str | None, typer.Option(help="Search the space of one of the file's BASELINES.")
    ] = None,
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
    study: Annotated[
        str | None, typer.Option(help="The study's name in the store; by default the STUDY's.")
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
    system_metrics: Annotated[
        bool,
        typer.Option(
            "--system-metrics",
            envvar="MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING",
            help="Show in MLflow what the machine does.",
        ),
    ] = False,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
    data_dir: DataOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Search the space of a study file, and report on the best model.

    A study that the store knows is gone on with: unfinished trials first, from their checkpoints.
    """
    from sabtune.study.definition import load

    if trials is not None:
        check_whole("--trials", trials, least=1)
    if seed is not None:
        check_seed("--seed", seed)
    for name, bound in (("--hours", hours), ("--gpu-hours", gpu_hours)):
        check(bound is None or 0 < bound < math.inf, name, bound, "a number above 0")
    check(study is None or not new, "--study", study, "it or --new, not both")
    file = load(path, baseline)
    own = file.study.name
    if study is not None:
        file = named(file, study)
    if cluster is not None:
        given: dict[str, Value] = {"--baseline": baseline, "--trials": trials, "--hours": hours}
        given |= {"--gpu-hours": gpu_hours, "--seed": seed}
        given |= {"--retry-failed": retry_failed, "--warm-start": warm_start}
        given |= {"--dry-run": dry_run, "--system-metrics": system_metrics, "--store": store}
        given |= {"--files": files, "--tracking": tracking, "--data-dir": data_dir}
        remote.check_capacity(cluster, file.study.resources)
        if new and not dry_run:
            place_there = {"--store": store, "--files": files}
            file = named(file, remote.free_name(cluster, own, *remote.options(place_there)))
        name = file.study.name
        given["--study"] = None if name == own else name
        remote.train(cluster, "search", *remote.options(given), study=name, upload=path)
    data_folder(data_dir)
    file = file.with_limits(trials=trials, seed=seed)
    console = console_of_terminal()
    if dry_run:
        from sabtune.search.dry_run import predict
        from sabtune.search.run import check_resumable
        from sabtune.study.resuming import with_recorded_ladder
        from sabtune.terminal.results import prediction_page

        known = Store.at(store, files, tracking)
        if known.found and not new:
            file = with_recorded_ladder(file, known)
            check_resumable(file, known)
        console.print(prediction_page(predict(file), file.study))
        return
    place = restored(console, Store.at(store, files, tracking).made())

    from sabtune.search.budget import Budget  # ray takes seconds: not before a mistake
    from sabtune.search.run import search as run_search
    from sabtune.study.configurations import best_trial
    from sabtune.study.names import free_name
    from sabtune.study.record import open_study

    if new:
        file = file.renamed(free_name(file.study.name, place))
    name = file.study.name
    budget = Budget(hours=hours, gpu_hours=gpu_hours)
    options = {"budget": budget, "retry_failed": retry_failed, "warm_start": warm_start}
    options |= {"system_metrics": system_metrics, "say": saying(console)}
    where = where_of(store, files, tracking, data_dir)
    again = typed(
        "search",
        os.environ.get(STUDY_FILE, path),
        where=where,
        baseline=baseline,
        study=None if name == own else name,
        trials=trials,
        seed=seed,
        hours=hours,
        gpu_hours=gpu_hours,
        system_metrics=system_metrics,
    )
    interrupts.advise(going_on(again))
    with watching(console, file, place, retry_failed) as watchers:
        ending = run_search(file, place, watchers, **options)  # type: ignore[arg-type]
    sync = typed("sync", name, where=where)
    show_report(console, name, place, sync)
    log_report(console, name, place, ending)
    hint(console, "All trials in the browser:", typed("ui", where=where))
    hint(console, "This page again:", typed("report", name, where=where))
    complete = best_trial(open_study(place, name)) is not None
    if complete and FROM not in os.environ:
        hint(console, "Figures and tables:", typed("report", name, where=where, out="report"))
    if complete:
        hint(console, "On fresh seeds:", typed("confirm", name, where=where))
    close(console, ending, again, sync)


def named(file: StudyFile, name: str) -> StudyFile:
    """The file with its study under another name. Raises ConfigError if it can't be one."""
    try:
        return file.renamed(name)
    except ConfigError as problem:
        raise ConfigError(f"--study: {problem}") from None


@app.command("free-name", hidden=True)
def free_name(
    name: Annotated[str, typer.Argument(help="A study's name.")],
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
) -> None:
    """Print the name that --new would give; for those who start a search elsewhere."""
    from sabtune.study import names

    place = restored(console_of_terminal(), Store.at(store, files).made())
    typer.echo(names.free_name(name, place))


@app.command()
def confirm(
    studies: Annotated[
        list[str],
        typer.Argument(help="A study, then studies of baselines to compare it with."),
    ],
    top: Annotated[
        int, typer.Option(min=1, max=MOST_RUNS, help="Configurations of the first study.")
    ] = 3,
    seeds: Annotated[int, typer.Option(min=1, max=MOST_RUNS, help="Fresh seeds for each.")] = 10,
    lengths: LengthsOption = None,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
    data_dir: DataOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Train the best again on fresh seeds, and measure them at lengths the search never used."""
    if cluster is not None:
        given: dict[str, Value] = {"--top": top, "--seeds": seeds, "--lengths": lengths}
        given |= {"--store": store}
        given |= {"--files": files, "--tracking": tracking, "--data-dir": data_dir}
        words = [*studies, *remote.options(given)]
        remote.train(cluster, "confirm", *words, study=f"{studies[0]}.confirm")
    from sabtune.compare.confirm import finalists, study_file

    data_folder(data_dir)
    place = restored(console_of_terminal(), Store.at(store, files, tracking)).existing()
    runs = finalists(place, studies, top)
    where = where_of(store, files, tracking, data_dir)
    again = typed("confirm", *studies, where=where, top=top, seeds=seeds, lengths=lengths)
    run_comparison(f"{studies[0]}.confirm", study_file(place, studies[0]), place, runs,
             seeds, lengths, again, where, champion_of=studies[0])  # fmt: skip


@app.command()
def ablate(
    studies: Annotated[
        list[str],
        typer.Argument(help="A study, then studies of baselines to compare it with."),
    ],
    seeds: Annotated[int, typer.Option(min=1, max=MOST_RUNS, help="Fresh seeds for each.")] = 5,
    changes: Annotated[
        str | None,
        typer.Option(help="Of these alone, such as schedule,lengths; by default of all."),
    ] = None,
    lengths: LengthsOption = None,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
    data_dir: DataOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Change one thing at a time of the winner, and of baselines, and measure what it was worth."""
    if cluster is not None:
        given: dict[str, Value] = {"--seeds": seeds, "--changes": changes}
        given |= {"--lengths": lengths, "--store": store}
        given |= {"--files": files, "--tracking": tracking, "--data-dir": data_dir}
        words = [*studies, *remote.options(given)]
        remote.train(cluster, "ablate", *words, study=f"{studies[0]}.ablate")
    from sabtune.compare.ablation import CHANGED, ablations
    from sabtune.compare.confirm import finalists, study_file

    data_folder(data_dir)
    place = restored(console_of_terminal(), Store.at(store, files, tracking)).existing()
    named = changes.split(",") if changes else CHANGED
    runs = ablations(finalists(place, studies, 1), named, saying(console_of_terminal()))
    where = where_of(store, files, tracking, data_dir)
    again = typed("ablate", *studies, where=where, seeds=seeds, changes=changes, lengths=lengths)
    run_comparison(f"{studies[0]}.ablate", study_file(place, studies[0]), place, runs,
             seeds, lengths, again, where)  # fmt: skip


@app.command()
def reproduce(
    study: Annotated[str, typer.Argument(help="The name of a study in the store.")],
    trial: Annotated[
        int, typer.Argument(min=0, max=LARGEST, help="The number of one of its trials.")
    ],
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    data_dir: DataOption = None,
) -> None:
    """Train a trial again from what was recorded. Exit 0 if every metric came back, else 1."""
    from sabtune.compare.reproduce import reproduce as run_again
    from sabtune.study.record import one, open_study
    from sabtune.terminal.results import reproduction_page

    data_folder(data_dir)
    place = Store.at(store, files).existing()
    found = run_again(one(open_study(place, study), trial))
    console_of_terminal().print(reproduction_page(trial, found))
    raise typer.Exit(1 if found.differences else 0)


@app.command()
def extrapolate(
    study: Annotated[str, typer.Argument(help="The name of a study in the store.")],
    lengths: Annotated[str, typer.Option(help="Lengths to measure at, such as 20000,50000.")],
    trials: Annotated[
        list[int] | None,
        typer.Argument(min=0, max=LARGEST, help="Numbers of trials; by default the best."),
    ] = None,
    sequences: Annotated[
        int, typer.Option(min=1, max=LARGEST, help="On how many, at each length.")
    ] = 64,
    phases: Annotated[
        int,
        typer.Option(
            min=1, max=LARGEST, help="Spread them over so many lengths, each and those after it."
        ),
    ] = 1,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    data_dir: DataOption = None,
) -> None:
    """Measure the models of a study at further lengths, in memory that is bounded."""
    from sabtune.compare import extrapolate as measuring
    from sabtune.study.configurations import best_trial
    from sabtune.study.record import one, open_study
    from sabtune.terminal.results import extrapolation_line

    data_folder(data_dir)
    opened = open_study(Store.at(store, files).existing(), study)
    chosen = [one(opened, number) for number in trials] if trials else [best_trial(opened)]
    wanted = lengths_of(lengths) or ()
    for length in wanted:
        check_whole("--lengths", length, least=1)
    console = console_of_terminal()
    for trial in chosen:
        if trial is None:
            raise StoreError(f"study {study!r} has no complete trial yet: search it first")
        for measured in measuring.extrapolate(trial, wanted, sequences, phases):
            console.print(extrapolation_line(trial, measured))
