"""Accuracy against cost: parameters, multiply-adds per step, and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sabtune.analysis import statistics
from sabtune.analysis.comparison import Comparison
from sabtune.analysis.cost import QUANTITIES, costs_of, group_table, study_table
from sabtune.analysis.table import ResultTable
from sabtune.reporting.data import ReportData
from sabtune.reporting.figures.marks import Axis, Figure, Line, Mark, Panel, Points, Rule
from sabtune.reporting.figures.palette import METHODS, SYMBOLS
from sabtune.schema import KIND
from sabtune.study.record import StudyRecord
from sabtune.study.trial_record import TrialRecord

NAME = "cost"

LOG_FACTOR = 10
"""The factor between the least and the largest cost from which its axis is logarithmic."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method in a panel: one color, one symbol, and an entry in the legend.

    points: The costs by name, the accuracy in %, its interval if there is one, and the hover text
    of each point.
    """

    label: str
    points: Sequence[Point]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point: its costs by name, its accuracy in % with its interval, and its hover text."""

    costs: dict[str, float | None]
    accuracy: float
    text: str
    interval: tuple[float, float] | None = None


def cost(data: ReportData) -> Figure | None:
    """Return the figure of accuracy against each cost, or None if no cost has two values."""
    chance = Rule(y=100 * data.task.chance, label=f"chance, {data.task.chance:.1%}")
    panels, captions = [], []
    if data.confirmed:
        length = data.confirmed.compared
        drawn = _panels("On fresh seeds", length, _compared(data.confirmed), chance)
        panels += drawn
        captions += [
            f"On fresh seeds: the mean of each method at length {length:,}, with its "
            f"{statistics.CONFIDENCE:.0%} bootstrap interval, against its mean cost."
        ] * bool(drawn)
    if not data.is_comparison:
        length = data.best.test[-1].length if data.best.test else 0
        methods = _searched(data, length)
        title = "The search's trials" if panels else ""
        drawn = _panels(title, length, methods, chance)
        panels += drawn
        count = sum(len(method.points) for method in methods)
        studies = " of this study and of its baselines" if data.baselines else ""
        captions += [
            f"{title or 'Trials'}: the complete ones{studies} (n = {count}) at length {length:,}."
        ] * bool(drawn)
    if not panels:
        return None
    captions.append(
        "Multiply-adds are those of the products of matrices in a step, forward, for one sequence "
        "of the training length. Seconds are those of a trial, evaluation included; trials that "
        "run next to each other slow each other down."
    )
    return Figure(
        name=NAME,
        title="Accuracy against cost",
        caption=" ".join(captions),
        panels=panels,
        columns=min(3, len(panels)),
        height=2.3,
    )


def tables(data: ReportData) -> list[ResultTable]:
    """Return the tables of the methods in the figure."""
    of_comparison = [group_table(data.confirmed)] if data.confirmed else []
    studies = [] if data.is_comparison else [data.study, *data.baselines]
    return of_comparison + ([study_table(studies)] if len(studies) > 1 else [])


def _compared(comparison: Comparison) -> list[Method]:
    methods = []
    for group in comparison.groups:
        accuracies = comparison.accuracies(group, comparison.compared)
        mean = statistics.mean(accuracies)
        ends = mean.interval
        point = Point(
            costs=costs_of(group),
            accuracy=100 * mean.value,
            text=group.name,
            interval=(100 * ends.low, 100 * ends.high) if ends else None,
        )
        methods.append(Method(label=f"{group.name} (n = {group.n})", points=[point]))
    return methods


def _searched(data: ReportData, length: int) -> list[Method]:
    """Return the methods of a search: its kinds of models, and each of its baselines."""
    kinds: dict[str, list[TrialRecord]] = {}
    for trial in data.by_score(data.complete):
        assert trial.run is not None
        kinds.setdefault(trial.run.to_dict()["trial"]["model"][KIND], []).append(trial)
    methods = [Method(label=kind, points=_points(own, length)) for kind, own in kinds.items()]
    for study in data.baselines:
        points = _points(_complete(study), length, f"{study.name} ")
        methods.append(Method(label=f"baseline {study.plan.baseline}", points=points))
    return [method for method in methods if method.points]


def _complete(study: StudyRecord) -> list[TrialRecord]:
    return [trial for trial in study.counted if trial.values and trial.run is not None]


def _points(trials: Sequence[TrialRecord], length: int, prefix: str = "") -> list[Point]:
    """Return the points of the trials that were tested at this length."""
    return [
        Point(
            costs={name: getattr(trial, name) for name in QUANTITIES},
            accuracy=100 * result.accuracy,
            text=f"{prefix}#{trial.number} {trial.run.model.legend() if trial.run else ''}",
        )
        for trial in trials
        for result in trial.test
        if result.length == length
    ]


def _panels(title: str, length: int, methods: Sequence[Method], chance: Rule) -> list[Panel]:
    """Return a panel for each cost that has at least two values."""
    panels = []
    for name, words in QUANTITIES.items():
        costs = {c for method in methods for point in method.points if (c := point.costs[name])}
        if len(costs) < 2:
            continue
        log = max(costs) > LOG_FACTOR * min(costs)
        marks = [_mark(i, method, name) for i, method in enumerate(methods)]
        panels.append(
            Panel(
                title=title,
                x=Axis(label=words + (" (log scale)" if log else ""), log=log),
                y=Axis(label=f"accuracy at {length:,} (%)", low=0, high=103),
                marks=[*marks, chance],
            )
        )
    return panels


def _mark(number: int, method: Method, name: str) -> Mark:
    """Return the points of a method against one cost; a single mean has its interval."""
    color, symbol = METHODS[number % len(METHODS)], SYMBOLS[number % len(SYMBOLS)]
    filled = number < len(METHODS)
    points = [(cost, point) for point in method.points if (cost := point.costs[name])]
    x, y = [cost for cost, _ in points], [point.accuracy for _, point in points]
    names = [point.text for _, point in points]
    intervals = [point.interval for _, point in points]
    if points and all(interval is not None for interval in intervals):
        return Line(
            x=x,
            y=y,
            low=[interval[0] if interval else None for interval in intervals],
            high=[interval[1] if interval else None for interval in intervals],
            label=method.label,
            color=color,
            symbol=symbol,
            width=0.0,
            names=names,
            rank=number,
        )
    return Points(
        x=x, y=y, names=names, label=method.label, color=color, symbol=symbol, filled=filled
    )
