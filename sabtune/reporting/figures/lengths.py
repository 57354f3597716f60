"""Accuracy, loss and evaluation time against length."""

from __future__ import annotations

import math
import statistics as middle
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sabtune.analysis import statistics
from sabtune.analysis.comparison import Comparison, Group
from sabtune.analysis.statistics import Estimate
from sabtune.reporting.data import ReportData
from sabtune.reporting.figures.marks import (
    BLACK,
    DASHES,
    METHODS,
    SYMBOLS,
    VERMILION,
    Axis,
    Curve,
    Curves,
    Figure,
    Line,
    Mark,
    Panel,
    Rule,
    Scale,
    spread,
)
from sabtune.study.trial_record import TrialRecord
from sabtune.tasks import Task
from sabtune.training.evaluation import LengthResult
from sabtune.wording import counted

MAX_CURVES = 100
"""Maximum number of curves in a panel; more are hard to distinguish."""

METHOD_SPREAD = 0.04
"""Fraction of the axis over which the points of all methods at one length are spread."""

TICK_DISTANCE = 0.11
"""Minimum distance between two labeled lengths, as a fraction of the axis."""


@dataclass(frozen=True)
class Quantity:
    """A quantity that is drawn against length.

    value: Its value in a length result.

    mean: Its mean over the seeds of a method at a length, or None.
    """

    axis: Axis
    value: Callable[[LengthResult], float]
    mean: Callable[[Comparison, Group, int], Estimate | None]


def accuracy(data: ReportData) -> Figure:
    """Return the figure of accuracy by length, for methods on fresh seeds and for the search."""
    quantity = Quantity(
        Axis(label="accuracy (%)", low=0, high=103),
        lambda result: 100 * result.accuracy,
        lambda comparison, group, length: _scaled(
            100, statistics.mean(comparison.accuracies(group, length))
        ),
    )
    chance = Rule(y=100 * data.task.chance, label=f"chance, {data.task.chance:.1%}")
    return _against_length(data, "accuracy", quantity, [chance])


def loss(data: ReportData) -> Figure | None:
    """Return the figure of loss by length, or None if the task has no loss unit of its own."""
    if data.task.loss_unit == Task.loss_unit:
        return None
    axis = Axis(label=f"loss ({data.task.loss_unit})", log=True)
    quantity = Quantity(
        axis, lambda result: result.loss, lambda _, group, length: group.loss(length)
    )
    return _against_length(data, "loss", quantity, [])


def cost(data: ReportData) -> Figure | None:
    """Return the figure of evaluation time per sequence, or None if no trial recorded it."""
    timed = [trial for trial in data.complete if trial.test and all(map(_ms, trial.test))]
    if not timed:
        return None
    if data.is_comparison:
        marks, subject = _methods_cost(data, timed), "the median over each method's seeds"
    else:
        ranked = spread(data.by_score(timed), MAX_CURVES)
        curves = [_curve(trial, _ms) for trial in ranked]
        marks = [Curves(curves=curves, label="complete trials")]
        if data.best in timed:
            marks.append(_line(data.best, _ms, f"the best, #{data.best.number}", BLACK))
        subject = (
            f"{MAX_CURVES} of the complete trials"
            if len(timed) > MAX_CURVES
            else "each complete trial"
        )
    results = [result for trial in timed for result in trial.test]
    return Figure(
        name="cost",
        title="Cost against length",
        caption=f"Evaluation time per sequence in milliseconds, by its length: {subject} "
        f"(n = {counted(len(timed), 'trial')}, "
        f"{counted(results[0].sequences, 'sequence')} per length), measured while "
        "other trials ran.",
        panels=[
            Panel(
                x=_axis({result.length for result in results}),
                y=Axis(label="ms per sequence (log scale)", log=True),
                marks=marks,
            )
        ],
    )


def _against_length(
    data: ReportData, name: str, quantity: Quantity, rules: Sequence[Rule]
) -> Figure:
    """Return the figure of a quantity: a panel of methods, a panel of trials, or both."""
    length = data.run.task.length
    rules = [*rules, Rule(x=length, label=f"training length, {length:,}", dash="dot")]
    panels, captions, scale = [], [], None
    confirmed = data.confirmed
    if confirmed:
        title = "On fresh seeds"
        lines = [_method(confirmed, group, quantity) for group in confirmed.groups]
        panels.append(
            Panel(title=title, x=_axis(confirmed.lengths), y=quantity.axis, marks=[*lines, *rules])
        )
        seeds = sorted({group.n for group in confirmed.groups})
        n = "–".join(str(end) for end in dict.fromkeys((seeds[0], seeds[-1])))
        captions.append(
            f"{title}: the mean and its {statistics.CONFIDENCE:.0%} bootstrap interval "
            f"(n = {n} {'seed' if seeds[-1] == 1 else 'seeds'} a method), side by side."
        )
    if not data.is_comparison:
        panel, scale, caption = _search(data, quantity, rules)
        panels.append(panel)
        captions.append(caption)
    return Figure(
        name=name,
        title=f"{name.capitalize()} against length",
        caption=" ".join(captions),
        panels=panels,
        scale=scale,
    )


def _method(comparison: Comparison, group: Group, quantity: Quantity) -> Line:
    """Return a method's line, shifted sideways so that intervals do not hide each other."""
    number, count = comparison.groups.index(group), len(comparison.groups)
    width = math.log(comparison.lengths[-1] / comparison.lengths[0])
    shift = math.exp(width * METHOD_SPREAD * (number - (count - 1) / 2) / count)
    optional = {n: quantity.mean(comparison, group, n) for n in comparison.lengths}
    means = {n: mean for n, mean in optional.items() if mean is not None}
    ends = [mean.interval for mean in means.values()]
    return Line(
        x=[shift * length for length in means],
        names=[f"length {length:,}" for length in means],
        y=[mean.value for mean in means.values()],
        low=[end.low if end else None for end in ends],
        high=[end.high if end else None for end in ends],
        label=f"{group.label} (n = {group.n})",
        color=METHODS[number % len(METHODS)],
        symbol=SYMBOLS[number % len(SYMBOLS)],
        dash=DASHES[number // len(METHODS) % len(DASHES)],
    )


def _search(
    data: ReportData, quantity: Quantity, rules: Sequence[Rule]
) -> tuple[Panel, Scale, str]:
    """Return the panel of all complete trials and the best one, its scale, and its caption."""
    tested = data.by_score(trial for trial in data.complete if trial.test)
    shown, best = spread(tested, MAX_CURVES), data.best
    marks: list[Mark] = [Curves(curves=[_curve(trial, quantity.value) for trial in shown])]
    seeds = data.ranked[0].complete
    if len(seeds) > 1:
        marks.append(_range(seeds, quantity))
    marks.append(_line(best, quantity.value, f"the best, #{best.number}, one seed", BLACK))
    scores = [trial.score for trial in tested]
    lengths = {result.length for trial in tested for result in trial.test}
    title = "The search's trials" if data.confirmed else ""
    some = f"{len(shown)} of {len(tested)}" if len(shown) < len(tested) else f"n = {len(tested)}"
    return (
        Panel(title=title, x=_axis(lengths), y=quantity.axis, marks=[*marks, *rules]),
        Scale.of("score", scores),
        f"{title or 'Trials'}: complete ones ({some}) on the test sequences, each one seed, "
        "colored by search score, and the best one by that score.",
    )


def _range(seeds: Sequence[TrialRecord], quantity: Quantity) -> Line:
    """Return the mean and range over the seeds of one configuration."""
    by_length = {
        result.length: [
            quantity.value(other)
            for trial in seeds
            for other in trial.test
            if other.length == result.length
        ]
        for result in seeds[0].test
    }
    return Line(
        x=list(by_length),
        y=[middle.fmean(values) for values in by_length.values()],
        low=[min(values) for values in by_length.values()],
        high=[max(values) for values in by_length.values()],
        label=f"its configuration: mean and range of {len(seeds)} seeds",
        color=VERMILION,
        dash="dash",
    )


def _curve(trial: TrialRecord, value: Callable[[LengthResult], float]) -> Curve:
    return Curve(
        x=[result.length for result in trial.test],
        y=[value(result) for result in trial.test],
        name=f"#{trial.number}, score {trial.score:.3f}",
        value=trial.score,
    )


def _line(
    trial: TrialRecord, value: Callable[[LengthResult], float], label: str, color: str
) -> Line:
    x, y = [result.length for result in trial.test], [value(result) for result in trial.test]
    return Line(x=x, y=y, label=label, color=color, symbol="circle", width=1.8)


def _methods_cost(data: ReportData, timed: Sequence[TrialRecord]) -> list[Mark]:
    """Return the median evaluation time of each method."""
    marks: list[Mark] = []
    for number, label in enumerate(dict.fromkeys(trial.label for trial in timed)):
        own = [trial for trial in timed if trial.label == label]
        lengths = [result.length for result in own[0].test]
        each = [[_ms(r) for t in own for r in t.test if r.length == n] for n in lengths]
        marks.append(
            Line(
                x=lengths,
                y=[middle.median(ms) for ms in each],
                label=f"{label} (n = {len(own)})",
                color=METHODS[number % len(METHODS)],
                symbol=SYMBOLS[number % len(SYMBOLS)],
            )
        )
    return marks


def _axis(lengths: Sequence[int] | set[int]) -> Axis:
    """Return a logarithmic axis with as many labeled lengths as there is room for."""
    ordered = sorted(lengths)
    width = math.log(ordered[-1] / ordered[0]) or 1.0
    labeled = [ordered[0]]
    for length in ordered[1:-1]:
        room = min(math.log(length / labeled[-1]), math.log(ordered[-1] / length))
        labeled += [length] * (room >= TICK_DISTANCE * width)
    ticks = [(float(length), f"{length:,}") for length in dict.fromkeys([*labeled, ordered[-1]])]
    return Axis(label="test length (log scale)", log=True, ticks=ticks)


def _scaled(factor: float, estimate: Estimate) -> Estimate:
    ends = estimate.interval
    interval = statistics.Interval(factor * ends.low, factor * ends.high) if ends else None
    return Estimate(factor * estimate.value, interval)


def _ms(result: LengthResult) -> float:
    """Return the evaluation time per sequence in ms, or 0 if it was not recorded."""
    return 1000 * (result.seconds or 0.0) / result.sequences
