"""What was each part of a configuration worth? The same with one thing changed at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

import torch

from sabtune.config import Initial, RunConfig
from sabtune.errors import ConfigError
from sabtune.models import SAB, ModelConfig
from sabtune.models.sab import ALL
from sabtune.schedule import Constant
from sabtune.schema import suggest

WINNER = "winner"

CHANGED = ("k_top", "k_att", "k_trunc", "schedule", "form", "initial", "lengths")
"""What an ablation changes, as its labels begin: of SAB, then of the training of any model."""

ARROW = " → "

SHORTER = 10
"""Times shorter than the training length are the shortest sequences, where lengths vary."""


def ablations(runs: Mapping[str, RunConfig], of: Sequence[str] = CHANGED) -> dict[str, RunConfig]:
    """Each configuration and, by what is changed, its neighbours that differ in one thing, one `of`
    those named.

    The first one is the winner; what is made of the others has their label in front. Raises
    ConfigError if a name is none of CHANGED.
    """
    for name in of:
        if name not in CHANGED:
            raise ConfigError(f"an ablation has no change of {name!r}: {suggest(name, CHANGED)}")
    grid: dict[str, RunConfig] = {}
    for place, (label, run) in enumerate(runs.items()):
        whose = f"{label}: " if place else ""
        grid[label if place else WINNER] = run
        for change, changed in neighbours(run).items():
            if change.split(ARROW)[0] in of:
                grid[whose + change] = changed
    return grid


def neighbours(run: RunConfig) -> dict[str, RunConfig]:
    """By what is changed: of the model, of where sequences start, of how long they are."""
    trial = run.trial
    changed: dict[str, RunConfig] = {}
    for label, model in models(trial.model).items():
        changed[label] = replace(run, trial=replace(trial, model=model))
    for initial in get_args(Initial):
        if initial != trial.train.initial:
            train = replace(trial.train, initial=initial)
            changed[f"initial → {initial}"] = replace(run, trial=replace(trial, train=train))
    for label, shortest in lengths(run).items():
        train = replace(trial.train, shortest=shortest)
        changed[label] = replace(run, trial=replace(trial, train=train))
    return changed


def models(model: ModelConfig) -> dict[str, ModelConfig]:
    """SAB without one of its parts; nothing of another model."""
    if not isinstance(model, SAB.Config):
        return {}
    changes: dict[str, dict[str, object]] = {
        "k_top → all": {"k_top": ALL, "schedule": Constant()},
        "k_att → 1": {"k_att": 1},
        "k_trunc → full": {"k_trunc": 0},
        "schedule → constant": {"schedule": Constant()},
        "form → released": {"form": "released", "scoring": "mlp", "normalizer": "sum"},
    }
    others = {label: replace(model, **of) for label, of in changes.items()}  # type: ignore[arg-type]
    return {label: other for label, other in others.items() if other != model}


def lengths(run: RunConfig) -> dict[str, int | None]:
    """With training sequences of many lengths, or of one alone; nothing where data gives them."""
    if run.trial.train.shortest is not None:
        return {"lengths → one": None}
    length = run.task.length
    shortest = max(1, length // SHORTER)
    try:
        run.task.build().varied(shortest, torch.Generator())
    except ConfigError:
        return {}
    return {f"lengths → {shortest} to {length}": shortest}
