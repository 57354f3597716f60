"""What a search optimises, by name: from a trial's history to its values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from sabtune.search.study import Objective
from sabtune.trial import Progress


def seconds_per_update(history: Sequence[Progress]) -> float:
    """Of training alone, over the whole trial."""
    updates, seconds = 0, 0.0
    for progress in history:
        seconds += (progress.report.step - updates) / progress.report.updates_per_second
        updates = progress.report.step
    return seconds / updates


Direction = Literal["maximize", "minimize"]

OBJECTIVES: Mapping[Objective, tuple[Direction, Callable[[Sequence[Progress]], float]]] = {
    "score": ("maximize", lambda history: history[-1].score),
    "seconds_per_update": ("minimize", seconds_per_update),
    "peak_memory": ("minimize", lambda history: history[-1].memory),
}
"""Optuna's direction, and the value of a complete trial."""


def directions(objectives: Sequence[Objective]) -> list[Direction]:
    """For Optuna."""
    return [OBJECTIVES[name][0] for name in objectives]


def values(objectives: Sequence[Objective], history: Sequence[Progress]) -> list[float]:
    """A complete trial's values, in the objectives' order."""
    return [OBJECTIVES[name][1](history) for name in objectives]
