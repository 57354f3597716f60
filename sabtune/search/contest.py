"""Configurations against each other on fresh seeds: `confirm` and `ablate`.

The runs of a contest are a study of their own, NAME.confirm or NAME.ablate, searched by the same
engine without pruning: an interrupted contest goes on, and more seeds can be added to one. What an
earlier command asked for and never began waits until a command asks for it again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from sabtune.config import RunConfig
from sabtune.errors import StoreError
from sabtune.evaluation import Ladder
from sabtune.schema import KIND
from sabtune.search import record
from sabtune.search.assigning import Assigner
from sabtune.search.locks import locked
from sabtune.search.racing import Race, Seeds
from sabtune.search.run import Ending, Say, execute, open_or_create, silent
from sabtune.search.study import StudyFile, load
from sabtune.store import Store
from sabtune.watcher import Watcher

EVALUATION_SEED = record.FRESH_SEED
"""Of a contest's sequences: none that a search was measured on."""


def study_file(store: Store, name: str) -> StudyFile:
    """The file that a study was searched from. Raises StudyFileError if it is gone."""
    plan = record.plan(record.open_study(store, name))
    return load(Path(plan["file"]), plan.get("rival"))


def finalists(store: Store, names: Sequence[str], top: int) -> dict[str, RunConfig]:
    """By label: the best `top` configurations of the first study, and of each other study the
    best one of every kind of model. Raises StoreError if a study has no complete trial, or if
    their models are tested on different tasks.
    """
    found: dict[str, RunConfig] = {}
    for place, name in enumerate(names):
        ranked = Race.of(record.open_study(store, name)).ranked()
        if not ranked:
            raise StoreError(f"study {name!r} has no complete trial yet: search it first")
        kinds: set[object] = set()
        for configuration in ranked:
            run = configuration.best.run
            assert run is not None
            kind = run.to_dict()["trial"]["model"][KIND]
            if len(found) < top if place == 0 else kind not in kinds:
                of = f"{name} " if len(names) > 1 else ""
                found[f"{of}#{configuration.number} {run.trial.model.label()}"] = run
            kinds.add(kind)
    tasks = {run.task: label for label, run in found.items()}
    if len(tasks) > 1:
        raise StoreError(
            f"{' and '.join(tasks.values())} are tested on different tasks: "
            "compare studies of the same task and length"
        )
    return found


def fresh_lengths(ladder: Ladder) -> tuple[int, ...]:
    """The training length, then lengths that the ladder leaves out: between its rungs, and twice
    its last one."""
    between = [round(math.sqrt(a * b)) for a, b in pairwise(ladder.lengths)]
    lengths = {*between, 2 * ladder.lengths[-1]} - set(ladder.lengths)
    return (ladder.lengths[0], *sorted(length for length in lengths if length > ladder.lengths[0]))


Key = tuple[str, int]
"""What tells a contest's runs apart: label and seed."""


def wanted(runs: Mapping[str, RunConfig], seeds: int) -> dict[Key, RunConfig]:
    """Every configuration with every fresh seed, seed by seed."""
    return {
        (label, seed): dataclasses.replace(run, seed=seed)
        for seed in range(record.FRESH_SEED, record.FRESH_SEED + seeds)
        for label, run in runs.items()
    }


def by_key(trials: Iterable[FrozenTrial]) -> dict[Key, FrozenTrial]:
    """A contest's trials; not those of which nothing but their number was recovered."""
    return {
        (trial.user_attrs[record.LABEL], trial.user_attrs[record.FIXED]["run"]["seed"]): trial
        for trial in trials
        if record.LABEL in trial.user_attrs
    }


def planned(name: str, store: Store, runs: Mapping[str, RunConfig], seeds: int) -> int:
    """How many runs a contest will have once these have ended, with those that began earlier."""
    known = name in record.names(store)
    trials = record.open_study(store, name).get_trials(deepcopy=False) if known else []
    begun = {key for key, trial in by_key(trials).items() if trial.state != TrialState.WAITING}
    return len(begun | set(wanted(runs, seeds)))


def contest(
    name: str,
    file: StudyFile,
    store: Store,
    runs: Mapping[str, RunConfig],
    *,
    seeds: int,
    lengths: Sequence[int] | None = None,
    watchers: Sequence[Watcher] = (),
    say: Say = silent,
) -> tuple[Ending, optuna.Study]:
    """Trains every configuration on the same `seeds` fresh seeds, whatever its own, and measures
    it at `lengths` (by default `fresh_lengths`), on sequences that no search has seen. Where the
    study ends trials that are solved, so are these. say: as of `search`.
    """
    searched = file.study.ladder
    study = dataclasses.replace(
        file.study,
        name=name,
        pruning=None,
        seeds=Seeds(),
        objectives=("score",),
        points=(),
        ladder=Ladder(
            lengths=tuple(lengths or fresh_lengths(searched)),
            select=searched.select if searched.solved_reports else searched.lengths[:1],
            sequences=searched.sequences,
            solved_reports=searched.solved_reports,
        ),
    )
    own = dataclasses.replace(file, study=study)
    with locked(name, store):
        opened = open_or_create(own, store)
        plan = record.plan(opened)
        models = {label: run.trial.model.label() for label, run in runs.items()}
        known = plan.get(record.CONTEST, {})
        record.set_plan(
            opened,
            {**plan, "searched": list(searched.select), record.CONTEST: known | models},
        )
        queue = enqueue(opened, wanted(runs, seeds))
        assigner = Assigner(
            own, record.records(opened), evaluation_seed=EVALUATION_SEED, confirms=True
        )
        ending = execute(
            opened,
            own,
            store,
            watchers,
            trials=len(record.records(opened)) + len(queue),
            queue=queue,
            assigner=assigner,
            say=say,
        )
    return ending, opened


def enqueue(study: optuna.Study, runs: Mapping[Key, RunConfig]) -> list[int]:
    """Gives a contest those of the runs that it doesn't have; the numbers of all that wait, in the
    order of `runs`."""
    known = by_key(study.get_trials(deepcopy=False))
    for (label, seed), run in runs.items():
        if (label, seed) not in known:
            record.enqueue(study, run, label=label)
    known = by_key(study.get_trials(deepcopy=False))
    numbers = {key: trial.number for key, trial in known.items()}
    waiting = set(record.waiting(study))
    return [numbers[key] for key in runs if numbers[key] in waiting]
