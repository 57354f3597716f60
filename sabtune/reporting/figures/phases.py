"""Accuracy against the length modulo k_att."""

from __future__ import annotations

from sabtune.reporting.data import ReportData
from sabtune.reporting.figures.marks import Axis, Figure, Line, Panel, Rule
from sabtune.reporting.figures.palette import DASHES, METHODS, SYMBOLS
from sabtune.training.evaluation import mean_by_phase


def phases(data: ReportData) -> Figure | None:
    """Return the figure of the best trial's accuracy by phase, with a line for each length.

    Returns None if there is only one phase, or if not every phase was measured.
    """
    period, tested = data.run.model.period, data.best.test
    if period == 1 or not all(
        result.worst_phase is not None and result.by_phase for result in tested
    ):
        return None
    lines = [
        Line(
            x=list(range(period)),
            y=[
                100 * accuracy
                for accuracy in mean_by_phase(data.task, result.length, result.by_phase, period)
            ],
            label=f"from length {result.length:,}",
            color=METHODS[number % len(METHODS)],
            symbol=SYMBOLS[number % len(SYMBOLS)],
            dash=DASHES[number // len(METHODS) % len(DASHES)],
        )
        for number, result in enumerate(tested)
    ]
    chance = Rule(y=100 * data.task.chance, label=f"chance, {data.task.chance:.1%}")
    return Figure(
        name="phases",
        title="Accuracy by phase",
        caption=f"The best trial, #{data.best.number}, by the remainder of the number of steps "
        f"by its k_att, {period}, counted from the training length: 0 is in phase with it. Each "
        f"length L is measured over L … L + {len(tested[0].by_phase) - 1}.",
        panels=[
            Panel(
                x=Axis(
                    label="phase (steps mod k_att)",
                    ticks=[(float(phase), str(phase)) for phase in range(period)],
                ),
                y=Axis(label="accuracy (%)", low=0, high=103),
                marks=[*lines, chance],
            )
        ],
    )
