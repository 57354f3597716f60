"""The content of a trial's run in MLflow.

A run has these metrics. Their step is the number of updates unless noted otherwise.

    loss, accuracy, gradient_norm, skipped_updates, updates_per_second, score, and the current
    value of scheduled parameters, such as k_top
    peak_memory_mib    peak memory so far
    seconds            duration of the trial so far, over all attempts
    ladder_accuracy, ladder_loss    on the selection sequences; the step is the length
    test_accuracy, test_loss        on the test sequences; the step is the length
    ladder_in_phase, test_in_phase, ladder_worst_phase, test_worst_phase
                       accuracy in phase and in the worst phase; the step is the length
    ladder_accuracy_at_0200, test_accuracy_at_0200 …
                       accuracy at a single length, so that runs can be sorted by it; the step is 0
    length_score, solve_length, solve_length_in_phase
                       on the test sequences, once training is complete; the step is 0
    share_kept         at the training length, once training is complete; the step is 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mlflow.entities import Metric
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from sabtune.schema import KIND, flatten
from sabtune.study.events import Origin, Outcome, TrialView
from sabtune.study.states import MLFLOW_STATUS
from sabtune.training.evaluation import LengthResult, length_score, solve_length
from sabtune.training.trial import Progress, TrialSpec

NUMBER = "sabtune.number"
CONFIGURATION = "sabtune.configuration"
SEED = "sabtune.seed"
TASK = "sabtune.task"
MODEL = "sabtune.model"
CODE = "sabtune.code"
REVISION = "sabtune.revision"
LABEL = "sabtune.label"
STATE = "sabtune.state"
REASON = "sabtune.reason"

RUNNING = "RUNNING"
"""The state of a trial that runs or waits to be resumed."""

LAST_METRIC = "seconds"
"""The metric of a report that is logged last. If it has a point, so do all others."""

LENGTH_DIGITS = 4
"""Minimum number of digits of a length in a metric's name, so that names sort by length."""


@dataclass
class RunContent:
    """All content of a trial's run, or only its new content: tags, params and metrics."""

    spec: TrialSpec | None  # None: the run must exist already
    points: list[Metric] = field(default_factory=list)
    outcome: Outcome | None = None  # None: the trial runs
    since: int = 0  # ms since 1970
    until: int = 0
    origin: Origin = field(default_factory=Origin)

    @property
    def state(self) -> str:
        """The state of the trial, in Optuna's words."""
        return self.outcome.state if self.outcome else RUNNING

    @property
    def status(self) -> str:
        """The status of the run, in MLflow's words."""
        return MLFLOW_STATUS[self.outcome.state] if self.outcome else RUNNING

    def name(self) -> str:
        """Return the run's name, such as "#17 k_top=5 …".

        If the trial repeats trial 3 with another seed, the name is "#17 (as #3) k_top=5 … seed 2".
        """
        assert self.spec is not None
        number, first = self.spec.number, self.spec.configuration
        label = self.spec.run.model.label()
        if first == number:
            return f"#{number} {label}"
        return f"#{number} (as #{first}) {label} seed {self.spec.run.seed}"

    def tags(self) -> dict[str, str]:
        """Return the tags: the trial's state and, with a spec, its identity and origin."""
        tags = {STATE: self.state, REASON: self.outcome.reason if self.outcome else ""}
        if self.spec is None:
            return tags
        run = self.spec.run
        tags |= {NUMBER: str(self.spec.number), SEED: str(run.seed)}
        tags |= {CONFIGURATION: str(self.spec.configuration)}
        config = run.to_dict()
        tags |= {TASK: config["task"][KIND], MODEL: config["trial"]["model"][KIND]}
        return tags | origin_tags(self.origin)

    def params(self) -> dict[str, str]:
        """Return the configuration as params. Nested names have dots, as in "trial.model.k_top"."""
        if self.spec is None:
            return {}
        values = flatten(self.spec.run.to_dict())
        return {key: str(value)[:MAX_PARAM_VAL_LENGTH] for key, value in values.items()}


def origin_tags(origin: Origin) -> dict[str, str]:
    """Return tags for the study file and its git revision; some have names that MLflow defines."""
    tags = {LABEL: origin.label, MLFLOW_SOURCE_NAME: origin.file}
    tags[MLFLOW_SOURCE_TYPE] = "LOCAL" if origin.file else ""
    tags[CODE] = origin.code
    tags[MLFLOW_GIT_COMMIT] = origin.commit
    tags[REVISION] = origin.commit + "-dirty" * (origin.changed and bool(origin.commit))
    return {key: value for key, value in tags.items() if value}


def full_content(view: TrialView, since: int) -> RunContent:
    """Return the whole content of the run of a trial that started at `since` (ms since 1970).

    The time of a point is `since` plus the duration of the trial at that report.
    """
    content = RunContent(
        view.spec,
        outcome=view.outcome,
        since=since,
        until=since,
        origin=view.origin,
    )
    for progress in view.history:
        content.until = since + int(progress.seconds * 1000)
        content.points += report_points(progress, content.until)
    if view.outcome is not None:
        content.points += ladder_points(view.outcome, view.spec, content.until)
    return content


def report_points(progress: Progress, when: int) -> list[Metric]:
    """Return a point of each metric for one report, `LAST_METRIC` last."""
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
        LAST_METRIC: progress.seconds,
    }
    return [Metric(key, value, when, report.step) for key, value in values.items()]


SELECTION, TEST = "ladder", "test"
"""Prefixes of the names of metrics on the selection and on the test sequences."""

SUMMARY = ("length_score", "solve_length", "solve_length_in_phase", "share_kept")


def ladder_points(outcome: Outcome, spec: TrialSpec | None, when: int) -> list[Metric]:
    """Return the metrics of a trial's length results, and the summary of its test results."""
    points = []
    longest = spec.ladder.lengths[-1] if spec else 0
    for prefix, results in ((SELECTION, outcome.ladder), (TEST, outcome.test)):
        points += by_length(f"{prefix}_accuracy", results, when)
        points += [Metric(f"{prefix}_loss", result.loss, when, result.length) for result in results]
        points += length_by_length(f"{prefix}_accuracy", results, longest, when)
        for name in ("in_phase", "worst_phase"):
            measured = [
                (result.length, getattr(result, name)) for result in results if result.by_phase
            ]
            points += [
                Metric(f"{prefix}_{name}", accuracy, when, length)
                for length, accuracy in measured
                if accuracy is not None
            ]
    if outcome.test and spec is not None:
        values = summary(outcome.test, spec)
        points += [Metric(key, value, when, 0) for key, value in values.items()]
    return points


def by_length(key: str, results: Sequence[LengthResult], when: int) -> list[Metric]:
    """Return the accuracy as one metric whose step is the length."""
    return [Metric(key, result.accuracy, when, result.length) for result in results]


def length_by_length(
    key: str, results: Sequence[LengthResult], longest: int, when: int, step: int = 0
) -> list[Metric]:
    """Return the accuracy as one metric for each length.

    longest: The longest length of the ladder, which determines the number of digits in the names.
    """
    digits = max(
        LENGTH_DIGITS, *(len(str(length)) for length in (longest, *(r.length for r in results)))
    )
    return [Metric(f"{key}_at_{r.length:0{digits}}", r.accuracy, when, step) for r in results]


def summary(test: Sequence[LengthResult], spec: TrialSpec) -> dict[str, float]:
    """Return the metrics named in `SUMMARY` that the trial has."""
    task = spec.run.task.build()
    values = (
        length_score(test, task),
        solve_length(test, task.solved),
        solve_length(test, task.solved, in_phase=True),
        spec.run.share_kept(),
    )
    named = zip(SUMMARY, values, strict=True)
    return {name: value for name, value in named if value is not None}
