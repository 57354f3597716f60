"""Training as it went: how sparsity set in, and what the loss and the score did meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import TrialState

from sabtune.models import SAB
from sabtune.models.sab import ALL
from sabtune.report.data import BROKEN, ReportData, state
from sabtune.report.figures.marks import (
    BLACK,
    BLUE,
    ORANGE,
    PURPLE,
    VERMILION,
    Axis,
    Curve,
    Curves,
    Figure,
    Mark,
    Panel,
    Scale,
    spread,
)
from sabtune.study.record import TrialRecord
from sabtune.training.trial import Progress
from sabtune.wording import counted

SHAPES = 150
"""Most schedules in the figure."""

CURVES = 60
"""Most learning curves in a panel."""

POINTS = 100
"""Of a curve."""

COLOURS = {"complete": BLUE, "pruned": ORANGE, "failed": VERMILION, BROKEN: PURPLE}
DASHES = {"complete": "solid", "pruned": "dash", "failed": "dot", BROKEN: "dash"}


def schedules(data: ReportData) -> Figure | None:
    """k_top over the progress of training, coloured by how the trial ended."""
    trials = [t for t in data.ended if t.run and isinstance(t.run.trial.model, SAB.Config)]
    if data.is_comparison or not trials:
        return None
    shown = spread(data.by_score(trials), SHAPES)
    marks: list[Mark] = []
    for name in reversed(COLOURS):  # complete ones on top
        own = [_shape(data, trial) for trial in shown if state(trial) == name]
        if own:
            marks.append(Curves(curves=own, label=name, dash=DASHES[name]))
    scored = [trial.score for trial in trials if trial.state != TrialState.FAIL] or [0.0]
    some = f"each trial (n = {len(trials)})"
    if len(shown) < len(trials):
        some = f"{len(shown)} of {counted(len(trials), 'trial')}, evenly through their ranking"
    return Figure(
        name="schedules",
        title="Schedules and their outcome",
        caption=f"Memories kept a step over training, of {some}, coloured by the last score, "
        "complete ones and high ones on top; grey ones failed.",
        panels=[
            Panel(
                x=Axis(label="updates done (%)", low=0, high=100),
                y=Axis(label="k_top (memories, log scale)", log=True),
                marks=marks,
            )
        ],
        scale=Scale.of("score", scored),
    )


def _shape(data: ReportData, trial: TrialRecord) -> Curve:
    assert trial.run is not None
    model = trial.run.trial.model
    assert isinstance(model, SAB.Config)
    dense = model.dense(data.task.steps(data.run.task.length))
    done = [i / POINTS for i in range(POINTS + 1)]
    most = dense if model.k_top >= ALL else ALL
    kept = [min(model.schedule.k_top(share, model.k_top, dense), most) for share in done]
    return Curve(
        x=[100 * share for share in done],
        y=kept,
        name=f"#{trial.number} {model.label()}, {state(trial)}, score {trial.score:.3f}",
        value=None if trial.state == TrialState.FAIL else trial.score,
    )


def learning(data: ReportData) -> Figure | None:
    """The score and the training loss by updates."""
    trials = [trial for trial in data.ended if trial.scores]
    shown = spread(data.by_score(trials), CURVES)
    if not shown:
        return None
    panels = [_panel(data, "score", [(t, _scores(t)) for t in shown], log=False)]
    losses = [(trial, _losses(data.history(trial))) for trial in shown]
    losses = [(trial, points) for trial, points in losses if points]
    if losses:
        log = all(loss > 0 for _, points in losses for _, loss in points)
        name = f"training loss ({data.task.loss_unit}{', log scale' * log})"
        panels.append(_panel(data, name, losses, log=log))
    some = f"n = {counted(len(trials), 'trial')}"
    if len(shown) < len(trials):
        some = f"{len(shown)} of {counted(len(trials), 'trial')}, evenly through their ranking"
    lost = f" The loss of {len(shown) - len(losses)} is not at hand." * (
        0 < len(losses) < len(shown)
    )
    return Figure(
        name="learning",
        title="Learning curves",
        caption=f"Score on the selection sequences{' and training loss' * bool(losses)}, by "
        f"updates ({some}); black is the best trial.{lost}",
        panels=panels,
    )


Points = Sequence[tuple[float, float]]


def _panel(
    data: ReportData, name: str, found: Sequence[tuple[TrialRecord, Points]], *, log: bool
) -> Panel:
    marks: list[Mark] = []
    best = data.best.number
    for word, colour in COLOURS.items():
        own = [_curve(t, of) for t, of in found if state(t) == word and t.number != best]
        if own:
            marks.append(Curves(curves=own, label=word, colour=colour, dash=DASHES[word]))
    curves = [_curve(trial, of) for trial, of in found if trial.number == best]
    if curves:
        marks.append(Curves(curves=curves, label=f"the best, #{best}", colour=BLACK))
    y = Axis(label=name, log=log)
    if name == "score":
        y = Axis(label="score (0 to 1)", low=-0.02, high=1.02)
    return Panel(x=Axis(label="updates", low=0), y=y, marks=marks)


def _curve(trial: TrialRecord, points: Points) -> Curve:
    some = spread(points, POINTS)
    name = f"#{trial.number}, {state(trial)}" + (f": {trial.reason}" if trial.reason else "")
    return Curve(x=[x for x, _ in some], y=[y for _, y in some], name=name)


def _scores(trial: TrialRecord) -> Points:
    return sorted(trial.scores.items())


def _losses(history: Sequence[Progress]) -> Points:
    return [(progress.report.step, progress.report.loss) for progress in history]
