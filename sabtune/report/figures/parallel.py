"""Every trial as a line through what it is, to its score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.trial import TrialState

from sabtune.report.data import ReportData, state
from sabtune.report.figures.fields import Field, Value, fields, without_bound
from sabtune.report.figures.marks import Dimension, Parallel, Scale, spread
from sabtune.study.record import TrialRecord

MOST = 10
"""Fields; more axes are too narrow to be named."""

APART = 0.06
"""Of an axis of parallel coordinates: the least between two values that are written."""

LINES = 150
"""Of parallel coordinates; more can't be followed."""


def parallel(data: ReportData) -> Parallel | None:
    """Every trial as a line through its parameters to its score."""
    scored = [t for t in data.ended if t.state != TrialState.FAIL and (t.values or t.scores)]
    shown = spread(data.by_score(scored), LINES)
    found = [] if data.is_comparison else fields(data, shown)[:MOST]
    if len(found) < 2:
        return None
    values = [trial.score for trial in shown]
    scale = Scale.of("score", values)
    dimensions = [_dimension(field, shown) for field in found]
    words: dict[int, Value] = {trial.number: state(trial) for trial in shown}
    if len(set(words.values())) > 1:
        dimensions.append(_dimension(Field("state", words), shown))
    scores = Field("score", {trial.number: trial.score for trial in shown}, linear=True)
    dimensions.append(_dimension(scores, shown))
    some = f"Each trial with a score (n = {len(scored)})"
    if len(shown) < len(scored):
        some = f"{len(shown)} of {len(scored)} trials with a score, evenly through their ranking,"
    return Parallel(
        name="parallel",
        title="Parallel coordinates",
        caption=f"{some} as a line through what it is to its score, a pruned one to its last; what "
        "a trial doesn't have stands at –."
        f"{without_bound(data, shown)}",
        dimensions=dimensions,
        values=values,
        scale=scale,
    )


def _dimension(field: Field, trials: Sequence[TrialRecord]) -> Dimension:
    """Values at their places from 0 to 1; what is missing at 0, below the others."""
    missing = any(trial.number not in field.values for trial in trials)
    floor = 0.12 if missing else 0.0
    if field.numeric:
        scale = np.log if field.log else np.asarray
        low, high = (float(scale(end)) for end in field.ends)

        def place(value: Value) -> float:
            return (float(scale(float(value))) - low) / ((high - low) or 1.0)

        kept = [field.ends[0]]
        for value in field.ticks:
            room = min(place(value) - place(kept[-1]), 1 - place(value))
            kept += [value] * (room > APART)
        ticks = [(place(value), f"{value:.3g}") for value in (*kept, field.ends[1])]
    else:
        values = field.distinct

        def place(value: Value) -> float:
            return values.index(value) / max(len(values) - 1, 1)

        ticks = [(place(value), str(value)) for value in values]
    known = [(floor + (1 - floor) * at, text) for at, text in ticks]
    return Dimension(
        label=field.name,
        places=[
            floor + (1 - floor) * place(field.values[t.number]) if t.number in field.values else 0.0
            for t in trials
        ],
        ticks=[*([(0.0, "–")] if missing else []), *known],
    )
