"""Accuracy and loss against length."""

from __future__ import annotations

import math
import statistics as middle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from sabtune.analysis import statistics
from sabtune.analysis.comparison import Comparison, Group
from sabtune.analysis.statistics import Estimate
from sabtune.reporting.data import ReportData
from sabtune.reporting.figures.marks import (
    LAST,
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
from sabtune.reporting.figures.palette import BLACK, DASHES, METHODS, SYMBOLS
from sabtune.study.configurations import Configuration
from sabtune.study.names import kind
from sabtune.study.trial_record import TrialRecord
from sabtune.tasks import Task
from sabtune.training.evaluation import LengthResult
from sabtune.wording import counted

BEST = 5
"""Number of the best configurations that have a line and an entry in the legend."""

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


@dataclass(frozen=True, kw_only=True)
class Coloring:
    """The color scale of a figure: the share of memories kept, or the score of a trial.

    scale: None if the lines of methods have their own colors and there are no trials.

    by_share: Whether it is the share of memories kept.
    """

    scale: Scale | None
    by_share: bool

    @classmethod
    def of(cls, data: ReportData, trials: Sequence[TrialRecord], groups: Sequence[Group]) -> Self:
        """Return the coloring of a figure of these trials and methods.

        They are colored by the share of memories kept if at least two shares differ. An ablation is
        not, because most of its methods keep the same share.
        """
        shares = [group.share for group in groups] + [_share(trial) for trial in trials]
        known = {100 * share for share in shares if share is not None}
        if len(known) > 1 and kind(data.name) != "ablate":
            label = "share of memories kept (%)"
            return cls(scale=Scale.of_percentages(label, list(known)), by_share=True)
        scores = [trial.score for trial in trials]
        return cls(scale=Scale.of("score", scores) if scores else None, by_share=False)

    @property
    def words(self) -> str:
        """What the colors show."""
        return "share of memories kept" if self.by_share else "search score"

    def value(self, trial: TrialRecord) -> float | None:
        """Return the value of a trial on the scale, or None if it has none."""
        share = _share(trial)
        if self.by_share:
            return None if share is None else 100 * share
        return trial.score

    def color(self, value: float | None) -> str:
        """Return the color of a line with this value; black if it has none."""
        return BLACK if value is None or self.scale is None else self.scale.color(value)


def _share(trial: TrialRecord) -> float | None:
    return trial.run.share_kept() if trial.run else None


def _against_length(
    data: ReportData, name: str, quantity: Quantity, rules: Sequence[Rule]
) -> Figure:
    """Return the figure of a quantity: a panel of methods, a panel of trials, or both."""
    length = data.run.task.length
    rules = [*rules, Rule(x=length, label=f"training length, {length:,}", dash="dot")]
    confirmed = data.confirmed
    trials = [] if data.is_comparison else [trial for trial in data.complete if trial.test]
    coloring = Coloring.of(data, trials, confirmed.groups if confirmed else [])
    panels, captions = [], []
    if confirmed:
        title = "On fresh seeds"
        lines = [_method(confirmed, group, quantity, coloring) for group in confirmed.groups]
        panels.append(
            Panel(
                title=title,
                x=length_axis(confirmed.lengths),
                y=quantity.axis,
                marks=[*lines, *rules],
            )
        )
        seeds = sorted({group.n for group in confirmed.groups})
        n = "–".join(str(end) for end in dict.fromkeys((seeds[0], seeds[-1])))
        captions.append(
            f"{title}: the mean and its {statistics.CONFIDENCE:.0%} bootstrap interval "
            f"(n = {n} {'seed' if seeds[-1] == 1 else 'seeds'} a method), side by side."
        )
    if trials:
        panel, caption = _search(data, trials, quantity, rules, coloring)
        panels.append(panel)
        captions.append(caption)
    if coloring.by_share:
        captions.append(
            "Colors: the share of the memories that a step keeps at the end of a training sequence"
            + (
                "; models without memories have no color."
                if _has_unknown(trials, confirmed)
                else "."
            )
        )
    elif trials:
        captions.append(f"Colors: {coloring.words}.")
    return Figure(
        name=name,
        title=f"{name.capitalize()} against length",
        caption=" ".join(captions),
        panels=panels,
        scale=coloring.scale,
        height=2.4,
    )


def _has_unknown(trials: Sequence[TrialRecord], confirmed: Comparison | None) -> bool:
    """Return whether a trial or a method has no share of memories kept."""
    groups = confirmed.groups if confirmed else []
    return None in [*map(_share, trials), *(group.share for group in groups)]


def _method(comparison: Comparison, group: Group, quantity: Quantity, coloring: Coloring) -> Line:
    """Return a method's line, shifted sideways so that intervals do not hide each other."""
    number, count = comparison.groups.index(group), len(comparison.groups)
    width = math.log(comparison.lengths[-1] / comparison.lengths[0])
    shift = math.exp(width * METHOD_SPREAD * (number - (count - 1) / 2) / count)
    optional = {n: quantity.mean(comparison, group, n) for n in comparison.lengths}
    means = {n: mean for n, mean in optional.items() if mean is not None}
    ends = [mean.interval for mean in means.values()]
    color, dash = METHODS[number % len(METHODS)], DASHES[number // len(METHODS) % len(DASHES)]
    if coloring.by_share:
        color = coloring.color(None if group.share is None else 100 * group.share)
        dash = "dash" if group.share is None else "solid"
    return Line(
        x=[shift * length for length in means],
        names=[f"length {length:,}" for length in means],
        y=[mean.value for mean in means.values()],
        low=[end.low if end else None for end in ends],
        high=[end.high if end else None for end in ends],
        label=f"{group.name} (n = {group.n})",
        color=color,
        symbol=SYMBOLS[number % len(SYMBOLS)],
        dash=dash,
        width=1.8,
        rank=number,
    )


def _search(
    data: ReportData,
    trials: Sequence[TrialRecord],
    quantity: Quantity,
    rules: Sequence[Rule],
    coloring: Coloring,
) -> tuple[Panel, str]:
    """Return the panel of the complete trials and the best configurations, and its caption.

    Next to a confirmation, only the best configuration of the search has a line of its own.
    """
    tested = data.by_score(trials)
    shown = spread(tested, MAX_CURVES)
    curves = [_curve(trial, quantity.value, coloring) for trial in shown]
    ranked = [each for each in data.ranked if any(trial.test for trial in each.complete)]
    best = ranked[: 1 if data.confirmed else BEST]
    lines = [_line(i, each, quantity, coloring) for i, each in enumerate(best)]
    if data.confirmed:  # whose methods come first in the legend
        lines = [replace(line, rank=LAST - 1) for line in lines]
    lengths = {result.length for trial in tested for result in trial.test}
    title = "The search's trials" if data.confirmed else ""
    some = f"{len(shown)} of {len(tested)}" if len(shown) < len(tested) else f"n = {len(tested)}"
    thick = f"the {len(best)} best configurations" if len(best) > 1 else "the best configuration"
    several, whose = any(len(each.complete) > 1 for each in best), "their" if best[1:] else "its"
    marks: list[Mark] = [Curves(curves=curves), *reversed(lines), *rules]
    return (
        Panel(title=title, x=length_axis(lengths), y=quantity.axis, marks=marks),
        f"{title or 'Trials'}: complete ones ({some}) on the test sequences, each one seed (thin); "
        f"{thick} by search score"
        f"{f', with the mean and the range of {whose} seeds' * several} (with markers).",
    )


def _line(rank: int, configuration: Configuration, quantity: Quantity, coloring: Coloring) -> Line:
    """Return the line of a configuration: the mean and the range over its complete trials."""
    trials = [trial for trial in configuration.complete if trial.test]
    by_length = {
        result.length: [
            quantity.value(other)
            for trial in trials
            for other in trial.test
            if other.length == result.length
        ]
        for result in trials[0].test
    }
    several = len(trials) > 1
    model = trials[0].run.model if trials[0].run else None
    seeds = counted(len(trials), "seed") if several else "one seed"
    return Line(
        x=list(by_length),
        y=[middle.fmean(values) for values in by_length.values()],
        low=[min(values) for values in by_length.values()] if several else None,
        high=[max(values) for values in by_length.values()] if several else None,
        label=f"#{configuration.number} {model.legend() if model else ''}, {seeds}",
        color=coloring.color(coloring.value(trials[0])),
        symbol=SYMBOLS[rank % len(SYMBOLS)],
        width=1.8,
        rank=rank,
    )


def _curve(trial: TrialRecord, value: Callable[[LengthResult], float], coloring: Coloring) -> Curve:
    share = _share(trial)
    kept = "" if share is None else f", {share:.1%} kept"
    return Curve(
        x=[result.length for result in trial.test],
        y=[value(result) for result in trial.test],
        name=f"#{trial.number}{kept}, score {trial.score:.3f}",
        value=coloring.value(trial),
    )


def length_axis(lengths: Sequence[int] | set[int]) -> Axis:
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
