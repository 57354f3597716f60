"""What MLflow shows of a trial.

The metrics of its run, all but the ladder's by training step:

    loss, accuracy, gradient_norm, skipped_updates, updates_per_second, score, and what a schedule
    has in force, such as k_top
    peak_memory_mib    the most that was held so far
    seconds            that the trial took so far, over all its attempts
    ladder_accuracy    the step is the length; on the sequences that chose
    test_accuracy      the step is the length; on sequences that chose nothing
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlflow.entities import Metric

from sabtune.evaluation import Rung
from sabtune.schema import flatten
from sabtune.trial import Assignment, Progress
from sabtune.watcher import Outcome, Picture, State

NUMBER = "sabtune.number"
CONFIGURATION = "sabtune.configuration"
SEED = "sabtune.seed"
STATE = "sabtune.state"
REASON = "sabtune.reason"

RUNNING = "RUNNING"
"""The state of a trial that runs, or waits to be taken up again."""

STATUS: Mapping[State, str] = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
"""MLflow's run status for each way a trial can end."""

LAST_OF_A_REPORT = "seconds"
"""The curve that a report's batch ends with: where it has a point, the others have theirs."""


@dataclass
class Page:
    """What is to be shown of one trial, or what is new of it."""

    assignment: Assignment | None  # None: the trial must have its run already
    points: list[Metric] = field(default_factory=list)
    outcome: Outcome | None = None  # None: it runs
    since: int = 0  # ms since 1970
    until: int = 0

    @property
    def state(self) -> str:
        return self.outcome.state if self.outcome else RUNNING

    @property
    def status(self) -> str:
        return STATUS[self.outcome.state] if self.outcome else RUNNING

    def name(self) -> str:
        """#17 k_top=5 …, or, of a further seed of trial 3's: #17 (as #3) k_top=5 … seed 2."""
        assert self.assignment is not None
        number, first = self.assignment.number, self.assignment.configuration
        label = self.assignment.run.trial.model.label()
        if first == number:
            return f"#{number} {label}"
        return f"#{number} (as #{first}) {label} seed {self.assignment.run.seed}"

    def tags(self) -> dict[str, str]:
        """How the trial stands and, where that is known, whose run it is."""
        tags = {STATE: self.state, REASON: self.outcome.reason if self.outcome else ""}
        if self.assignment is not None:
            tags[NUMBER] = str(self.assignment.number)
            tags[CONFIGURATION] = str(self.assignment.configuration)
            tags[SEED] = str(self.assignment.run.seed)
        return tags

    def params(self) -> dict[str, str]:
        """The configuration, one level deep."""
        if self.assignment is None:
            return {}
        values = flatten(self.assignment.run.to_dict())
        return {key: str(value) for key, value in values.items()}


def whole(picture: Picture, since: int) -> Page:
    """The page of a trial that began at `since`; each point at the time the trial had taken."""
    page = Page(picture.assignment, outcome=picture.outcome, since=since, until=since)
    for progress in picture.history:
        page.until = since + int(progress.seconds * 1000)
        page.points += report_points(progress, page.until)
    if picture.outcome is not None:
        page.points += ladder_points(picture.outcome, page.until)
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


def ladder_points(outcome: Outcome, when: int) -> list[Metric]:
    """How far the trial's model carries."""
    points = by_length("ladder_accuracy", outcome.ladder, when)
    return points + by_length("test_accuracy", outcome.test, when)


def by_length(key: str, rungs: Sequence[Rung], when: int) -> list[Metric]:
    """A curve over the ladder."""
    return [Metric(key, rung.accuracy, when, rung.length) for rung in rungs]
