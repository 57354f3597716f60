"""The figures of a report: what each shows, as plain data, and two ways to draw it.

marks.py      what figures are made of
lengths.py    accuracy, loss and cost against length
phases.py     accuracy against the remainder of the length by k_att
space.py      the score along the search space; accuracy against sparsity; Pareto front
importance.py which parameters the score depends on, and how sure that is
fanova.py     one of its two estimators
fields.py     what the trials differ in
parallel.py   parallel coordinates
training.py   schedules, learning curves
memory.py     what the best model recalls
still.py      draws for print: PNG and PDF, by matplotlib
live.py       draws for the browser, by plotly; its marks are in traces.py
"""

from __future__ import annotations

from sabtune.report.data import ReportData
from sabtune.report.figures import importance, lengths, memory, parallel, phases, space, training
from sabtune.report.figures.marks import Drawing

__all__ = ["drawings"]


def drawings(data: ReportData) -> list[Drawing]:
    """All that there is enough of to be drawn, in the order to be read in."""
    found = [
        lengths.accuracy(data),
        lengths.loss(data),
        phases.phases(data),
        space.scores(data),
        importance.importance(data),
        parallel.parallel(data),
        space.sparsity(data),
        space.pareto(data),
        training.schedules(data),
        training.learning(data),
        *memory.memory(data),
        lengths.cost(data),
    ]
    return [drawing for drawing in found if drawing is not None]
