"""The figures of a single trial, which MLflow shows with its run."""

from __future__ import annotations

from collections.abc import Iterator

from sabtune.reporting.figures.lengths import length_axis
from sabtune.reporting.figures.marks import Axis, Figure, Line, Panel, Rule
from sabtune.reporting.figures.memory import recall_figure
from sabtune.reporting.figures.palette import BLUE, GRAY, VERMILION
from sabtune.study.trial_record import TrialRecord


def figures(trial: TrialRecord) -> Iterator[Figure]:
    """Yield the figures of a complete trial: its accuracy by length, and its recall map."""
    if trial.test:
        yield ladder(trial)
    recall = recall_figure(trial)
    if recall is not None:
        yield recall


def ladder(trial: TrialRecord) -> Figure:
    """Return the figure of a trial's accuracy by length, on selection and test sequences."""
    assert trial.run is not None
    task, length = trial.run.task.build(), trial.run.task.length
    lengths = [result.length for result in trial.test]
    lines = [
        Line(
            x=[result.length for result in results],
            y=[100 * result.accuracy for result in results],
            label=label,
            color=color,
            symbol="circle",
            dash=dash,
        )
        for results, label, color, dash in (
            (trial.ladder, "selection sequences", GRAY, "dash"),
            (trial.test, "test sequences", BLUE, "solid"),
        )
        if results
    ]
    if any(result.least < result.accuracy for result in trial.test):
        worst = [100 * result.least for result in trial.test]
        label = "test sequences, worst phase"
        lines.append(Line(x=lengths, y=worst, label=label, color=VERMILION, symbol="square"))
    rules = [
        Rule(y=100 * task.chance, label=f"chance, {task.chance:.1%}"),
        Rule(x=length, label=f"training length, {length:,}", dash="dot"),
    ]
    return Figure(
        name="ladder",
        title=f"Accuracy by length of #{trial.number}, {trial.run.model.label()}",
        caption="The accuracy of one trained model by the length of the sequences.",
        panels=[
            Panel(
                x=length_axis(lengths),
                y=Axis(label="accuracy (%)", low=0, high=103),
                marks=[*lines, *rules],
            )
        ],
    )
