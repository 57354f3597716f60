"""Figures of training over time: schedules of sparsity, and learning curves."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import TrialState

from sabtune.models import SAB
from sabtune.models.sab import ALL
from sabtune.reporting.data import ReportData, state
from sabtune.reporting.figures.marks import Axis, Curve, Curves, Figure, Mark, Panel, Scale, spread
from sabtune.reporting.figures.palette import BLACK
from sabtune.reporting.figures.states import STYLES
from sabtune.study.trial_record import TrialRecord
from sabtune.training.trial import Progress
from sabtune.wording import counted

MAX_SCHEDULES = 150
"""Maximum number of schedules in the figure."""

MAX_CURVES = 60
"""Maximum number of learning curves in a panel."""

CURVE_POINTS = 100
"""Maximum number of points of a curve."""


def schedules(data: ReportData) -> Figure | None:
    """Return the figure of k_top during training; None for a comparison or without SAB models."""
    trials = [t for t in data.ended if t.run and isinstance(t.run.model, SAB.Config)]
    if data.is_comparison or not trials:
        return None
    shown = spread(data.by_score(trials), MAX_SCHEDULES)
    marks: list[Mark] = []
    for name, style in reversed(list(STYLES.items())):  # complete trials on top
        own = [_schedule(data, trial) for trial in shown if state(trial) == name]
        if own:
            marks.append(Curves(curves=own, label=name, dash=style.dash))
    scored = [trial.score for trial in trials if trial.state != TrialState.FAIL] or [0.0]
    some = f"each trial (n = {len(trials)})"
    if len(shown) < len(trials):
        some = f"{len(shown)} of {counted(len(trials), 'trial')}, evenly through their ranking"
    return Figure(
        name="schedules",
        title="Schedules and their outcome",
        caption=f"Memories kept per step over training, of {some}, colored by the last score. "
        "Complete trials and high scores are on top; failed trials are gray.",
        panels=[
            Panel(
                x=Axis(label="updates done (%)", low=0, high=100),
                y=Axis(label="k_top (memories, log scale)", log=True),
                marks=marks,
            )
        ],
        scale=Scale.of("score", scored),
    )


def _schedule(data: ReportData, trial: TrialRecord) -> Curve:
    assert trial.run is not None
    model = trial.run.model
    assert isinstance(model, SAB.Config)
    dense = model.dense(data.task.steps(data.run.task.length))
    progress = [i / CURVE_POINTS for i in range(CURVE_POINTS + 1)]
    most = dense if model.k_top >= ALL else ALL
    k_top = [min(model.schedule.k_top(share, model.k_top, dense), most) for share in progress]
    return Curve(
        x=[100 * share for share in progress],
        y=k_top,
        name=f"#{trial.number} {model.label()}, {state(trial)}, score {trial.score:.3f}",
        value=None if trial.state == TrialState.FAIL else trial.score,
    )


def learning(data: ReportData) -> Figure | None:
    """Return the figure of score and training loss by updates, or None if no trial has a score."""
    trials = [trial for trial in data.ended if trial.scores]
    shown = spread(data.by_score(trials), MAX_CURVES)
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
    missing = f" The loss of {len(shown) - len(losses)} is not available." * (
        0 < len(losses) < len(shown)
    )
    return Figure(
        name="learning",
        title="Learning curves",
        caption=f"Score on the selection sequences{' and training loss' * bool(losses)}, by "
        f"updates ({some}); the best trial is on top.{missing}",
        panels=panels,
    )


Points = Sequence[tuple[float, float]]


def _panel(
    data: ReportData, name: str, trials: Sequence[tuple[TrialRecord, Points]], *, log: bool
) -> Panel:
    marks: list[Mark] = []
    best = data.best.number
    for word, style in STYLES.items():
        own = [_curve(t, points) for t, points in trials if state(t) == word and t.number != best]
        if own:
            marks.append(Curves(curves=own, label=word, color=style.color, dash=style.dash))
    curves = [_curve(trial, points) for trial, points in trials if trial.number == best]
    if curves:
        marks.append(Curves(curves=curves, label=f"the best, #{best}", color=BLACK))
    y = Axis(label=name, log=log)
    if name == "score":
        y = Axis(label="score (0 to 1)", low=-0.02, high=1.02)
    return Panel(x=Axis(label="updates", low=0), y=y, marks=marks)


def _curve(trial: TrialRecord, points: Points) -> Curve:
    some = spread(points, CURVE_POINTS)
    name = f"#{trial.number}, {state(trial)}" + (f": {trial.reason}" if trial.reason else "")
    return Curve(x=[x for x, _ in some], y=[y for _, y in some], name=name)


def _scores(trial: TrialRecord) -> Points:
    return sorted(trial.scores.items())


def _losses(history: Sequence[Progress]) -> Points:
    return [(progress.report.step, progress.report.loss) for progress in history]
