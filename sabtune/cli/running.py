"""The commands that train or measure models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sabtune.cli import remote
from sabtune.cli.app import COMPARE, SEARCH, command
from sabtune.cli.commands import Value, command_line, location_values
from sabtune.cli.completing import baselines, study_names
from sabtune.cli.notifying import notifier_of
from sabtune.cli.options import (
    LARGEST_INTEGER,
    MOST_RUNS,
    ClusterOption,
    DataOption,
    FilesOption,
    LengthsOption,
    NotifyOption,
    SeedsOption,
    StoreOption,
    StudiesArgument,
    StudyArgument,
    TrackingOption,
)
from sabtune.cli.screen import data_folder, parse_lengths, restore_if_lost, run_comparison
from sabtune.cli.searching import (
    LIBRARIES_STEP,
    Limits,
    Searches,
    loaded,
    print_prediction,
    renamed,
    search_on_cluster,
)
from sabtune.schema import check, check_lengths
from sabtune.storage.store import DEFAULT, METRICS_VARIABLE, Store
from sabtune.terminal.console import line_printer, make_console
from sabtune.terminal.steps import Steps

STUDY_PANEL, BUDGET_PANEL = "Study", "Budget"
"""The groups of options in the help of `search`."""


@command(
    SEARCH,
    (
        "Run a study that takes minutes, or resume it if it was interrupted",
        "sabtune search search_spaces/copying_quick.py",
    ),
    (
        "See first how long a search will take",
        "sabtune search search_spaces/copying.py --dry-run",
    ),
    (
        "Stop after 40 trials or two hours; the same command without limits resumes",
        "sabtune search search_spaces/copying.py --trials 40 --hours 2",
    ),
    (
        "Tune a baseline of the study file as hard, in a study of its own",
        "sabtune search search_spaces/copying.py --baseline lstm",
    ),
    (
        "Tune every baseline as hard, one after the other; the same command resumes",
        "sabtune search search_spaces/copying.py --baseline all",
    ),
    (
        "Search on a cluster",
        "sabtune search search_spaces/copying.py --cluster cluster.yaml",
    ),
    (
        "Search unattended, and be told of its end",
        "sabtune search search_spaces/copying.py --notify ntfy://TOPIC",
    ),
)
def search(
    path: Annotated[Path, typer.Argument(help="A Python file with a STUDY and a space(trial).")],
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Search the space of this entry of the file's BASELINES, or with all, those of "
            "every entry in turn. --trials, --hours and --gpu-hours then apply to each.",
            rich_help_panel=STUDY_PANEL,
            autocompletion=baselines,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            help="Stop at this many trials in total. Defaults to the STUDY's.",
            rich_help_panel=BUDGET_PANEL,
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(help="Stop after this many hours.", rich_help_panel=BUDGET_PANEL),
    ] = None,
    gpu_hours: Annotated[
        float | None,
        typer.Option(
            help="Stop after the trials have used this many GPU hours.",
            rich_help_panel=BUDGET_PANEL,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed the sampler and the trials. Defaults to the STUDY's.",
            rich_help_panel=STUDY_PANEL,
        ),
    ] = None,
    ignore_stop: Annotated[
        bool,
        typer.Option(
            "--ignore-stop",
            help="Search on even if a stopping rule of the STUDY is fulfilled.",
            rich_help_panel=BUDGET_PANEL,
        ),
    ] = False,
    study: Annotated[
        str | None,
        typer.Option(
            help="Name the study in the store. Defaults to the STUDY's name.",
            rich_help_panel=STUDY_PANEL,
            autocompletion=study_names,
        ),
    ] = None,
    new: Annotated[
        bool,
        typer.Option(
            "--new",
            help="Start a new study even if one of this name exists.",
            rich_help_panel=STUDY_PANEL,
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Run failed trials again.", rich_help_panel=STUDY_PANEL
        ),
    ] = False,
    warm_start: Annotated[
        str | None,
        typer.Option(
            help="Try the best configurations of this study first.",
            rich_help_panel=STUDY_PANEL,
            autocompletion=study_names,
        ),
    ] = None,
    accept_changed_code: Annotated[
        bool,
        typer.Option(
            "--accept-changed-code",
            help="Resume even if the code of your own task, model or schedule has changed.",
            rich_help_panel=STUDY_PANEL,
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Probe one trial and predict the cost of the search.")
    ] = False,
    system_metrics: Annotated[
        bool,
        typer.Option(
            "--system-metrics",
            envvar=METRICS_VARIABLE,
            help="Log the machine's CPU, memory, disk, network and GPU use to MLflow.",
        ),
    ] = False,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
    data_dir: DataOption = None,
    cluster: ClusterOption = None,
    notify: NotifyOption = None,
) -> None:
    """Search the space of a study file and report the best model.

    An existing study is resumed: unfinished trials continue from their checkpoints.
    """
    limits = Limits(
        trials=trials, seed=seed, hours=hours, gpu_hours=gpu_hours, ignore_stop=ignore_stop
    )
    limits.check()
    check(study is None or not new, "--study", study, "it or --new, not both")
    notifier = notifier_of(notify, cluster=cluster is not None)
    console = make_console()
    with Steps(console) as steps:
        series = loaded(path, baseline, steps)
    if study is not None:
        series = renamed(series, study)
    if cluster is not None:
        given: dict[str, Value] = {"--baseline": baseline, **limits.options()}
        given |= {"--retry-failed": retry_failed, "--warm-start": warm_start}
        given |= {"--accept-changed-code": accept_changed_code}
        given |= {"--dry-run": dry_run, "--system-metrics": system_metrics, "--store": store}
        given |= {"--files": files, "--tracking": tracking, "--data-dir": data_dir}
        search_on_cluster(cluster, path, series, given, rename=new and not dry_run)
    data_folder(data_dir)
    series = series.changed(limits.applied_to)
    place = Store.at(store, files, tracking)
    options = {"warm_start": warm_start, "accept_changed_code": accept_changed_code}
    with steps:
        if dry_run:
            for file in series.files:
                print_prediction(console, steps, file, place, new=new, **options)
            return
        place = restore_if_lost(console, place.made())
        series = series.with_free_name(place) if new else series
        options |= {"retry_failed": retry_failed, "system_metrics": system_metrics}
        searches = Searches(
            console=console,
            steps=steps,
            path=path,
            series=series,
            place=place,
            where=location_values(store, files, tracking, data_dir),
            limits=limits,
            options=options,
            notifier=notifier,
        )
        if series.baselines:
            searches.run_baselines()
        else:
            searches.run_one(series.files[0])


@command(SEARCH, name="free-name", hidden=True)
def free_name(
    name: Annotated[str, typer.Argument(help="The name of a study.")],
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
) -> None:
    """Print the name that `search --new` would give a study of this store."""
    from sabtune.study import names

    place = restore_if_lost(make_console(), Store.at(store, files).made())
    typer.echo(names.free_name(name, place))


@command(
    COMPARE,
    (
        "Train the best three configurations on ten fresh seeds each",
        "sabtune confirm copying_quick",
    ),
    (
        "Compare the best one with a baseline, at lengths of your choice",
        "sabtune confirm copying copying.lstm --top 1 --lengths 100,5000",
    ),
)
def confirm(
    studies: StudiesArgument,
    top: Annotated[
        int,
        typer.Option(
            min=1, max=MOST_RUNS, help="Confirm this many of the best configurations of the study."
        ),
    ] = 3,
    seeds: SeedsOption = 10,
    lengths: LengthsOption = None,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
    data_dir: DataOption = None,
    cluster: ClusterOption = None,
    notify: NotifyOption = None,
) -> NoReturn:
    """Retrain the best configurations on fresh seeds and measure them at new lengths.

    Search scores are optimistic: they picked the winner. Scores on fresh seeds are not.
    """
    notifier = notifier_of(notify, cluster=cluster is not None)
    if cluster is not None:
        given: dict[str, Value] = {"--top": top, "--seeds": seeds, "--lengths": lengths}
        location = remote.location_options(store, files, tracking, data_dir)
        words = [*studies, *remote.options(given), *location]
        remote.train(cluster, "confirm", *words, study=f"{studies[0]}.confirm")
    console, place = make_console(), Store.at(store, files, tracking)
    with Steps(console) as steps:
        steps(LIBRARIES_STEP)
        from sabtune.compare.run import plan_confirmation

        data_folder(data_dir)
        place = restore_if_lost(console, place).existing()
        plan = plan_confirmation(
            place, studies, top=top, seeds=seeds, lengths=parse_lengths(lengths),
            say=line_printer(console),
        )  # fmt: skip
        where = location_values(store, files, tracking, data_dir)
        again = command_line(
            "confirm", *studies, where=where, top=top, seeds=seeds, lengths=lengths
        )
        run_comparison(console, plan, again, where, steps, notifier)


@command(
    COMPARE,
    ("Change every setting of the best configuration in turn", "sabtune ablate copying_quick"),
    (
        "Make only these changes, each on ten fresh seeds",
        "sabtune ablate copying_quick --changes schedule,k_att --seeds 10",
    ),
)
def ablate(
    studies: StudiesArgument,
    seeds: SeedsOption = 5,
    changes: Annotated[
        str | None,
        typer.Option(help="Make only these changes, such as schedule,lengths. Defaults to all."),
    ] = None,
    lengths: LengthsOption = None,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    tracking: TrackingOption = None,
    data_dir: DataOption = None,
    cluster: ClusterOption = None,
    notify: NotifyOption = None,
) -> NoReturn:
    """Change the best configuration one setting at a time and measure the effect of each change."""
    notifier = notifier_of(notify, cluster=cluster is not None)
    if cluster is not None:
        given: dict[str, Value] = {"--seeds": seeds, "--changes": changes, "--lengths": lengths}
        location = remote.location_options(store, files, tracking, data_dir)
        words = [*studies, *remote.options(given), *location]
        remote.train(cluster, "ablate", *words, study=f"{studies[0]}.ablate")
    console, place = make_console(), Store.at(store, files, tracking)
    with Steps(console) as steps:
        steps(LIBRARIES_STEP)
        from sabtune.compare.run import plan_ablation

        data_folder(data_dir)
        place = restore_if_lost(console, place).existing()
        plan = plan_ablation(
            place,
            studies,
            seeds=seeds,
            changes=changes.split(",") if changes else None,
            lengths=parse_lengths(lengths),
            say=line_printer(console),
        )
        where = location_values(store, files, tracking, data_dir)
        again = command_line(
            "ablate", *studies, where=where, seeds=seeds, changes=changes, lengths=lengths
        )
        run_comparison(console, plan, again, where, steps, notifier)


@command(
    COMPARE,
    ("Train trial 7 again, and compare every metric", "sabtune reproduce copying_quick 7"),
)
def reproduce(
    study: StudyArgument,
    trial: Annotated[
        int, typer.Argument(min=0, max=LARGEST_INTEGER, help="The number of a trial of the study.")
    ],
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    data_dir: DataOption = None,
) -> NoReturn:
    """Train a trial again from its record. Exits with 0 if every metric is the same, else 1."""
    from sabtune.compare.reproduce import reproduce as run_again
    from sabtune.study.record import StudyRecord
    from sabtune.terminal.results import reproduction_page

    data_folder(data_dir)
    place = Store.at(store, files).existing()
    opened = StudyRecord.open(place, study)
    reproduction = run_again(opened.trial(trial), opened.plan.file or "")
    make_console().print(reproduction_page(trial, reproduction))
    raise typer.Exit(1 if reproduction.differences else 0)


@command(
    COMPARE,
    (
        "Measure the best model far beyond the lengths of the study",
        "sabtune extrapolate copying_quick --lengths 20000,50000",
    ),
    (
        "Measure trials 3 and 7, each length over four consecutive lengths",
        "sabtune extrapolate copying_quick 3 7 --lengths 1000 --phases 4",
    ),
)
def extrapolate(
    study: StudyArgument,
    lengths: Annotated[
        str, typer.Option(help="Measure accuracy at these lengths, such as 20000,50000.")
    ],
    trials: Annotated[
        list[int] | None,
        typer.Argument(
            min=0, max=LARGEST_INTEGER, help="Numbers of trials. Defaults to the best trial."
        ),
    ] = None,
    sequences: Annotated[
        int,
        typer.Option(
            min=1, max=LARGEST_INTEGER, help="Measure on this many sequences at each length."
        ),
    ] = 64,
    phases: Annotated[
        int,
        typer.Option(
            min=1,
            max=LARGEST_INTEGER,
            help="Spread the sequences over this many consecutive lengths, from each length on.",
        ),
    ] = 1,
    store: StoreOption = str(DEFAULT),
    files: FilesOption = None,
    data_dir: DataOption = None,
) -> None:
    """Measure the models of a study at further lengths, in bounded memory."""
    from sabtune.compare import extrapolate as measuring
    from sabtune.study.record import StudyRecord
    from sabtune.terminal.results import extrapolation_line

    data_folder(data_dir)
    chosen = measuring.chosen(StudyRecord.open(Store.at(store, files).existing(), study), trials)
    targets = parse_lengths(lengths) or ()
    check_lengths("--lengths", targets)
    console = make_console()
    for trial in chosen:
        for extrapolation in measuring.extrapolate(trial, targets, sequences, phases):
            console.print(extrapolation_line(trial, extrapolation))
