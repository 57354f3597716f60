"""What was each part of a configuration worth? The same with one thing changed at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

SHARES = 1_000
"""Of the training, at which schedules are compared."""

SHORTER = 10
"""Times shorter than the training length are the shortest sequences, where lengths vary."""


def ablations(
    runs: Mapping[str, RunConfig],
    of: Sequence[str] = CHANGED,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, RunConfig]:
    """Each configuration and, by what is changed, its neighbours that differ in one thing, one `of`
    those named.

    The first one is the winner; what is made of the others has their label in front. `say` is told
    of each change that changes nothing, which is left out. Raises ConfigError if a name is none of
    CHANGED.
    """
    for name in of:
        if name not in CHANGED:
            raise ConfigError(f"an ablation has no change of {name!r}: {suggest(name, CHANGED)}")
    grid: dict[str, RunConfig] = {}
    for place, (label, run) in enumerate(runs.items()):
        whose = f"{label}: " if place else ""
        name = label if place else WINNER
        grid[name] = run
        for change, changed in neighbours(run).items():
            if change.split(ARROW)[0] not in of:
                continue
            if computes_alike(run, changed):
                say(f"{whose}{change} is left out: it computes what {name} computes")
            else:
                grid[whose + change] = changed
    return grid


def computes_alike(run: RunConfig, other: RunConfig) -> bool:
    """Whether two configurations are the same computation, though they say it in other words."""
    return _effective(run) == _effective(other)


def _effective(run: RunConfig) -> RunConfig:
    """The configuration with each setting that can't be told from a simpler one replaced by it."""
    model, train, length = run.trial.model, run.trial.train, run.task.length
    if train.shortest is not None and train.shortest >= length:
        train = replace(train, shortest=None)
    if isinstance(model, SAB.Config):
        steps = run.task.build().steps(length)
        if _stays(model, model.dense(steps), carried=train.initial == "passed"):
            model = replace(model, schedule=Constant())
        if model.k_trunc >= steps + (model.form == "released"):  # it never cuts a sequence
            model = replace(model, k_trunc=0)
    return replace(run, trial=replace(run.trial, model=model, train=train))


def _stays(model: SAB.Config, dense: int, *, carried: bool) -> bool:
    """Whether the schedule keeps the same memories from the first update to the last; carried:
    whether a sequence has memories of earlier ones."""
    shares = [i / SHARES for i in range(SHARES + 1)]
    kept = {model.schedule.k_top(share, model.k_top, dense) for share in shares}
    all_of_them = model.k_top >= ALL and min(kept) >= dense and not carried
    return kept == {model.k_top} or all_of_them


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
