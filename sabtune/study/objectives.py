"""The objectives of a search, by name, computed from a trial's run and history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from sabtune.config import RunConfig
from sabtune.study.definition import Objective
from sabtune.training.trial import Progress


def seconds_per_update(history: Sequence[Progress]) -> float:
    """Return the mean training time of an update in seconds, without the time of evaluation."""
    updates, seconds = 0, 0.0
    for progress in history:
        seconds += (progress.report.step - updates) / progress.report.updates_per_second
        updates = progress.report.step
    return seconds / updates


Direction = Literal["maximize", "minimize"]

Value = Callable[[RunConfig, Sequence[Progress]], float]

OBJECTIVES: Mapping[Objective, tuple[Direction, Value]] = {
    "score": ("maximize", lambda run, history: history[-1].score),
    "seconds_per_update": ("minimize", lambda run, history: seconds_per_update(history)),
    "peak_memory": ("minimize", lambda run, history: history[-1].memory),
    "share_kept": ("minimize", lambda run, history: run.share_kept() or 0.0),
}
"""The direction and the function that returns a complete trial's value, by the objective's name."""


def directions(objectives: Sequence[Objective]) -> list[Direction]:
    """Return the directions of the objectives for Optuna."""
    return [OBJECTIVES[name][0] for name in objectives]


def values(
    objectives: Sequence[Objective], run: RunConfig, history: Sequence[Progress]
) -> list[float]:
    """Return the values of a complete trial, one for each objective."""
    return [OBJECTIVES[name][1](run, history) for name in objectives]
