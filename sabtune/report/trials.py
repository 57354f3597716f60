"""Every trial of a study as a table to compute on: what it trained, and what came of it."""

from __future__ import annotations

from sabtune.compare.table import csv_text
from sabtune.report.data import ReportData, state
from sabtune.schema import flatten
from sabtune.study.record import TrialRecord
from sabtune.training.evaluation import LengthResult

Cells = dict[str, object]


def csv_page(data: ReportData) -> str:
    """One row for each trial that has begun, every number in full.

    Its columns: how it ended; its whole configuration, by the names that MLflow has, too; as
    `param.NAME` what the space drew, as `points` of a study take it; accuracies, as fractions, and
    losses by length, `ladder_` on the sequences that chose, `test_` on those that didn't. A text
    that begins like a formula has an apostrophe before it.
    """
    rows = [(_fate(of), _trained(of), _drawn(of), _measured(of)) for of in data.trials]
    names = dict.fromkeys(name for part in zip(*rows, strict=True) for of in part for name in of)
    return csv_text([{n: v for part in row for n, v in part.items()} for row in rows], names)


def _fate(trial: TrialRecord) -> Cells:
    return {
        "trial": trial.number,
        "configuration": trial.configuration,
        "label": trial.label,
        "state": state(trial),
        "run_again": trial.run_again,
        "reason": trial.reason,
        "score": trial.score,
        "updates": max(trial.scores, default=0),
        "seconds": trial.seconds,
        "peak_memory_mib": trial.memory,
    }


def _trained(trial: TrialRecord) -> Cells:
    if trial.run is None:
        return {}
    share = trial.run.share_kept()
    return flatten(trial.run.to_dict()) | ({} if share is None else {"share_kept": share})


def _drawn(trial: TrialRecord) -> Cells:
    return {f"param.{name}": value for name, value in trial.params.items()}


def _measured(trial: TrialRecord) -> Cells:
    return _by_length("ladder", trial.ladder) | _by_length("test", trial.test)


def _by_length(on: str, results: list[LengthResult]) -> Cells:
    accuracies: Cells = {f"{on}_accuracy_at_{result.length}": result.accuracy for result in results}
    phases: Cells = {}
    for result in results:
        if result.by_phase:
            phases[f"{on}_in_phase_at_{result.length}"] = result.in_phase
            phases[f"{on}_worst_phase_at_{result.length}"] = result.worst_phase
    return (
        accuracies | phases | {f"{on}_loss_at_{result.length}": result.loss for result in results}
    )
