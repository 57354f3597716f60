"""The searches of one `sabtune search`: of a study, or of all baselines of its file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from sabtune import interrupts
from sabtune.cli import remote
from sabtune.cli.commands import (
    CLUSTER_VARIABLE,
    STUDY_FILE_VARIABLE,
    Value,
    Values,
    command_line,
)
from sabtune.cli.screen import (
    INTERRUPTED,
    close,
    hint,
    notifying,
    publish_report,
    resume_advice,
    show_address,
    show_report,
)
from sabtune.errors import ConfigError
from sabtune.schema import check, check_seed, check_whole
from sabtune.storage.store import Store
from sabtune.study.series import ALL_BASELINES, Series
from sabtune.terminal.console import line_printer
from sabtune.terminal.steps import REPORT_STEP, Steps

if TYPE_CHECKING:
    from sabtune.notification import Notifier
    from sabtune.study.record import StudyRecord
    from sabtune.study.study_file import StudyFile
    from sabtune.tuning.budget import Budget
    from sabtune.tuning.run import Ending

LIBRARIES_STEP = "Loading Ray, Optuna and MLflow"
"""The first step of a command that runs trials."""


@dataclass(frozen=True, kw_only=True)
class Limits:
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
        """Return the time limits of a search."""
        from sabtune.tuning.budget import Budget

        return Budget(hours=self.hours, gpu_hours=self.gpu_hours)

    def options(self) -> dict[str, Value]:
        """Return the values by option."""
        values: dict[str, Value] = {"--trials": self.trials, "--hours": self.hours}
        values |= {"--gpu-hours": self.gpu_hours, "--seed": self.seed}
        return values | {"--ignore-stop": self.ignore_stop}


def loaded(path: Path, baseline: str | None, steps: Steps) -> Series:
    """Load the study of a file, that of one of its baselines, or those of all of them."""
    steps(f"Loading {path.name}")
    from sabtune.study.loading import load, load_baselines  # imports torch, which takes seconds

    files = load_baselines(path) if baseline == ALL_BASELINES else [load(path, baseline)]
    return Series.of(files, baseline)


def renamed(series: Series, name: str) -> Series:
    """Return the studies under the name of --study. Raises ConfigError if it is invalid."""
    try:
        return series.renamed(name)
    except ConfigError as problem:
        raise ConfigError(f"--study: {problem}") from None


def search_on_cluster(
    cluster: Path, path: Path, series: Series, given: dict[str, Value], *, rename: bool
) -> NoReturn:
    """Run the searches as a job on the cluster, and exit with its exit code.

    given: The values of the options, except --study.

    rename: Whether to give the study a name that no study in the store has.

    Raises ConfigError if all baselines are to get new names, which only the head could choose.
    """
    check(
        not (rename and series.baselines), "--new", True,
        "--study NAME instead, with --cluster and --baseline all",
    )  # fmt: skip
    remote.check_capacity(cluster, series.files[0].study.resources)
    if rename:
        location = remote.options({name: given[name] for name in ("--store", "--files")})
        series = renamed(series, remote.free_name(cluster, series.own_name, *location))
    given = given | {"--study": series.name if series.is_renamed else None}
    words = remote.options(given)
    remote.train(cluster, "search", *words, study=series.job_name, upload=path)


def print_prediction(
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


@dataclass(frozen=True, kw_only=True)
class Searches:
    """The searches of one command.

    where: The options that select the store.

    options: The other parameters of `sabtune.tuning.run.search`.

    notifier: The services to notify at the end.
    """

    console: Console
    steps: Steps
    path: Path
    series: Series
    place: Store
    where: Values
    limits: Limits
    options: dict[str, Any]
    notifier: Notifier

    def run_one(self, file: StudyFile) -> None:
        """Search a study, print its results, and exit as `close` does."""
        interrupts.advise(resume_advice(self.again))
        study, ending = self._run(file)
        with notifying(self.console, self.notifier, study.name, self.place, ending, self.where):
            self._close(study.name, ending)
            self._exit_if_failed(_failure(study))

    def run_baselines(self) -> None:
        """Search the study of each baseline in turn, and print a table of the best of each.

        A baseline whose budget is spent, or whose trials all failed, doesn't keep the next ones
        from being searched. An interruption ends them all. Exits as `close` does.
        """
        interrupts.advise(resume_advice(self.again))
        studies: list[StudyRecord] = []
        failures: list[str] = []
        unfinished = False
        for number, file in enumerate(self.series.files, 1):
            count = len(self.series.files)
            self.console.print(Text(f"Baseline {file.baseline}, {number} of {count}:", "bold"))
            study, ending = self._run(file)
            is_last = ending.lost or not (ending.complete or ending.out_of_budget)
            unfinished |= not ending.complete
            self._close(study.name, ending if is_last else replace(ending, complete=True))
            if interrupts.received() is not None and number < count:
                hint(self.console, "Interrupted. Resume with:", self.again)
                raise typer.Exit(INTERRUPTED)
            failure = _failure(study)
            failures += [f"{study.name}: {failure}"] * bool(failure)
            studies.append(study)
        self._conclude(studies, unfinished, failures)

    @property
    def again(self) -> str:
        """The command that resumes the searches."""
        return self._resume_command(self.limits)

    def _resume_command(self, limits: Limits) -> str:
        return command_line(
            "search",
            os.environ.get(STUDY_FILE_VARIABLE, self.path),
            where=self.where,
            baseline=self.series.baseline,
            study=self.series.name if self.series.is_renamed else None,
            trials=limits.trials,
            seed=limits.seed,
            hours=limits.hours,
            gpu_hours=limits.gpu_hours,
            ignore_stop=limits.ignore_stop,
            system_metrics=self.options["system_metrics"],
        )

    def _run(self, file: StudyFile) -> tuple[StudyRecord, Ending]:
        """Search a study on this machine, or on its cluster, and print its results.

        The results of a baseline that was complete already are only in the table of all baselines.
        Notifies of an exception that ends the search.
        """
        name, say = file.study.name, line_printer(self.console)
        with self.notifier.failures(name, say):
            self.steps(LIBRARIES_STEP)
            from sabtune.study.record import StudyRecord
            from sabtune.terminal.watching import watching
            from sabtune.tuning import run  # imports Ray, which takes seconds

            earlier = StudyRecord.find(self.place, name)
            ended = earlier.ended if earlier is not None else 0
            retry_failed = self.options["retry_failed"]
            with watching(self.console, file, self.place, retry_failed, self.steps) as watchers:
                ending = run.search(
                    file,
                    self.place,
                    watchers,
                    budget=self.limits.budget(),
                    say=say,
                    step=self.steps,
                    **self.options,
                )
            study = StudyRecord.open(self.place, name)
            if self.series.baselines and ending.complete and study.ended == ended:
                self.steps("")
                self.console.print(Text(f"Study {name} is complete: {study.size}."))
            else:
                self._print_results(study, ending)
        return study, ending

    def _print_results(self, study: StudyRecord, ending: Ending) -> None:
        """Print the results of a search, log its report to MLflow, and print what to run next."""
        name, where, console = study.name, self.where, self.console
        show_report(console, study, self.place, command_line("sync", name, where=where))
        self.steps(REPORT_STEP)
        publish_report(console, name, self.place, ending)
        self.steps("")
        show_address(console, study, self.place, command_line("ui", name, where=where))
        hint(console, "Show these results again:", command_line("report", name, where=where))
        if study.best is None:
            return
        if CLUSTER_VARIABLE not in os.environ:
            report = command_line("report", name, where=where, out="report")
            hint(console, "Write figures and tables:", report)
        hint(console, "Confirm on fresh seeds:", command_line("confirm", name, where=where))

    def _close(self, name: str, ending: Ending) -> None:
        """Print how a search ended, and raise typer.Exit unless it is complete; see `close`."""
        go_on = self._resume_command(replace(self.limits, ignore_stop=True))
        sync = command_line("sync", name, where=self.where)
        close(self.console, ending, self.again, sync, go_on)

    def _exit_if_failed(self, failure: str) -> None:
        """Exit with 1 and the reason, if every trial has failed."""
        if failure:
            words = f"sabtune: {failure}; try again with: {self.again} --retry-failed"
            typer.echo(words, err=True)
            raise typer.Exit(1)

    def _conclude(self, studies: list[StudyRecord], unfinished: bool, failures: list[str]) -> None:
        """Print the table of all baselines, notify, and print what to run next.

        unfinished: Whether the budget of a baseline was spent.

        failures: The baselines whose trials all failed, with the reasons.
        """
        from sabtune.analysis.cost import study_table
        from sabtune.study.record import StudyRecord

        own = StudyRecord.find(self.place, self.series.name)
        compared = [*([own] if own is not None else []), *studies]
        table = study_table(compared)
        self.console.print(Text(""), table.rich())
        names = [study.name for study in compared if study.ranked]
        if names:
            confirm = command_line("confirm", *names, where=self.where)
            hint(self.console, "Compare on fresh seeds:", confirm)
        event = "the budget is spent" if unfinished else "complete"
        text = "\n\n".join([*(f"{failure}." for failure in failures), table.markdown()])
        title = f"{self.series.name}: all baselines {'failed' if failures else event}"
        problem = self.notifier.send(title, text)
        if problem:
            self.console.print(Text(problem))
        if unfinished:
            hint(self.console, "The budget is spent. Resume with:", self.again)
        self._exit_if_failed("; ".join(failures))


def _failure(study: StudyRecord) -> str:
    """Return the most common reason if every trial of a study has failed; else ""."""
    from sabtune.study.summary import total_failure

    return total_failure(study)
