"""What length does: to the accuracy, to the loss, and to the time a sequence takes."""

from __future__ import annotations

import math
import statistics as middle
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sabtune.compare import statistics
from sabtune.compare.comparison import Comparison, Group
from sabtune.compare.statistics import Estimate
from sabtune.report.data import ReportData
from sabtune.report.figures.marks import (
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
from sabtune.study.record import TrialRecord
from sabtune.tasks import Task
from sabtune.training.evaluation import LengthResult
from sabtune.wording import counted

MOST = 100
"""Curves in a panel; more can't be told apart."""

BESIDE = 0.04
"""Of the axis: what methods at one length are spread over."""

APART = 0.11
"""Of the axis: the least between two lengths that are both written there."""


@dataclass(frozen=True)
class Quantity:
    """What is drawn against length. mean: of a method's seeds, None where there is none."""

    axis: Axis
    of: Callable[[LengthResult], float]
    mean: Callable[[Comparison, Group, int], Estimate | None]


def accuracy(data: ReportData) -> Figure:
    """Accuracy by length: every method on fresh seeds, and every trial of the search."""
    quantity = Quantity(
        Axis(label="accuracy (%)", low=0, high=103),
        lambda result: 100 * result.accuracy,
        lambda found, group, length: _times(100, statistics.mean(found.accuracies(group, length))),
    )
    chance = Rule(y=100 * data.task.chance, label=f"chance, {data.task.chance:.1%}")
    return _against_length(data, "accuracy", quantity, [chance])


def loss(data: ReportData) -> Figure | None:
    """Loss by length, of tasks that measure it in a unit of their own."""
    if data.task.loss_unit == Task.loss_unit:
        return None
    axis = Axis(label=f"loss ({data.task.loss_unit})", log=True)
    quantity = Quantity(
        axis, lambda result: result.loss, lambda _, group, length: group.loss(length)
    )
    return _against_length(data, "loss", quantity, [])


def cost(data: ReportData) -> Figure | None:
    """The time that a sequence takes by its length, where it was recorded."""
    timed = [trial for trial in data.complete if trial.test and all(map(_ms, trial.test))]
    if not timed:
        return None
    if data.is_comparison:
        marks, words = _methods_cost(data, timed), "the median over each method's seeds"
    else:
        ranked = spread(data.by_score(timed), MOST)
        curves = [_curve(trial, _ms) for trial in ranked]
        marks = [Curves(curves=curves, label="complete trials")]
        if data.best in timed:
            marks.append(_line(data.best, _ms, f"the best, #{data.best.number}", BLACK))
        words = f"{MOST} of the complete trials" if len(timed) > MOST else "each complete trial"
    results = [result for trial in timed for result in trial.test]
    return Figure(
        name="cost",
        title="Cost against length",
        caption=f"Milliseconds that testing takes a sequence, by its length, of {words} "
        f"(n = {counted(len(timed), 'trial')}, "
        f"{counted(results[0].sequences, 'sequence')} a length), measured while "
        "other trials ran.",
        panels=[
            Panel(
                x=_axis({result.length for result in results}),
                y=Axis(label="ms a sequence (log scale)", log=True),
                marks=marks,
            )
        ],
    )


def _against_length(
    data: ReportData, name: str, quantity: Quantity, rules: Sequence[Rule]
) -> Figure:
    length = data.run.task.length
    rules = [*rules, Rule(x=length, label=f"training length, {length:,}", dash="dot")]
    panels, captions, scale = [], [], None
    found = data.confirmed
    if found:
        title = "On fresh seeds"
        lines = [_method(found, group, quantity) for group in found.groups]
        panels.append(
            Panel(title=title, x=_axis(found.lengths), y=quantity.axis, marks=[*lines, *rules])
        )
        seeds = sorted({group.n for group in found.groups})
        n = "–".join(str(end) for end in dict.fromkeys((seeds[0], seeds[-1])))
        captions.append(
            f"{title}: the mean and its {statistics.CONFIDENCE:.0%} bootstrap interval "
            f"(n = {n} {'seed' if seeds[-1] == 1 else 'seeds'} a method), methods side by side."
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


def _method(found: Comparison, group: Group, quantity: Quantity) -> Line:
    """Set a little beside the other methods, or intervals would hide each other."""
    number, of = found.groups.index(group), len(found.groups)
    width = math.log(found.lengths[-1] / found.lengths[0])
    aside = math.exp(width * BESIDE * (number - (of - 1) / 2) / of)
    means = {n: quantity.mean(found, group, n) for n in found.lengths}
    known = {n: mean for n, mean in means.items() if mean is not None}
    ends = [mean.interval for mean in known.values()]
    return Line(
        x=[aside * length for length in known],
        names=[f"length {length:,}" for length in known],
        y=[mean.value for mean in known.values()],
        low=[end.low if end else None for end in ends],
        high=[end.high if end else None for end in ends],
        label=f"{group.label} (n = {group.n})",
        colour=METHODS[number % len(METHODS)],
        symbol=SYMBOLS[number % len(SYMBOLS)],
        dash=DASHES[number // len(METHODS) % len(DASHES)],
    )


def _search(
    data: ReportData, quantity: Quantity, rules: Sequence[Rule]
) -> tuple[Panel, Scale, str]:
    """Every complete trial, and the best one with the seeds of its configuration."""
    tested = data.by_score(trial for trial in data.complete if trial.test)
    shown, best = spread(tested, MOST), data.best
    marks: list[Mark] = [Curves(curves=[_curve(trial, quantity.of) for trial in shown])]
    seeds = data.ranked[0].complete
    if len(seeds) > 1:
        marks.append(_range(seeds, quantity))
    marks.append(_line(best, quantity.of, f"the best, #{best.number}, one seed", BLACK))
    scores = [trial.score for trial in tested]
    lengths = {result.length for trial in tested for result in trial.test}
    title = "The search's trials" if data.confirmed else ""
    some = f"{len(shown)} of {len(tested)}" if len(shown) < len(tested) else f"n = {len(tested)}"
    return (
        Panel(title=title, x=_axis(lengths), y=quantity.axis, marks=[*marks, *rules]),
        Scale.of("score", scores),
        f"{title or 'Trials'}: complete ones ({some}) on the test sequences, each one seed, "
        "coloured by the score that chose, and the best, chosen by it.",
    )


def _range(seeds: Sequence[TrialRecord], quantity: Quantity) -> Line:
    by_length = {
        result.length: [
            quantity.of(found) for t in seeds for found in t.test if found.length == result.length
        ]
        for result in seeds[0].test
    }
    return Line(
        x=list(by_length),
        y=[middle.fmean(values) for values in by_length.values()],
        low=[min(values) for values in by_length.values()],
        high=[max(values) for values in by_length.values()],
        label=f"its configuration: mean and range of {len(seeds)} seeds",
        colour=VERMILION,
        dash="dash",
    )


def _curve(trial: TrialRecord, of: Callable[[LengthResult], float]) -> Curve:
    return Curve(
        x=[result.length for result in trial.test],
        y=[of(result) for result in trial.test],
        name=f"#{trial.number}, score {trial.score:.3f}",
        value=trial.score,
    )


def _line(trial: TrialRecord, of: Callable[[LengthResult], float], label: str, colour: str) -> Line:
    x, y = [result.length for result in trial.test], [of(result) for result in trial.test]
    return Line(x=x, y=y, label=label, colour=colour, symbol="circle", width=1.8)


def _methods_cost(data: ReportData, timed: Sequence[TrialRecord]) -> list[Mark]:
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
                colour=METHODS[number % len(METHODS)],
                symbol=SYMBOLS[number % len(SYMBOLS)],
            )
        )
    return marks


def _axis(lengths: Sequence[int] | set[int]) -> Axis:
    """On a logarithmic scale, with as many of the lengths written as there is room for."""
    ordered = sorted(lengths)
    width = math.log(ordered[-1] / ordered[0]) or 1.0
    kept = [ordered[0]]
    for length in ordered[1:-1]:
        room = min(math.log(length / kept[-1]), math.log(ordered[-1] / length))
        kept += [length] * (room >= APART * width)
    ticks = [(float(length), f"{length:,}") for length in dict.fromkeys([*kept, ordered[-1]])]
    return Axis(label="test length (log scale)", log=True, ticks=ticks)


def _times(factor: float, of: Estimate) -> Estimate:
    ends = of.interval
    scaled = statistics.Interval(factor * ends.low, factor * ends.high) if ends else None
    return Estimate(factor * of.value, scaled)


def _ms(result: LengthResult) -> float:
    return 1000 * (result.seconds or 0.0) / result.sequences
