"""The figures of a report, as plain data that two backends draw.

marks.py       the elements of figures
lengths.py     accuracy and loss against length
cost.py        accuracy against parameters, multiply-adds and seconds
phases.py      accuracy against the length modulo k_att
space.py       score against each parameter; accuracy against sparsity; Pareto front
importance.py  parameter importances, and their uncertainty
fanova.py      one of the two importance estimators
fields.py      the parts of the configuration that differ between trials
parallel.py    parallel coordinates
training.py    schedules, learning curves
memory.py      what the best model recalls
palette.py     the colors, on light and on dark pages
states.py      the colors, markers and lines of the states of a trial
still.py       draws PNG and PDF files with matplotlib
live.py        draws for the browser with plotly
traces.py      the marks of live.py
"""

from __future__ import annotations

from sabtune.reporting.data import ReportData
from sabtune.reporting.figures import (
    cost,
    importance,
    lengths,
    memory,
    parallel,
    phases,
    space,
    training,
)
from sabtune.reporting.figures.marks import Drawing

__all__ = ["drawings"]


def drawings(data: ReportData) -> list[Drawing]:
    """Return the figures that the data suffices for, in the order of the report."""
    figures = [
        lengths.accuracy(data),
        lengths.loss(data),
        cost.cost(data),
        phases.phases(data),
        space.scores(data),
        importance.importance(data),
        parallel.parallel(data),
        space.sparsity(data),
        space.pareto(data),
        training.schedules(data),
        training.learning(data),
        *memory.memory(data),
    ]
    return [drawing for drawing in figures if drawing is not None]
