"""The commands that train or measure models."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from sabtune import interrupts
from sabtune.cli import remote
from sabtune.cli.app import COMPARE, SEARCH, command
from sabtune.cli.commands import (
    CLUSTER_VARIABLE,
    STUDY_FILE_VARIABLE,
    Value,
    Values,
    command_line,
    location_values,
)
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
from sabtune.cli.screen import (
    close,
    data_folder,
    hint,
    notifying,
    parse_lengths,
    publish_report,
    restore_if_lost,
    resume_advice,
    run_comparison,
    show_address,
    show_report,
)
from sabtune.errors import ConfigError
from sabtune.schema import check, check_lengths, check_seed, check_whole
from sabtune.storage.store import DEFAULT, METRICS_VARIABLE, Store
from sabtune.terminal.console import line_printer, make_console
from sabtune.terminal.steps import REPORT_STEP, Steps

if TYPE_CHECKING:
    from rich.console import Console

    from sabtune.study.record import StudyRecord
    from sabtune.study.study_file import StudyFile
    from sabtune.tuning.budget import Budget
    from sabtune.tuning.run import Ending


STUDY_PANEL, BUDGET_PANEL = "Study", "Budget"
"""The groups of options in the help of `search`."""

LIBRARIES_STEP = "Loading Ray, Optuna and MLflow"
"""The first step of a command that runs trials."""


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
            help="Search the space of this entry of the file's BASELINES.",
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
    limits = _Limits(
        trials=trials, seed=seed, hours=hours, gpu_hours=gpu_hours, ignore_stop=ignore_stop
    )
    limits.check()
    check(study is None or not new, "--study", study, "it or --new, not both")
    notifier = notifier_of(notify, cluster=cluster is not None)
    console = make_console()
    with Steps(console) as steps:
        file = _loaded(path, baseline, steps)
    own_name = file.study.name
    if study is not None:
        file = _renamed(file, study)
    if cluster is not None:
        given: dict[str, Value] = {"--baseline": baseline, **limits.options()}
        given |= {"--retry-failed": retry_failed, "--warm-start": warm_start}
        given |= {"--accept-changed-code": accept_changed_code}
        given |= {"--dry-run": dry_run, "--system-metrics": system_metrics, "--store": store}
        given |= {"--files": files, "--tracking": tracking, "--data-dir": data_dir}
        _search_on_cluster(cluster, path, file, own_name, given, rename=new and not dry_run)
    data_folder(data_dir)
    file = limits.applied_to(file)
    place = Store.at(store, files, tracking)
    options = {"warm_start": warm_start, "accept_changed_code": accept_changed_code}
    with steps:
        if dry_run:
            _print_prediction(console, steps, file, place, new=new, **options)
            return
        place = restore_if_lost(console, place.made())
        file = _with_free_name(file, place) if new else file
        name = None if file.study.name == own_name else file.study.name
        where = location_values(store, files, tracking, data_dir)
        again = _resume_command(path, name, baseline, limits, system_metrics, where)
        go_on = _resume_command(
            path, name, baseline, replace(limits, ignore_stop=True), system_metrics, where
        )
        interrupts.advise(resume_advice(again))
        options |= {"retry_failed": retry_failed, "system_metrics": system_metrics}
        with notifier.failures(file.study.name, line_printer(console)):
            ending = _run_search(console, steps, file, place, limits, **options)
            searched = _record(place, file.study.name)
            _print_results(console, steps, searched, place, ending, where)
    with notifying(console, notifier, searched.name, place, ending, where):
        close(console, ending, again, command_line("sync", searched.name, where=where), go_on)
        _check_not_all_failed(searched, again)


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """The options of `search` that limit it."""

    trials: int | None
    seed: int | None
    hours: float | None
    gpu_hours: float | None
    ignore_stop: bool = False

    def check(self) -> None:
        """Raise ConfigError if a value is out of range."""
        if self.trials is not None:
            check_whole("--trials", self.trials, least=1)
        if self.seed is not None:
            check_seed("--seed", self.seed)
        for name, bound in (("--hours", self.hours), ("--gpu-hours", self.gpu_hours)):
            check(bound is None or 0 < bound < math.inf, name, bound, "a number above 0")

    def applied_to(self, file: StudyFile) -> StudyFile:
        """Return the file with these limits in place of its own."""
        file = file.with_limits(trials=self.trials, seed=self.seed)
        return file.without_rules() if self.ignore_stop else file

    def budget(self) -> Budget:
        """Return the time limits of the search."""
        from sabtune.tuning.budget import Budget

        return Budget(hours=self.hours, gpu_hours=self.gpu_hours)

    def options(self) -> dict[str, Value]:
        """Return the values by option."""
        values: dict[str, Value] = {"--trials": self.trials, "--hours": self.hours}
        values |= {"--gpu-hours": self.gpu_hours, "--seed": self.seed}
        return values | {"--ignore-stop": self.ignore_stop}


def _loaded(path: Path, baseline: str | None, steps: Steps) -> StudyFile:
    """Return the study of a file, or of one of its baselines."""
    steps(f"Loading {path.name}")
    from sabtune.study.loading import load  # imports torch, which takes seconds

    return load(path, baseline)


def _record(place: Store, name: str) -> StudyRecord:
    """Return the record of a study."""
    from sabtune.study.record import StudyRecord

    return StudyRecord.open(place, name)


def _renamed(file: StudyFile, name: str) -> StudyFile:
    """Return the file with another name for its study. Raises ConfigError if it is invalid."""
    try:
        return file.renamed(name)
    except ConfigError as problem:
        raise ConfigError(f"--study: {problem}") from None


def _with_free_name(file: StudyFile, place: Store) -> StudyFile:
    """Return the file with a name for its study that no study in the store has."""
    from sabtune.study import names

    return file.renamed(names.free_name(file.study.name, place))


def _search_on_cluster(
    cluster: Path,
    path: Path,
    file: StudyFile,
    own_name: str,
    given: dict[str, Value],
    *,
    rename: bool,
) -> NoReturn:
    """Run a search as a job on the cluster, and exit with its exit code.

    own_name: The name of the study in its file.

    given: The values of the options, except --study.

    rename: Whether to give the study a name that no study in the store has.
    """
    remote.check_capacity(cluster, file.study.resources)
    if rename:
        location = remote.options({name: given[name] for name in ("--store", "--files")})
        file = _renamed(file, remote.free_name(cluster, own_name, *location))
    name = file.study.name
    given = given | {"--study": None if name == own_name else name}
    remote.train(cluster, "search", *remote.options(given), study=name, upload=path)


def _print_prediction(
    console: Console, steps: Steps, file: StudyFile, place: Store, **options: Any
) -> None:
    """Check a search, probe one trial and print the predicted cost of the search.

    options: The options of `sabtune.tuning.dry_run.check_search`.
    """
    steps(LIBRARIES_STEP)
    from sabtune.terminal.results import prediction_page
    from sabtune.tuning.dry_run import check_search, predict

    file = check_search(file, place, **options)
    steps("Training the first configuration for ten seconds")
    prediction = predict(file)
    steps("")
    console.print(prediction_page(prediction, file.study))


def _resume_command(
    path: Path,
    name: str | None,
    baseline: str | None,
    limits: _Limits,
    system_metrics: bool,
    where: Values,
) -> str:
    """Return the command that resumes a search.

    name: The value of --study.
    """
    return command_line(
        "search",
        os.environ.get(STUDY_FILE_VARIABLE, path),
        where=where,
        baseline=baseline,
        study=name,
        trials=limits.trials,
        seed=limits.seed,
        hours=limits.hours,
        gpu_hours=limits.gpu_hours,
        ignore_stop=limits.ignore_stop,
        system_metrics=system_metrics,
    )


def _run_search(
    console: Console, steps: Steps, file: StudyFile, place: Store, limits: _Limits, **options: Any
) -> Ending:
    """Run a search on this machine, or on the cluster of this machine, and show its progress.

    options: The other parameters of `sabtune.tuning.run.search`.
    """
    steps(LIBRARIES_STEP)
    from sabtune.terminal.watching import watching
    from sabtune.tuning import run  # imports Ray, which takes seconds

    say = line_printer(console)
    with watching(console, file, place, options["retry_failed"], steps) as watchers:
        return run.search(
            file, place, watchers, budget=limits.budget(), say=say, step=steps, **options
        )


def _print_results(
    console: Console,
    steps: Steps,
    study: StudyRecord,
    place: Store,
    ending: Ending,
    where: Values,
) -> None:
    """Print the results of a search, log its report to MLflow, and print what to run next."""
    name = study.name
    show_report(console, study, place, command_line("sync", name, where=where))
    steps(REPORT_STEP)
    publish_report(console, name, place, ending)
    steps("")
    show_address(console, study, place, command_line("ui", name, where=where))
    hint(console, "Show these results again:", command_line("report", name, where=where))
    if study.best is None:
        return
    if CLUSTER_VARIABLE not in os.environ:
        report = command_line("report", name, where=where, out="report")
        hint(console, "Write figures and tables:", report)
    hint(console, "Confirm on fresh seeds:", command_line("confirm", name, where=where))


def _check_not_all_failed(study: StudyRecord, again: str) -> None:
    """Exit with 1 and the most common reason if every trial of a study has failed."""
    from sabtune.study.summary import total_failure

    failure = total_failure(study)
    if failure:
        typer.echo(f"sabtune: {failure}; try again with: {again} --retry-failed", err=True)
        raise typer.Exit(1)


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
