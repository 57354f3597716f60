"""The content of a trial's run in MLflow.

A run has these metrics. Their step is the number of updates unless noted otherwise. MLflow draws
the metrics whose names have the same part before "/" in a section of their own.

    loss, accuracy, gradient_norm, skipped_updates, updates_per_second, score, and the current
    value of scheduled parameters, such as k_top
    score_at_schedule_end    the score of the first report with the final k_top, if k_top changes
    seconds            duration of the trial so far, over all attempts
    ladder/accuracy, ladder/loss    on the selection sequences; the step is the length
    test/accuracy, test/loss        on the test sequences; the step is the length
    ladder/in_phase, test/in_phase, ladder/worst_phase, test/worst_phase
                       accuracy in phase and in the worst phase; the step is the length
    test/accuracy_at_0200 …
                       accuracy at a single length, so that runs can be sorted by it; the step is 0
    length_score, solve_length, solve_length_in_phase
                       on the test sequences, once training is complete; the step is 0
    share_kept         at the training length, once the trial has ended; the step is 0
    peak_memory_mib    peak memory, once the trial has ended
    parameters, multiply_adds_per_step
                       the cost of the model, once the trial has ended
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlflow.entities import Metric
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from sabtune.config import RunConfig
from sabtune.escaping import markdown
from sabtune.models import SAB
from sabtune.schedule import Constant
from sabtune.schema import KIND, flatten
from sabtune.study.events import Origin, Outcome, TrialView
from sabtune.study.states import MLFLOW_STATUS, State
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

FORMER_PREFIX = "trial."
"""The prefix that the names of a model's and of the training's parameters had in version 0.1."""

PRUNED: State = "PRUNED"

STATE_WORDS: Mapping[State, str] = {"COMPLETE": "Complete", "PRUNED": "Pruned", "FAIL": "Failed"}
"""The first words of a run's description."""

RUNNING = "RUNNING"
"""The state of a trial that runs or waits to be resumed."""

LAST_METRIC = "seconds"
"""The metric of a report that is logged last. If it has a point, so do all others."""

SCHEDULE_END = "score_at_schedule_end"
"""The metric of the score at the end of the schedule. MLflow draws its only point as a dot."""

PEAK_MEMORY = "peak_memory_mib"

PARAMETERS, MULTIPLY_ADDS = "parameters", "multiply_adds_per_step"
"""The metrics of the model's cost, which trials of version 0.1 lack."""

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
        The name of a pruned trial says so, as in "#17 pruned k_top=5 …", because MLflow has no
        status for it.
        """
        assert self.spec is not None
        number, first = self.spec.number, self.spec.configuration
        words = [f"#{number}"]
        words += ["pruned"] * (self.state == PRUNED)
        words += [f"(as #{first})"] * (first != number)
        words += [self.spec.run.model.label()]
        words += [f"seed {self.spec.run.seed}"] * (first != number)
        return " ".join(words)

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

    def note(self) -> str:
        """Return the description of the run: the results of the trial, or why it ended, or ""."""
        if self.outcome is None:
            return ""
        if self.outcome.state != "COMPLETE" or self.spec is None:
            words = STATE_WORDS[self.outcome.state]
            return f"{words}: {markdown(self.outcome.reason)}" if self.outcome.reason else words
        values, longest = summary(self.outcome.test, self.spec), self.outcome.test[-1:]
        parts = [f"length score {values[LENGTH_SCORE]:.3f}"] if LENGTH_SCORE in values else []
        parts += [f"{result.accuracy:.1%} at length {result.length:,}" for result in longest]
        if SHARE_KEPT in values:
            parts.append(f"keeps {values[SHARE_KEPT]:.1%} of the memories at the training length")
        return f"{STATE_WORDS['COMPLETE']}: {'; '.join(parts) or 'not tested'}."

    def params(self) -> dict[str, str]:
        """Return the configuration as params. Nested names have dots, as in "model.k_top"."""
        if self.spec is None:
            return {}
        values = flatten(self.spec.run.to_dict())
        return {
            key.removeprefix(FORMER_PREFIX): str(value)[:MAX_PARAM_VAL_LENGTH]
            for key, value in values.items()
        }


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
    end = schedule_end(view.spec.run)
    for progress in view.history:
        content.until = since + int(progress.seconds * 1000)
        content.points += report_points(progress, end, content.until)
    if view.outcome is not None:
        content.points += ladder_points(view.outcome, view.spec, content.until)
        for progress in view.history[-1:]:
            content.points += cost_points(progress, content.until)
    return content


def report_points(progress: Progress, schedule_end: int | None, when: int) -> list[Metric]:
    """Return a point of each metric for one report, `LAST_METRIC` last.

    schedule_end: The result of `schedule_end` for the trial.
    """
    report = progress.report
    values = {
        "loss": report.loss,
        "accuracy": report.accuracy,
        "gradient_norm": report.gradient_norm,
        "skipped_updates": report.skipped,
        "updates_per_second": report.updates_per_second,
        **report.in_force,
        "score": progress.score,
    }
    if report.step == schedule_end:
        values[SCHEDULE_END] = progress.score
    values[LAST_METRIC] = progress.seconds
    return [Metric(key, value, when, report.step) for key, value in values.items()]


def schedule_end(run: RunConfig) -> int | None:
    """Return the number of updates at the first report with the final k_top.

    None if k_top doesn't change, or if no report has the final k_top.
    """
    model, train = run.model, run.train
    if not isinstance(model, SAB.Config) or isinstance(model.schedule, Constant):
        return None
    dense = model.dense(run.task.build().remembered_steps)
    steps = [*range(0, train.updates, train.report_every), train.updates]
    final = [
        model.schedule.k_top(step / train.updates, model.k_top, dense) == model.k_top
        for step in steps
    ]
    changing = [i for i, is_final in enumerate(final) if not is_final]
    return steps[changing[-1] + 1] if changing and changing[-1] + 1 < len(steps) else None


def cost_points(progress: Progress, when: int) -> list[Metric]:
    """Return the peak memory and the cost of the model of a trial that ended with this progress."""
    values = {
        PEAK_MEMORY: progress.memory,
        PARAMETERS: progress.parameters,
        MULTIPLY_ADDS: progress.multiply_adds,
    }
    step = progress.report.step
    return [Metric(key, value, when, step) for key, value in values.items() if value is not None]


SELECTION, TEST = "ladder", "test"
"""The sections of the metrics on the selection sequences and on the test sequences."""

ACCURACY = f"{TEST}/accuracy"
"""The metric of the accuracy by length."""

SUMMARY = LENGTH_SCORE, SOLVE_LENGTH, IN_PHASE, SHARE_KEPT = (
    "length_score",
    "solve_length",
    "solve_length_in_phase",
    "share_kept",
)
"""The metrics that summarize a trial's test results."""


def ladder_points(outcome: Outcome, spec: TrialSpec | None, when: int) -> list[Metric]:
    """Return the metrics of a trial's length results, and the summary of its test results."""
    points = []
    for section, results in ((SELECTION, outcome.ladder), (TEST, outcome.test)):
        points += by_length(f"{section}/accuracy", results, when)
        points += [
            Metric(f"{section}/loss", result.loss, when, result.length) for result in results
        ]
        for name in ("in_phase", "worst_phase"):
            measured = [
                (result.length, getattr(result, name)) for result in results if result.by_phase
            ]
            points += [
                Metric(f"{section}/{name}", accuracy, when, length)
                for length, accuracy in measured
                if accuracy is not None
            ]
    longest = spec.ladder.lengths[-1] if spec else 0
    points += length_by_length(ACCURACY, outcome.test, longest, when)
    if spec is not None:
        values = summary(outcome.test, spec)
        points += [Metric(key, value, when, 0) for key, value in values.items()]
    return points


def by_length(key: str, results: Sequence[LengthResult], when: int) -> list[Metric]:
    """Return the accuracy as one metric whose step is the length."""
    return [Metric(key, result.accuracy, when, result.length) for result in results]


def at_length(key: str, length: int, longest: int) -> str:
    """Return the name of the metric of the accuracy at one length, such as "test/accuracy_at_0200".

    longest: The longest length of the ladder, which determines the number of digits in the names.
    """
    return f"{key}_at_{length:0{max(LENGTH_DIGITS, len(str(longest)))}}"


def length_by_length(
    key: str, results: Sequence[LengthResult], longest: int, when: int, step: int = 0
) -> list[Metric]:
    """Return the accuracy as one metric for each length; see `at_length`."""
    longest = max(longest, *(result.length for result in results), 0)
    return [
        Metric(at_length(key, result.length, longest), result.accuracy, when, step)
        for result in results
    ]


def summary(test: Sequence[LengthResult], spec: TrialSpec) -> dict[str, float]:
    """Return the metrics named in `SUMMARY` that the trial has.

    Values are rounded to 6 digits, because MLflow's table shows all digits.

    test: The test results; () before the end of training, when only the share kept is known.
    """
    task = spec.run.task.build()
    values: dict[str, float | None] = {SHARE_KEPT: spec.run.share_kept()}
    if test:
        values[LENGTH_SCORE] = length_score(test, task)
        values[SOLVE_LENGTH] = solve_length(test, task.solved)
    if any(result.by_phase for result in test):
        values[IN_PHASE] = solve_length(test, task.solved, in_phase=True)
    return {name: float(f"{value:.6g}") for name, value in values.items() if value is not None}
