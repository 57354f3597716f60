"""Configurations against each other on fresh seeds: `confirm` and `ablate`.

The runs of a contest are a study of their own, NAME.confirm or NAME.ablate, searched by the same
engine without pruning: an interrupted contest goes on, and more seeds can be added to one. What an
earlier command asked for and never began waits until a command asks for it again. What can't be
compared with what is there, measured at other lengths or changes of another winner, becomes
NAME.confirm-2 or NAME.ablate-2.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import optuna
from optuna.trial import FrozenTrial, TrialState

from sabtune.config import PARTS, RunConfig
from sabtune.errors import StoreError, StudyFileError
from sabtune.schema import KIND, from_dict
from sabtune.search.run import Ending, Say, execute, open_or_create, silent
from sabtune.storage.store import Store
from sabtune.study import record
from sabtune.study.configurations import Leaderboard, Seeds
from sabtune.study.definition import Study, StudyFile, load
from sabtune.study.events import Watcher
from sabtune.study.locks import locked
from sabtune.study.names import numbered
from sabtune.study.resuming import as_asked
from sabtune.study.trial_specs import TrialSpecs, configuration_key
from sabtune.training.evaluation import Ladder, recorded_ladder

EVALUATION_SEED = record.FRESH_SEED
"""Of a contest's sequences: none that a search was measured on."""


def study_file(store: Store, name: str) -> StudyFile:
    """Return the file that a study was searched from, with the task and ladder searched with.

    Where the file is gone, as after a move to another machine, its study is the recorded one.
    """
    with record.plan_of(record.open_study(store, name)) as plan:
        path, baseline = Path(plan["file"]), plan.get("rival")
        if not path.is_file():
            study = from_dict(Study, plan["study"], PARTS, "study")
            question = plan.get("question", "")
            file = StudyFile(path, study, _no_space, question=question, baseline=baseline)
            return as_asked(file, plan)
    return as_asked(load(path, baseline), plan)


def _no_space(trial: optuna.Trial) -> NoReturn:
    raise StudyFileError(f"trial {trial.number} needs the study's file, which is gone: put it back")


def finalists(store: Store, names: Sequence[str], top: int) -> dict[str, RunConfig]:
    """By label: the best `top` configurations of the first study, and of each other study the
    best one of every kind of model. Raises StoreError if a study has no complete trial, or if
    their models are tested on different tasks.
    """
    found: dict[str, RunConfig] = {}
    for place, name in enumerate(names):
        ranked = Leaderboard.of(record.open_study(store, name)).ranked()
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
"""What tells a contest's runs apart: `configuration_key` and seed."""


@dataclass(frozen=True)
class Run:
    """One of a contest's, which may wait in it."""

    label: str
    run: RunConfig
    number: int | None = None
    waits: bool = False

    @property
    def key(self) -> Key:
        return configuration_key(self.run), self.run.seed


def wanted(runs: Mapping[str, RunConfig], seeds: int) -> list[Run]:
    """Every configuration with every fresh seed, seed by seed."""
    return [
        Run(label, dataclasses.replace(run, seed=seed))
        for seed in range(record.FRESH_SEED, record.FRESH_SEED + seeds)
        for label, run in runs.items()
    ]


def held(study: optuna.Study) -> list[Run]:
    """A contest's runs; not those of which nothing but their number was recovered."""
    return [
        Run(
            label=trial.user_attrs[record.LABEL],
            run=RunConfig.from_dict(trial.user_attrs[record.FIXED]["run"]),
            number=trial.number,
            waits=trial.state == TrialState.WAITING,
        )
        for trial in study.get_trials(deepcopy=False)
        if record.LABEL in trial.user_attrs
    ]


def name_of(
    name: str, store: Store, runs: Mapping[str, RunConfig], lengths: Sequence[int] | None
) -> str:
    """The contest of this name that these runs, measured at these lengths, can be compared in; if
    there is none, the next free name. lengths None: those that it has."""
    known = set(record.names(store))

    tasks = {run.task for run in runs.values()}

    def fits(confirmation: str) -> bool:
        study = record.open_study(store, confirmation)
        if any(_of_a_search(trial) for trial in study.get_trials(deepcopy=False)):
            return False
        known = held(study)
        ladder = _ladder(study)
        same_lengths = lengths is None or ladder is None or ladder.lengths == tuple(lengths)
        same_tasks = {run.run.task for run in known} <= tasks
        return same_lengths and same_tasks and not _relabels(known, runs)

    return next(of for of in numbered(name) if of not in known or fits(of))


def _of_a_search(trial: FrozenTrial) -> bool:
    """Whether a trial began that stands for nobody in a comparison."""
    return record.SPEC in trial.user_attrs and record.LABEL not in trial.user_attrs


def _ladder(study: optuna.Study) -> Ladder | None:
    """Return the ladder of a contest; None where it was interrupted before it had any."""
    content = record.plan(study).get("study")
    return recorded_ladder(content["ladder"]) if content else None


def _phases(file: StudyFile, runs: Mapping[str, RunConfig]) -> int:
    """Return how many phases a new contest measures: all of its runs'."""
    if not file.study.task.build().phased:
        return 1
    periods = [run.trial.model.period for run in runs.values()]
    return max(file.study.ladder.phases or 1, *periods)


def _relabels(known: Iterable[Run], runs: Mapping[str, RunConfig]) -> bool:
    """Whether a label of `runs` stands for another configuration in a contest."""
    keys = {label: configuration_key(run) for label, run in runs.items()}
    return any(one.label in keys and one.key[0] != keys[one.label] for one in known)


def planned(name: str, store: Store, runs: Mapping[str, RunConfig], seeds: int) -> int:
    """How many runs a contest will have once these have ended, with those that began earlier."""
    known = held(record.open_study(store, name)) if name in record.names(store) else []
    begun = {run.key for run in known if not run.waits}
    return len(begun | {run.key for run in wanted(runs, seeds)})


def compare_runs(
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
    it at `lengths` (by default those that it has, at first `fresh_lengths`), on sequences that no
    search has seen. Where the study ends trials that are solved, so are these. name: of `name_of`.
    say: as of `search`.
    """
    searched = file.study.ladder
    known = _ladder(record.open_study(store, name)) if name in record.names(store) else None
    if lengths is None and known is not None:
        lengths = known.lengths
    phases = known.phases if known and known.phases else _phases(file, runs)
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
            sequences=max(searched.sequences, phases),
            solved_reports=searched.solved_reports,
            phases=phases,
            k_top=known.k_top if known else "final",
        ),
    )
    own = dataclasses.replace(file, study=study)
    with locked(name, store) as lock:
        opened = open_or_create(own, store)
        plan = record.plan(opened)
        models = {label: run.trial.model.label() for label, run in runs.items()}
        models = plan.get(record.COMPARISON, {}) | models
        record.set_plan(
            opened, {**plan, "searched": list(searched.select), record.COMPARISON: models}
        )
        queue = enqueue(opened, wanted(runs, seeds))
        specs = TrialSpecs(
            own, record.records(opened), evaluation_seed=EVALUATION_SEED, confirms=True
        )
        ending = execute(
            opened,
            own,
            store,
            watchers,
            trials=len(record.counted(record.records(opened))) + len(queue),
            queue=queue,
            specs=specs,
            lock=lock,
            say=say,
        )
    return ending, opened


def enqueue(study: optuna.Study, runs: Sequence[Run]) -> list[int]:
    """Gives a contest those of the runs that it doesn't have, under whatever label; the numbers of
    all that wait, in the order of `runs`."""
    known = {run.key for run in held(study)}
    for run in runs:
        if run.key not in known:
            record.enqueue(study, run.run, label=run.label)
            known.add(run.key)
    numbers = {run.key: run.number for run in held(study) if run.waits}
    return [number for run in runs if (number := numbers.pop(run.key, None)) is not None]
