"""The search space: score against each parameter, accuracy against sparsity, Pareto front."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from optuna.trial import TrialState

from sabtune.reporting.data import ReportData, state
from sabtune.reporting.figures.fields import Field, fields, without_bound
from sabtune.reporting.figures.marks import Axis, Figure, Line, Mark, Panel, Points, Rule
from sabtune.reporting.figures.palette import BLACK, BLUE, METHODS, SYMBOLS, VERMILION
from sabtune.reporting.figures.states import STYLES
from sabtune.study.trial_record import TrialRecord
from sabtune.terminal.summary import UNITS

FAILED_SCORE = -0.07
"""The y value of failed trials, which have no score."""

MAX_PANELS = 12
"""Maximum number of parameters in a figure."""

MAX_SHIFTED_VALUES = 20
"""Maximum number of values of a parameter for which trials are drawn side by side."""


def scores(data: ReportData) -> Figure | None:
    """Return the figure of the score against each parameter that differs, or None if none does."""
    varying = [] if data.is_comparison else fields(data, data.ended)[:MAX_PANELS]
    if not varying:
        return None
    columns = min(3, len(varying))
    panels = [_score_panel(data, field) for field in varying]
    return Figure(
        name="scores",
        title="Score against each parameter",
        caption=f"The score of each trial (n = {len(data.ended)}) against each parameter that "
        "differs. Pruned trials have their last score; failed ones have none and are drawn below "
        "0. If there are few values, a line joins the medians of the complete trials, and trials "
        f"with the same value are side by side.{without_bound(data, data.ended)}",
        panels=panels,
        columns=columns,
        height=2.1,
    )


def _score_panel(data: ReportData, field: Field) -> Panel:
    trials = [trial for trial in data.ended if trial.number in field.values]
    place = {value: float(i) for i, value in enumerate(field.distinct)}
    x = {n: float(value) if field.numeric else place[value] for n, value in field.values.items()}
    few = len(place) <= MAX_SHIFTED_VALUES and 2 * len(place) <= len(trials)
    shift = _shift(field, trials) if few else dict.fromkeys(field.values, 0.0)
    marks: list[Mark] = []
    for name, style in STYLES.items():
        own = [trial for trial in trials if state(trial) == name]
        points = Points(
            x=[_shifted(x[trial.number], shift[trial.number], field.log) for trial in own],
            y=[FAILED_SCORE if trial.state == TrialState.FAIL else trial.score for trial in own],
            names=[f"#{trial.number} {field.name}={field.values[trial.number]}" for trial in own],
            label=name,
            color=style.color,
            symbol=style.symbol,
            filled=style.filled,
        )
        marks += [points] * bool(own)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if few and field.numeric and len(complete) >= 3 * len(place):
        marks.append(_medians(complete, x))
    y = Axis(label="score (0 to 1)", low=-0.12, high=1.04)
    return Panel(x=_field_axis(field), y=y, marks=marks)


def _field_axis(field: Field) -> Axis:
    """Return the axis of a field, labeled with its ticks."""
    values = field.distinct
    if not field.numeric:
        ticks = [(float(i), str(value)) for i, value in enumerate(values)]
        return Axis(label=field.label, ticks=ticks, low=-0.5, high=len(values) - 0.5)
    ticks = [(value, f"{value:.3g}") for value in field.ticks]
    return Axis(label=field.label, log=field.log, ticks=ticks)


def _medians(trials: Sequence[TrialRecord], x: dict[int, float]) -> Line:
    by_value: dict[float, list[float]] = {}
    for trial in trials:
        by_value.setdefault(x[trial.number], []).append(trial.score)
    at = sorted(by_value)
    y = [statistics.median(by_value[value]) for value in at]
    return Line(x=at, y=y, label="median of complete", color=BLACK, width=1.2)


def _shift(field: Field, trials: Sequence[TrialRecord]) -> dict[int, float]:
    """Return a sideways shift for each trial, so that trials with the same value stay visible.

    The shifts are random, and the same in every report.
    """
    values = field.distinct
    if field.numeric:
        numbers = np.log(field.distinct) if field.log else np.array(values, dtype=float)
        width = min(0.25 * float(np.diff(numbers).min()), 0.06 * float(np.ptp(numbers)))
    else:
        width = 0.25
    shifts = np.random.default_rng(0).uniform(-width, width, len(trials))
    return {trial.number: float(shift) for trial, shift in zip(trials, shifts, strict=True)}


def _shifted(x: float, shift: float, log: bool) -> float:
    return x * float(np.exp(shift)) if log else x + shift


def pareto(data: ReportData) -> Figure | None:
    """Return the figure of the score against each other objective, or None if there is no other."""
    names = data.study.plan.objectives or ()
    trials = [trial for trial in data.complete if len(trial.values) == len(names)]
    if len(names) < 2 or not trials:
        return None
    front = data.study.pareto_front[::-1]
    best = {trial.number for trial in front}
    panels = []
    for i, name in enumerate(names[1:], 1):
        marks: list[Mark] = [
            _objective([t for t in trials if t.number not in best], i, "other complete trials"),
            Line(
                x=[t.values[i] for t in front],
                y=[t.values[0] for t in front],
                label="Pareto front" if len(names) == 2 else "on the front of all objectives",
                color=VERMILION,
                symbol="circle",
                width=1.5 if len(names) == 2 else 0.0,
            ),
        ]
        positive = all(trial.values[i] > 0 for trial in trials)
        unit = Axis(label=UNITS.get(name, name), log=positive)
        y = Axis(label="score (0 to 1)", low=-0.04, high=1.04)
        panels.append(Panel(x=unit, y=y, marks=marks))
    return Figure(
        name="pareto",
        title="Pareto front",
        caption=f"Score against {' and '.join(names[1:])} (n = {len(trials)} complete trials); "
        f"{len(front)} of them are on the Pareto front.",
        panels=panels,
    )


def sparsity(data: ReportData) -> Figure | None:
    """Return the figure of accuracy at the longest length against the share of memories kept.

    Returns None if fewer than two shares occur.
    """
    shares = [
        (trial, share)
        for trial in data.complete
        if trial.test and trial.run and (share := trial.run.share_kept()) is not None
    ]
    if len({share for _, share in shares}) < 2:
        return None
    longest = max(result.length for trial, _ in shares for result in trial.test)
    periods = sorted({trial.run.model.period for trial, _ in shares if trial.run})
    marks: list[Mark] = []
    for i, period in enumerate(periods):
        own = [
            (trial, share)
            for trial, share in shares
            if trial.run and trial.run.model.period == period
        ]
        marks.append(
            Points(
                x=[100 * share for _, share in own],
                y=[100 * max(trial.test, key=lambda r: r.length).accuracy for trial, _ in own],
                names=[f"#{trial.number}, {share:.1%} kept" for trial, share in own],
                label=f"k_att {period}",
                color=METHODS[i % len(METHODS)],
                symbol=SYMBOLS[i % len(SYMBOLS)],
            )
        )
    chance = Rule(y=100 * data.task.chance, label=f"chance, {data.task.chance:.1%}")
    return Figure(
        name="sparsity",
        title="Accuracy against sparsity",
        caption=f"The accuracy of each complete trial (n = {len(shares)}) at length {longest:,} "
        "against the share of the memories that a step keeps at the end of a training sequence "
        "(100 %: all of them), colored by k_att.",
        panels=[
            Panel(
                x=Axis(label="memories kept (%, log scale)", log=True),
                y=Axis(label=f"accuracy at {longest:,} (%)", low=0, high=103),
                marks=[*marks, chance],
            )
        ],
    )


def _objective(trials: Sequence[TrialRecord], i: int, label: str) -> Points:
    return Points(
        x=[trial.values[i] for trial in trials],
        y=[trial.values[0] for trial in trials],
        names=[f"#{trial.number}" for trial in trials],
        label=label,
        color=BLUE,
    )
