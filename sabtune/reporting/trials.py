"""The table of all trials of a study: their configurations and results."""

from __future__ import annotations

from sabtune.analysis.table import csv_text
from sabtune.reporting.data import ReportData, state
from sabtune.schema import flatten
from sabtune.study.trial_record import TrialRecord
from sabtune.training.evaluation import LengthResult

Cells = dict[str, object]

OUTCOME = (
    "trial", "configuration", "label", "state", "run_again", "reason", "score", "updates",
    "seconds", "peak_memory_mib", "parameters", "multiply_adds_per_step",
)  # fmt: skip
"""The columns that say how a trial ended."""


def csv_page(data: ReportData) -> str:
    """Return a CSV with one row for each trial that has started, with all digits of numbers.

    The columns are, in this order:

    - how the trial ended
    - its whole configuration, with the names that MLflow uses
    - `param.NAME` for each parameter from the search space, in the format of a study's `points`
    - `ladder_…`: the accuracies (as fractions) and losses by length on the selection sequences
    - `test_…`: the same on the test sequences

    Text that a spreadsheet would interpret as a formula gets a leading apostrophe.
    """
    groups = [_groups(trial) for trial in data.trials]
    names = dict.fromkeys(
        name for group in zip(*groups, strict=True) for cells in group for name in cells
    )
    return csv_text(map(row, data.trials), names)


def row(trial: TrialRecord) -> Cells:
    """Return the row of a trial: its cells by the name of their column."""
    return {name: value for cells in _groups(trial) for name, value in cells.items()}


def _groups(trial: TrialRecord) -> tuple[Cells, ...]:
    """Return the cells of a trial in groups, whose columns stay together."""
    return _outcome(trial), _configuration(trial), _parameters(trial), _results(trial)


def _outcome(trial: TrialRecord) -> Cells:
    values = (
        trial.number,
        trial.configuration,
        trial.label,
        state(trial),
        trial.run_again,
        trial.reason,
        trial.score,
        max(trial.scores, default=0),
        trial.seconds,
        trial.memory,
        trial.parameters,
        trial.multiply_adds,
    )
    return dict(zip(OUTCOME, values, strict=True))


def _configuration(trial: TrialRecord) -> Cells:
    if trial.run is None:
        return {}
    share = trial.run.share_kept()
    return flatten(trial.run.to_dict()) | ({} if share is None else {"share_kept": share})


def _parameters(trial: TrialRecord) -> Cells:
    return {f"param.{name}": value for name, value in trial.params.items()}


def _results(trial: TrialRecord) -> Cells:
    return _by_length("ladder", trial.ladder) | _by_length("test", trial.test)


def _by_length(prefix: str, results: list[LengthResult]) -> Cells:
    accuracies: Cells = {
        f"{prefix}_accuracy_at_{result.length}": result.accuracy for result in results
    }
    phases: Cells = {}
    for result in results:
        if result.by_phase:
            phases[f"{prefix}_in_phase_at_{result.length}"] = result.in_phase
            phases[f"{prefix}_worst_phase_at_{result.length}"] = result.worst_phase
    return (
        accuracies
        | phases
        | {f"{prefix}_loss_at_{result.length}": result.loss for result in results}
    )
