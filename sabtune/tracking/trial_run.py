"""What MLflow shows of a trial.

The metrics of its run, all but those of the ladder by training step:

    loss, accuracy, gradient_norm, skipped_updates, updates_per_second, score, and what a schedule
    has in force, such as k_top
    peak_memory_mib    the most that was held so far
    seconds            that the trial took so far, over all its attempts
    ladder_accuracy, ladder_loss    the step is the length; on the sequences that chose
    test_accuracy, test_loss        the step is the length; on sequences that chose nothing
    ladder_accuracy_at_0200, test_accuracy_at_0200 …    each rung by itself, to sort by
    length_score, solve_length      of a trial that was trained to its end, from the test sequences
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlflow.entities import Metric
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE

from sabtune.schema import KIND, flatten
from sabtune.study.events import Origin, Outcome, State, TrialView
from sabtune.training.evaluation import LengthResult, length_score, solve_length
from sabtune.training.trial import Progress, TrialSpec

NUMBER = "sabtune.number"
CONFIGURATION = "sabtune.configuration"
SEED = "sabtune.seed"
TASK = "sabtune.task"
MODEL = "sabtune.model"
REVISION = "sabtune.revision"
LABEL = "sabtune.label"
STATE = "sabtune.state"
REASON = "sabtune.reason"

RUNNING = "RUNNING"
"""The state of a trial that runs, or waits to be taken up again."""

STATUS: Mapping[State, str] = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
"""MLflow's run status for each way a trial can end."""

LAST_OF_A_REPORT = "seconds"
"""The curve that a report's batch ends with: where it has a point, the others have theirs."""

DIGITS = 4
"""Of a length in a metric's name, at least; longer ladders have more, so that names sort."""


@dataclass
class Page:
    """What is to be shown of one trial, or what is new of it."""

    spec: TrialSpec | None  # None: the trial must have its run already
    points: list[Metric] = field(default_factory=list)
    outcome: Outcome | None = None  # None: it runs
    since: int = 0  # ms since 1970
    until: int = 0
    origin: Origin = field(default_factory=Origin)

    @property
    def state(self) -> str:
        return self.outcome.state if self.outcome else RUNNING

    @property
    def status(self) -> str:
        return STATUS[self.outcome.state] if self.outcome else RUNNING

    def name(self) -> str:
        """#17 k_top=5 …, or, of a further seed of trial 3's: #17 (as #3) k_top=5 … seed 2."""
        assert self.spec is not None
        number, first = self.spec.number, self.spec.configuration
        label = self.spec.run.trial.model.label()
        if first == number:
            return f"#{number} {label}"
        return f"#{number} (as #{first}) {label} seed {self.spec.run.seed}"

    def tags(self) -> dict[str, str]:
        """How the trial stands and, where that is known, whose run it is."""
        tags = {STATE: self.state, REASON: self.outcome.reason if self.outcome else ""}
        if self.spec is None:
            return tags
        run = self.spec.run
        tags |= {NUMBER: str(self.spec.number), SEED: str(run.seed)}
        tags |= {CONFIGURATION: str(self.spec.configuration)}
        plain = run.to_dict()
        tags |= {TASK: plain["task"][KIND], MODEL: plain["trial"]["model"][KIND]}
        return tags | origin_tags(self.origin)

    def params(self) -> dict[str, str]:
        """The configuration, one level deep."""
        if self.spec is None:
            return {}
        values = flatten(self.spec.run.to_dict())
        return {key: str(value) for key, value in values.items()}


def origin_tags(origin: Origin) -> dict[str, str]:
    """The study file and its revision, under MLflow's names too; what isn't known is left out."""
    tags = {LABEL: origin.label, MLFLOW_SOURCE_NAME: origin.file}
    tags[MLFLOW_SOURCE_TYPE] = "LOCAL" if origin.file else ""
    tags[MLFLOW_GIT_COMMIT] = origin.commit
    tags[REVISION] = origin.commit + "-dirty" * (origin.changed and bool(origin.commit))
    return {key: value for key, value in tags.items() if value}


def whole(view: TrialView, since: int) -> Page:
    """The page of a trial that began at `since`; each point at the time the trial had taken."""
    page = Page(
        view.spec,
        outcome=view.outcome,
        since=since,
        until=since,
        origin=view.origin,
    )
    for progress in view.history:
        page.until = since + int(progress.seconds * 1000)
        page.points += report_points(progress, page.until)
    if view.outcome is not None:
        page.points += ladder_points(view.outcome, view.spec, page.until)
    return page


def report_points(progress: Progress, when: int) -> list[Metric]:
    """The curves' next points; `LAST_OF_A_REPORT` the last."""
    report = progress.report
    values = {
        "loss": report.loss,
        "accuracy": report.accuracy,
        "gradient_norm": report.gradient_norm,
        "skipped_updates": report.skipped,
        "updates_per_second": report.updates_per_second,
        **report.in_force,
        "score": progress.score,
        "peak_memory_mib": progress.memory,
        LAST_OF_A_REPORT: progress.seconds,
    }
    return [Metric(key, value, when, report.step) for key, value in values.items()]


SELECTION, TEST = "ladder", "test"
"""What the names of metrics on the selection and on the test sequences begin with."""

SUMMARY = ("length_score", "solve_length", "solve_length_in_phase", "share_kept")


def ladder_points(outcome: Outcome, spec: TrialSpec | None, when: int) -> list[Metric]:
    """How far the trial's model carries."""
    points = []
    longest = spec.ladder.lengths[-1] if spec else 0
    for on, results in ((SELECTION, outcome.ladder), (TEST, outcome.test)):
        points += by_length(f"{on}_accuracy", results, when)
        points += [Metric(f"{on}_loss", result.loss, when, result.length) for result in results]
        points += length_by_length(f"{on}_accuracy", results, longest, when)
        for name in ("in_phase", "worst_phase"):
            known = [
                (result.length, getattr(result, name)) for result in results if result.by_phase
            ]
            points += [
                Metric(f"{on}_{name}", accuracy, when, length)
                for length, accuracy in known
                if accuracy is not None
            ]
    if outcome.test and spec is not None:
        values = summary(outcome.test, spec)
        points += [Metric(key, value, when, 0) for key, value in values.items()]
    return points


def by_length(key: str, results: Sequence[LengthResult], when: int) -> list[Metric]:
    """A curve over the ladder."""
    return [Metric(key, result.accuracy, when, result.length) for result in results]


def length_by_length(
    key: str, results: Sequence[LengthResult], longest: int, when: int, step: int = 0
) -> list[Metric]:
    """One metric for each rung; `longest`: of the ladder, so that all names are as wide."""
    digits = max(DIGITS, *(len(str(length)) for length in (longest, *(r.length for r in results))))
    return [Metric(f"{key}_at_{r.length:0{digits}}", r.accuracy, when, step) for r in results]


def summary(test: Sequence[LengthResult], spec: TrialSpec) -> dict[str, float]:
    """The ladder in three numbers, and the share of the memories that are kept."""
    task = spec.run.task.build()
    values = (
        length_score(test, task),
        solve_length(test, task.solved),
        solve_length(test, task.solved, in_phase=True),
        spec.run.share_kept(),
    )
    named = zip(SUMMARY, values, strict=True)
    return {name: value for name, value in named if value is not None}
