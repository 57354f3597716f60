"""Accuracy and cost of methods: parameters, multiply-adds and seconds, each next to the accuracy.

A method is a group of a comparison on fresh seeds, or the best configuration of a study.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optuna.trial import TrialState

from sabtune.analysis.comparison import Comparison, Group
from sabtune.analysis.table import ResultTable
from sabtune.study.names import COMPARISONS, kind, stored_names
from sabtune.study.record import StudyRecord
from sabtune.study.trial_record import TrialRecord

QUANTITIES = {
    "parameters": "parameters",
    "multiply_adds": "multiply-adds per step",
    "seconds": "seconds of a trial",
}
"""What each cost is called in tables and figures, by its name in a trial's record."""


def costs(trials: Iterable[TrialRecord]) -> dict[str, float | None]:
    """Return the mean of each cost over the complete trials that recorded it, or None."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    values = {name: [value for t in complete if (value := getattr(t, name))] for name in QUANTITIES}
    return {name: statistics.fmean(of) if of else None for name, of in values.items()}


def costs_of(group: Group) -> dict[str, float | None]:
    """Return the costs of a method of a comparison, by their names in `QUANTITIES`."""
    return {name: getattr(group, name) for name in QUANTITIES}


def baseline_studies(study: StudyRecord) -> list[StudyRecord]:
    """Return the studies of a study's baselines in its store, sorted by name.

    They are the studies NAME.BASELINE that `sabtune search --baseline` made.
    """
    if not study.is_stored or study.is_comparison:
        return []
    prefix = f"{study.name}."
    names = sorted(n for n in stored_names(study.store) if n.startswith(prefix))
    records = [StudyRecord.open(study.store, n) for n in names if kind(n) not in COMPARISONS]
    return [each for each in records if each.name == f"{prefix}{each.plan.baseline}"]


@dataclass(frozen=True, kw_only=True)
class MethodCost:
    """A method, what it costs, and its accuracies.

    name: What tables call it.

    count: The number of its trials or of its seeds.

    costs: The mean of each cost, by its name in `QUANTITIES`; None if it wasn't recorded.

    accuracies: The mean accuracy from 0 to 1, by length.
    """

    name: str
    count: int
    costs: dict[str, float | None]
    accuracies: dict[int, float]


def best_of(study: StudyRecord) -> MethodCost:
    """Return the best configuration of a study as a method."""
    if not study.ranked:
        name = f"{study.name}: no complete trial"
        return MethodCost(name=name, count=study.ended, costs=costs([]), accuracies={})
    best = study.ranked[0]
    run = best.best.run
    assert run is not None
    complete = [trial for trial in best.complete if trial.test]
    lengths = [result.length for result in best.best.test]
    return MethodCost(
        name=f"{study.name}: {run.model.legend()}",
        count=study.ended,
        costs=costs(complete),
        accuracies={
            length: statistics.fmean(
                result.accuracy for t in complete for result in t.test if result.length == length
            )
            for length in lengths
        },
    )


def study_table(studies: Sequence[StudyRecord]) -> ResultTable:
    """Return the table of the best configuration of each study: its cost and its accuracy.

    Accuracies are at the training length and at the longest length that was measured.
    """
    title = "The best configuration of each study: cost, and mean accuracy by length"
    return _table(title, "trials", [best_of(study) for study in studies])


def group_table(comparison: Comparison) -> ResultTable:
    """Return the table of the methods of a comparison: their costs and their accuracies."""
    ends = (comparison.lengths[0], comparison.compared)
    rows = [
        MethodCost(
            name=group.name,
            count=group.n,
            costs=costs_of(group),
            accuracies={n: float(comparison.accuracies(group, n).mean()) for n in ends},
        )
        for group in comparison.groups
    ]
    return _table("Cost, and mean accuracy on fresh seeds by length", "seeds", rows)


def _table(title: str, counted: str, rows: Sequence[MethodCost]) -> ResultTable:
    lengths = sorted({length for row in rows for length in row.accuracies})
    ends = list(dict.fromkeys([*lengths[:1], *lengths[-1:]]))
    names = [name for name in QUANTITIES if any(row.costs[name] for row in rows)]
    header = ["method", counted, *(QUANTITIES[name] for name in names)]
    header += [f"length {length:,}" for length in ends]
    body = []
    for row in rows:
        cells = [row.name, f"{row.count:,}", *(_number(row.costs[name]) for name in names)]
        cells += [_percent(row.accuracies.get(length)) for length in ends]
        body.append(tuple(cells))
    return ResultTable(title, tuple(header), tuple(body))


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _percent(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{accuracy:.1%}"
