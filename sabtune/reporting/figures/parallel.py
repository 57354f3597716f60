"""Parallel coordinates: every trial as a line through its parameters to its score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.trial import TrialState

from sabtune.reporting.data import ReportData, state
from sabtune.reporting.figures.fields import Field, Value, fields, without_bound
from sabtune.reporting.figures.marks import Dimension, Parallel, Scale, spread
from sabtune.study.trial_record import TrialRecord

MAX_FIELDS = 10
"""Maximum number of fields; more axes leave no room for their names."""

TICK_DISTANCE = 0.06
"""Minimum distance between two labeled values, as a fraction of the axis."""

MAX_LINES = 150
"""Maximum number of lines; more are hard to follow."""


def parallel(data: ReportData) -> Parallel | None:
    """Return the figure, or None for a comparison or if fewer than two fields differ."""
    scored = [t for t in data.ended if t.state != TrialState.FAIL and (t.values or t.scores)]
    shown = spread(data.by_score(scored), MAX_LINES)
    varying = [] if data.is_comparison else fields(data, shown)[:MAX_FIELDS]
    if len(varying) < 2:
        return None
    values = [trial.score for trial in shown]
    scale = Scale.of("score", values)
    dimensions = [_dimension(field, shown) for field in varying]
    states: dict[int, Value] = {trial.number: state(trial) for trial in shown}
    if len(set(states.values())) > 1:
        dimensions.append(_dimension(Field("state", states), shown))
    scores = Field("score", {trial.number: trial.score for trial in shown}, linear=True)
    dimensions.append(_dimension(scores, shown))
    some = f"Each trial with a score (n = {len(scored)})"
    if len(shown) < len(scored):
        some = f"{len(shown)} of {len(scored)} trials with a score, evenly through their ranking,"
    return Parallel(
        name="parallel",
        title="Parallel coordinates",
        caption=f"{some} as a line through its parameters to its score, or to its last score if it "
        "was pruned. Parameters that a trial does not have are at –."
        f"{without_bound(data, shown)}",
        dimensions=dimensions,
        values=values,
        scale=scale,
    )


def _dimension(field: Field, trials: Sequence[TrialRecord]) -> Dimension:
    """Return the axis of a field from 0 to 1. Missing values are at 0, below all others."""
    missing = any(trial.number not in field.values for trial in trials)
    floor = 0.12 if missing else 0.0
    if field.numeric:
        scale = np.log if field.log else np.asarray
        low, high = (float(scale(end)) for end in field.ends)

        def place(value: Value) -> float:
            return (float(scale(float(value))) - low) / ((high - low) or 1.0)

        labeled = [field.ends[0]]
        for value in field.ticks:
            room = min(place(value) - place(labeled[-1]), 1 - place(value))
            labeled += [value] * (room > TICK_DISTANCE)
        ticks = [(place(value), f"{value:.3g}") for value in (*labeled, field.ends[1])]
    else:
        values = field.distinct

        def place(value: Value) -> float:
            return values.index(value) / max(len(values) - 1, 1)

        ticks = [(place(value), str(value)) for value in values]
    shifted = [(floor + (1 - floor) * at, text) for at, text in ticks]
    return Dimension(
        label=field.name,
        places=[
            floor + (1 - floor) * place(field.values[t.number]) if t.number in field.values else 0.0
            for t in trials
        ],
        ticks=[*([(0.0, "–")] if missing else []), *shifted],
    )
