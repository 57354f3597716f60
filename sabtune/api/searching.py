"""Run the trials of a study, from a script or a notebook."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from rich.console import Console

from sabtune import interrupts
from sabtune.analysis.cost import study_table
from sabtune.api.location import store_at
from sabtune.api.opened import OpenStudy
from sabtune.data.place import using
from sabtune.errors import ClusterError, ConfigError, FailedTrialsError
from sabtune.notification import VARIABLE, Notifier, from_environment
from sabtune.reporting.publish import publish
from sabtune.schema import check, check_seed, check_whole
from sabtune.storage.store import METRICS_VARIABLE, Store
from sabtune.study.backups import restored
from sabtune.study.definition import Constraints, Space, Study
from sabtune.study.loading import (
    baselines_from_objects,
    from_objects,
    load,
    load_baselines,
)
from sabtune.study.record import StudyRecord
from sabtune.study.series import ALL_BASELINES, Series
from sabtune.study.study_file import StudyFile
from sabtune.study.summary import total_failure
from sabtune.terminal.console import line_printer, make_console
from sabtune.terminal.notebook import in_notebook
from sabtune.terminal.steps import REPORT_STEP, Steps
from sabtune.terminal.watching import watching
from sabtune.tuning import run
from sabtune.tuning.budget import Budget
from sabtune.tuning.run import Ending

RESUME = "finished trials are kept; call the function again to resume the others"
"""What to do after an interruption."""


@overload
def search(  # type: ignore[overload-overlap]  # "all" is a str, too
    study: Study | str | Path,
    space: Space | None = None,
    *,
    baseline: Literal["all"],
    constraints: Constraints | None = None,
    baselines: Mapping[str, Space] | None = None,
    question: str | None = None,
    name: str | None = None,
    new: bool = False,
    trials: int | None = None,
    seed: int | None = None,
    hours: float | None = None,
    gpu_hours: float | None = None,
    retry_failed: bool = False,
    warm_start: str | None = None,
    accept_changed_code: bool = False,
    system_metrics: bool | None = None,
    ignore_stop: bool = False,
    notify: str | Sequence[str] | None = None,
    store: str | Path | None = None,
    files: str | Path | None = None,
    tracking: str | None = None,
    data_dir: str | Path | None = None,
    progress: bool = True,
) -> dict[str, OpenStudy]: ...


@overload
def search(
    study: Study | str | Path,
    space: Space | None = None,
    *,
    constraints: Constraints | None = None,
    baselines: Mapping[str, Space] | None = None,
    question: str | None = None,
    baseline: str | None = None,
    name: str | None = None,
    new: bool = False,
    trials: int | None = None,
    seed: int | None = None,
    hours: float | None = None,
    gpu_hours: float | None = None,
    retry_failed: bool = False,
    warm_start: str | None = None,
    accept_changed_code: bool = False,
    system_metrics: bool | None = None,
    ignore_stop: bool = False,
    notify: str | Sequence[str] | None = None,
    store: str | Path | None = None,
    files: str | Path | None = None,
    tracking: str | None = None,
    data_dir: str | Path | None = None,
    progress: bool = True,
) -> OpenStudy: ...


def search(
    study: Study | str | Path,
    space: Space | None = None,
    *,
    constraints: Constraints | None = None,
    baselines: Mapping[str, Space] | None = None,
    question: str | None = None,
    baseline: str | None = None,
    name: str | None = None,
    new: bool = False,
    trials: int | None = None,
    seed: int | None = None,
    hours: float | None = None,
    gpu_hours: float | None = None,
    retry_failed: bool = False,
    warm_start: str | None = None,
    accept_changed_code: bool = False,
    system_metrics: bool | None = None,
    ignore_stop: bool = False,
    notify: str | Sequence[str] | None = None,
    store: str | Path | None = None,
    files: str | Path | None = None,
    tracking: str | None = None,
    data_dir: str | Path | None = None,
    progress: bool = True,
) -> OpenStudy | dict[str, OpenStudy]:
    """Search the space of a study and return the study with its results.

    This does what `sabtune search` does: Ray Tune runs the trials, Optuna chooses their
    configurations, and MLflow gets every trial, the best model and the report. If the store already
    has the study, the search resumes it.

    Args:
        study: A `Study`, or the path of a study file.
        space: A function that takes an Optuna trial and returns a `TrialConfig`. Only for a
            `Study`; a study file has its own.
        constraints: A function that takes a trial's record and returns numbers by name. A number
            above 0 means that the trial violates a constraint and can't be the best.
        baselines: Other spaces by name, each of which you can search with `baseline`.
        question: The question of the study, shown with its results. Defaults to the docstring of
            `space`.
        baseline: Search the space of this baseline, in a study of its own, NAME.BASELINE. "all"
            searches all baselines one after the other; `trials`, `hours` and `gpu_hours` then
            apply to each.
        name: The name of the study in the store. Defaults to that of `study`. With
            `baseline="all"`, the studies are NAME.BASELINE.
        new: Start a new study even if one of this name exists.
        trials: Stop at this number of trials in total. Defaults to that of `study`.
        seed: The seed of the sampler and the trials. Defaults to that of `study`.
        hours: Stop after this many hours.
        gpu_hours: Stop after the trials have used this many GPU hours.
        retry_failed: Run failed trials again.
        warm_start: Try the best configurations of this study of the store first.
        accept_changed_code: Resume the study even if the code of its own task, models or schedules
            has changed. Without it, such a study is refused, because the scores of its trials
            couldn't be compared.
        system_metrics: Log the machine's CPU, memory, disk, network and GPU use to MLflow. Defaults
            to $MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING, or else False.
        ignore_stop: Search on even if a stopping rule of the study is fulfilled.
        notify: The URL of a service to notify at the end, or several URLs, as Apprise defines them.
            Needs `sabtune[notify]`. Defaults to $SABTUNE_NOTIFY, or else none. A search that you
            interrupt doesn't notify.
        store: The folder of all studies, or the URL of a PostgreSQL database as a string. Defaults
            to `sabtune-store` in the current folder.
        files: Where to keep checkpoints, artifacts and backups. Defaults to $SABTUNE_FILES, or else
            the store's folder.
        tracking: The URI of an MLflow server or database. Defaults to $MLFLOW_TRACKING_URI, or else
            a database in the store.
        data_dir: The folder of data sets. Defaults to $SABTUNE_DATA, or else your cache folder.
        progress: Show the progress of the search.

    Returns:
        The study. If the budget is spent, some of its trials are unfinished. If a stopping rule
        ended the search, `stopped_by` has it. With `baseline="all"`, a dict of the studies by the
        names of the baselines.

    Raises:
        ConfigError: An argument is out of range, or `notify` can't be used.
        StudyFileError: The study file, the space or the constraints are invalid or fail.
        StoreError: The store can't be used, another search is writing to the study, or the study
            of this name asks another question.
        ResourceError: A trial requests more than the machine or the cluster has.
        DataError: The data of the task is missing.
        TrackingError: MLflow can't be used.
        FailedTrialsError: Every trial failed. The message has the most common reason. With
            `baseline="all"`, it is raised after the last baseline.
        ClusterError: Ray doesn't start, or ends during the search. Call `search` again to resume.
        KeyboardInterrupt: You interrupted the search. Finished trials are kept; run it again to
            resume the others from their checkpoints.

    Example:
        >>> import sabtune as sab
        >>> def space(trial):
        ...     "How many memories does copying need?"
        ...     k_top = trial.suggest_int("k_top", 1, 4)
        ...     return sab.TrialConfig(
        ...         model=sab.SAB.Config(hidden=16, k_top=k_top, k_att=2),
        ...         train=sab.TrainConfig(updates=30, batch_size=8, report_every=15),
        ...     )
        >>> study = sab.Study(
        ...     name="quick",
        ...     task=sab.Copying.Config(length=3, symbols=1),
        ...     ladder=sab.Ladder(lengths=(3, 6), select=(3,), sequences=16),
        ...     trials=2,
        ... )
        >>> found = sab.search(study, space, progress=False)
        >>> len(found.trials)
        2
    """
    _check_limits(trials, seed, hours, gpu_hours)
    if new and name is not None:
        raise ConfigError(f"name is {name!r} and new is True: give one of them")
    files_given = _files(study, space, baseline, constraints=constraints, baselines=baselines,
                         question=question)  # fmt: skip
    series = Series.of(files_given, baseline)
    if name is not None:
        series = series.renamed(name)
    notifier = notifier_of(notify)
    console = make_console() if progress else None
    say = line_printer(console) if console else run.silent
    place = restored(store_at(store, files, tracking).made(), say)
    if new:
        series = series.with_free_name(place)
    if system_metrics is None:
        system_metrics = os.environ.get(METRICS_VARIABLE, "").lower() in ("1", "true", "yes", "on")
    interrupts.forget()
    found: dict[str, OpenStudy] = {}
    failures: list[str] = []
    count = len(series.files)
    for number, file in enumerate(series.files, 1):
        if series.baselines:
            say(f"Baseline {file.baseline}, {number} of {count}:")
        file = file.with_limits(trials=trials, seed=seed)
        ending, failure = _search_one(
            file.without_rules() if ignore_stop else file,
            place,
            console,
            notifier,
            data_dir,
            budget=Budget(hours=hours, gpu_hours=gpu_hours),
            retry_failed=retry_failed,
            warm_start=warm_start,
            accept_changed_code=accept_changed_code,
            system_metrics=system_metrics,
        )
        own_name = file.study.name
        if not series.baselines:
            say_and_notify(notifier, own_name, place, ending, say)
        elif ending.stopped:
            say(f"Complete: ended by {ending.stopped}.")
        raise_unless_ended(ending, f"study {own_name!r}")
        if interrupts.received() is not None and number < count:
            raise KeyboardInterrupt(f"study {own_name!r} was the last: {RESUME}")
        failures += [f"study {own_name!r}: {failure}"] * bool(failure)
        found[file.baseline or ""] = OpenStudy(own_name, place)
    if series.baselines:
        _conclude(notifier, series.name, place, found, failures, console)
    if failures:
        raise FailedTrialsError("; ".join(failures))
    return found if series.baselines else next(iter(found.values()))


def _search_one(
    file: StudyFile,
    place: Store,
    console: Console | None,
    notifier: Notifier,
    data_dir: str | Path | None,
    *,
    retry_failed: bool,
    **options: Any,
) -> tuple[Ending, str]:
    """Search one study and publish its report.

    options: The other parameters of `sabtune.tuning.run.search`.

    Returns how the search ended, and the most common reason if every trial failed; else "".
    """
    steps = Steps(None if in_notebook() else console)
    say = line_printer(console) if console else run.silent
    name = file.study.name
    with using(data_dir), steps, notifier.failures(name, say):
        with watching(console, file, place, retry_failed, steps) as watchers:
            ending = run.search(
                file, place, watchers, retry_failed=retry_failed, say=say, step=steps, **options
            )
        steps(REPORT_STEP)
        say_problems(publish(name, place, ending), ending, say)
    return ending, total_failure(StudyRecord.open(place, name))


def _conclude(
    notifier: Notifier,
    name: str,
    place: Store,
    found: Mapping[str, OpenStudy],
    failures: Sequence[str],
    console: Console | None,
) -> None:
    """Print the table of all baselines, and notify of their end."""
    own = StudyRecord.find(place, name)
    records = [StudyRecord.open(place, study.name) for study in found.values()]
    table = study_table([*([own] if own is not None else []), *records])
    if console is not None:
        console.print(table.rich())
    text = "\n\n".join([*failures, table.markdown()])
    problem = notifier.send(f"{name}: all baselines {'failed' if failures else 'ended'}", text)
    if problem and console is not None:
        line_printer(console)(problem)


def notifier_of(notify: str | Sequence[str] | None) -> Notifier:
    """Return the notifier of the parameter `notify`. Raises ConfigError if it is invalid."""
    if notify is None:
        return Notifier(from_environment(), f"${VARIABLE}")
    urls = [notify] if isinstance(notify, str) else list(notify)
    if not all(isinstance(url, str) for url in urls):
        raise ConfigError("notify has a value that isn't a text: give URLs")
    return Notifier(urls, "notify")


def say_and_notify(
    notifier: Notifier, name: str, store: Store, ending: Ending, say: run.Say
) -> None:
    """Notify of the end of a search; say which rule ended it, and whether that was sent."""
    notifier.ended(name, store, ending, f"sabtune ui {name}")
    if ending.stopped:
        say(f"Complete: ended by {ending.stopped}.")
        say("To go on, change the study's stop, or ignore it with ignore_stop=True.")
    problem = notifier.finish()
    if problem:
        say(problem)


def _check_limits(
    trials: int | None, seed: int | None, hours: float | None, gpu_hours: float | None
) -> None:
    """Raise ConfigError if a limit of a search is out of range."""
    if trials is not None:
        check_whole("trials", trials, least=1)
    if seed is not None:
        check_seed("seed", seed)
    for name, bound in (("hours", hours), ("gpu_hours", gpu_hours)):
        check(bound is None or 0 < bound < math.inf, name, bound, "a number above 0")


def _files(
    study: Study | str | Path, space: Space | None, baseline: str | None, **others: Any
) -> list[StudyFile]:
    """Return the study that the arguments of `search` define, or those of all baselines."""
    if isinstance(study, Study):
        if space is None:
            raise ConfigError("space is None: give a function that returns a TrialConfig")
        if baseline == ALL_BASELINES:
            return baselines_from_objects(study, space, **others)
        return [from_objects(study, space, baseline=baseline, **others)]
    if not isinstance(study, str | Path):
        raise ConfigError(f"study is {study!r}: give a Study, or the path of a study file")
    given = {"space": space, **others}
    for key, value in given.items():
        if value is not None:
            raise ConfigError(f"{key} is given, but {study} is a study file: define {key} there")
    path = Path(study)
    return load_baselines(path) if baseline == ALL_BASELINES else [load(path, baseline)]


def say_problems(unpublished: str, ending: Ending, say: run.Say) -> None:
    """Say what MLflow lacks after a search or a comparison."""
    if ending.behind:
        say(f"MLflow doesn't hold everything: {ending.behind}. Call sync() to complete it.")
    if unpublished:
        say(unpublished)


def raise_unless_ended(ending: Ending, subject: str) -> None:
    """Raise ClusterError if Ray was lost, and KeyboardInterrupt if the search was interrupted."""
    if ending.lost:
        raise ClusterError(f"{subject}: {ending.lost}; {RESUME}")
    if not (ending.complete or ending.out_of_budget):
        raise KeyboardInterrupt(f"{subject} was interrupted: {RESUME}")
