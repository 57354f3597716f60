"""Ablations: a configuration with one setting changed at a time."""

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
from sabtune.study.method_names import ARROW, WINNER

CHANGED = ("k_top", "k_att", "k_trunc", "schedule", "form", "initial", "lengths")
"""The settings that an ablation changes: those of SAB first, then those of training.

The name of a change starts with the name of its setting, as in "k_att → 1".
"""

SCHEDULE_POINTS = 1_000
"""The number of points during training at which a schedule is evaluated."""

SHORTEST_DIVISOR = 10
"""The ratio of the training length to the shortest length, in the ablation with varied lengths."""


def ablations(
    runs: Mapping[str, RunConfig],
    settings: Sequence[str] = CHANGED,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, RunConfig]:
    """Return each configuration and its variants that differ in one setting, by label.

    The first configuration has the label `WINNER`, and each of its variants has the name of its
    change. The label of any other variant also starts with the label of its configuration. A
    variant that computes the same as its configuration is left out.

    settings: The settings to change, among `CHANGED`.

    say: Receives a line about each variant that is left out.

    Raises ConfigError if `settings` contains another name.
    """
    for name in settings:
        if name not in CHANGED:
            raise ConfigError(f"an ablation has no change of {name!r}: {suggest(name, CHANGED)}")
    grid: dict[str, RunConfig] = {}
    for index, (label, run) in enumerate(runs.items()):
        prefix = f"{label}: " if index else ""
        name = label if index else WINNER
        grid[name] = run
        for change, changed in neighbors(run).items():
            if change.split(ARROW)[0] not in settings:
                continue
            if computes_alike(run, changed):
                say(f"{prefix}{change} is left out: it computes what {name} computes")
            else:
                grid[prefix + change] = changed
    return grid


def computes_alike(run: RunConfig, other: RunConfig) -> bool:
    """Return whether two configurations compute the same, even if their settings differ."""
    return _effective(run) == _effective(other)


def _effective(run: RunConfig) -> RunConfig:
    """Return the configuration with each setting replaced by the simplest equivalent one."""
    model, train, length = run.model, run.train, run.task.length
    if train.shortest is not None and train.shortest >= length:
        train = replace(train, shortest=None)
    if isinstance(model, SAB.Config):
        steps = run.task.build().steps(length)
        if _keeps_same_memories(model, model.dense(steps), carried=train.initial == "passed"):
            model = replace(model, schedule=Constant())
        before = model.sparsity.rule.cuts_before
        if model.k_trunc >= steps + before:  # no sequence is ever truncated
            model = replace(model, k_trunc=0)
        alike = model.k_trunc <= 1 or before == replace(model, cut=None).sparsity.rule.cuts_before
        model = replace(model, cut=None) if alike else model
    return replace(run, model=model, train=train)


def _keeps_same_memories(model: SAB.Config, dense: int, *, carried: bool) -> bool:
    """Return whether the schedule keeps the same memories from the first update to the last.

    dense: The number of memories of one sequence.

    carried: Whether a sequence also has the memories of earlier sequences.
    """
    shares = [i / SCHEDULE_POINTS for i in range(SCHEDULE_POINTS + 1)]
    k_tops = {model.schedule.k_top(share, model.k_top, dense) for share in shares}
    keeps_all = model.k_top >= ALL and min(k_tops) >= dense and not carried
    return k_tops == {model.k_top} or keeps_all


def neighbors(run: RunConfig) -> dict[str, RunConfig]:
    """Return the variants of a configuration, by the name of their change.

    The changes are to the model, to the initial state and to the sequence lengths.
    """
    changed: dict[str, RunConfig] = {}
    for label, model in models(run.model).items():
        changed[label] = replace(run, model=model)
    for initial in get_args(Initial):
        if initial != run.train.initial:
            train = replace(run.train, initial=initial)
            changed[f"initial → {initial}"] = replace(run, train=train)
    for label, shortest in lengths(run).items():
        train = replace(run.train, shortest=shortest)
        changed[label] = replace(run, train=train)
    return changed


def models(model: ModelConfig) -> dict[str, ModelConfig]:
    """Return the variants of a SAB model, by the name of their change; {} for another model."""
    if not isinstance(model, SAB.Config):
        return {}
    changes: dict[str, dict[str, object]] = {
        "k_top → all": {"k_top": ALL, "schedule": Constant()},
        "k_att → 1": {"k_att": 1},
        "k_trunc → full": {"k_trunc": 0},
        "schedule → constant": {"schedule": Constant()},
        "form → released": {"form": "released", "scoring": "mlp", "normalizer": "sum"},
    }
    others = {label: replace(model, **change) for label, change in changes.items()}  # type: ignore[arg-type]
    return {label: other for label, other in others.items() if other != model}


def lengths(run: RunConfig) -> dict[str, int | None]:
    """Return the changed shortest training length, by the name of the change.

    Varied training lengths become one length (None), and one length becomes varied lengths. Returns
    {} for a task whose data determines the lengths.
    """
    if run.train.shortest is not None:
        return {"lengths → one": None}
    length = run.task.length
    shortest = max(1, length // SHORTEST_DIVISOR)
    try:
        run.task.build().varied(shortest, torch.Generator())
    except ConfigError:
        return {}
    return {f"lengths → {shortest} to {length}": shortest}
