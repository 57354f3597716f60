"""Comparisons of configurations on fresh seeds: `confirm` and `ablate`.

The runs of a comparison are the trials of a study of their own, NAME.confirm or NAME.ablate, which
runs like a search without pruning. You can resume an interrupted comparison, and add seeds to it. A
run that an earlier command requested but that never started waits until a command requests it
again. Runs with other lengths or another winner can't be compared with the existing ones. They go
to NAME.confirm-2 or NAME.ablate-2.
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

from sabtune.config import RunConfig
from sabtune.errors import StoreError, StudyFileError
from sabtune.schema import KIND
from sabtune.storage.store import Store
from sabtune.study.configurations import Seeds
from sabtune.study.loading import load
from sabtune.study.names import numbered
from sabtune.study.record import StudyRecord
from sabtune.study.resuming import as_asked
from sabtune.study.study_file import StudyFile
from sabtune.study.trial_specs import FRESH_SEED, configuration_key
from sabtune.study.writer import StudyWriter
from sabtune.training.evaluation import Ladder, recorded_ladder

EVALUATION_SEED = FRESH_SEED
"""The seed of the test sequences of comparisons, which no search uses."""


def study_file(study: StudyRecord) -> StudyFile:
    """Return the file that a study was searched from, with the recorded task and ladder.

    If there is no file, as for a study from a notebook or after a move to another machine, the
    recorded study is used.
    """
    plan, path = study.plan, Path(study.plan.file or study.name)
    if plan.file and path.is_file():
        return as_asked(load(path, plan.baseline), plan)
    if study.definition is None:
        raise StoreError(
            f"study {study.name!r} in {study.store.shown} stores no definition: search it again"
        )
    file = StudyFile(path, study.definition, _no_space, question=plan.question or "",
                     baseline=plan.baseline, source=plan.source or "",
                     in_file=bool(plan.file))  # fmt: skip
    return as_asked(file, plan)


def _no_space(trial: optuna.Trial) -> NoReturn:
    raise StudyFileError(f"trial {trial.number} needs the study's file, which is gone: put it back")


def finalists(studies: Sequence[StudyRecord], top: int) -> dict[str, RunConfig]:
    """Return the configurations to compare, by label.

    These are the best `top` configurations of the first study, and from each other study the best
    configuration of each kind of model. Raises StoreError if a study has no complete trial, or if
    the models are tested on different tasks.
    """
    runs: dict[str, RunConfig] = {}
    for index, study in enumerate(studies):
        if not study.ranked:
            raise StoreError(f"study {study.name!r} has no complete trial yet: search it first")
        kinds: set[object] = set()
        for configuration in study.ranked:
            run = configuration.best.run
            assert run is not None
            kind = run.to_dict()["trial"]["model"][KIND]
            if len(runs) < top if index == 0 else kind not in kinds:
                prefix = f"{study.name} " if len(studies) > 1 else ""
                runs[f"{prefix}#{configuration.number} {run.model.label()}"] = run
            kinds.add(kind)
    tasks = {run.task: label for label, run in runs.items()}
    if len(tasks) > 1:
        raise StoreError(
            f"{' and '.join(tasks.values())} are tested on different tasks: "
            "compare studies of the same task and length"
        )
    return runs


def fresh_lengths(ladder: Ladder) -> tuple[int, ...]:
    """Return the training length, followed by lengths that the ladder doesn't have.

    The new lengths are the geometric means of adjacent lengths of the ladder, and twice its longest
    length.
    """
    between = [round(math.sqrt(a * b)) for a, b in pairwise(ladder.lengths)]
    lengths = {*between, 2 * ladder.lengths[-1]} - set(ladder.lengths)
    return (ladder.lengths[0], *sorted(length for length in lengths if length > ladder.lengths[0]))


Key = tuple[str, int]
"""The identity of a run in a comparison: its `configuration_key` and its seed."""


@dataclass(frozen=True)
class Run:
    """A run of a comparison.

    label: The name of the configuration in the comparison.

    run: The configuration, with the seed of the run.

    number: The number of the run's trial. None: it has no trial yet.

    waits: Whether it has a trial that has not started yet.
    """

    label: str
    run: RunConfig
    number: int | None = None
    waits: bool = False

    @property
    def key(self) -> Key:
        """The identity of the run."""
        return configuration_key(self.run), self.run.seed


def with_fresh_seeds(runs: Mapping[str, RunConfig], seeds: int) -> list[Run]:
    """Return each configuration with each of `seeds` fresh seeds, sorted by seed."""
    return [
        Run(label, dataclasses.replace(run, seed=seed))
        for seed in range(FRESH_SEED, FRESH_SEED + seeds)
        for label, run in runs.items()
    ]


def recorded_runs(study: StudyRecord) -> list[Run]:
    """Return the runs that a comparison has recorded, whether or not they have started."""
    return [
        Run(label=each.label, run=each.run, number=each.number, waits=each.waits)
        for each in study.labeled_runs
    ]


def name_of(
    name: str, store: Store, runs: Mapping[str, RunConfig], lengths: Sequence[int] | None
) -> tuple[str, StudyRecord | None]:
    """Return the name of the comparison that these runs belong to, and the comparison if it exists.

    The name is the first of NAME, NAME-2 and so on that doesn't exist yet, or whose runs have the
    same task and lengths and use no label for another configuration.

    lengths: The lengths to measure. None: those of an existing comparison, whatever they are.
    """
    tasks = {run.task for run in runs.values()}

    def fits(study: StudyRecord | None) -> bool:
        if study is None:
            return True
        if study.belongs_to_search:
            return False
        existing = recorded_runs(study)
        ladder = _ladder(study)
        same_lengths = lengths is None or ladder is None or ladder.lengths == tuple(lengths)
        same_tasks = {run.run.task for run in existing} <= tasks
        return same_lengths and same_tasks and not _relabels(existing, runs)

    studies = ((n, StudyRecord.find(store, n)) for n in numbered(name))
    return next((n, study) for n, study in studies if fits(study))


def _ladder(study: StudyRecord | None) -> Ladder | None:
    """Return the ladder of a comparison; None if there is none, or it was interrupted too early."""
    if study is None or study.plan.study is None:
        return None
    return recorded_ladder(study.plan.study["ladder"])


def _phases(file: StudyFile, runs: Mapping[str, RunConfig]) -> int:
    """Return the number of phases of a new comparison, at least the k_att of every run.

    Returns 1 for a task that isn't measured by phase.
    """
    if not file.study.task.build().phased:
        return 1
    periods = [run.model.period for run in runs.values()]
    return max(file.study.ladder.phase_count, *periods)


def _relabels(existing: Iterable[Run], runs: Mapping[str, RunConfig]) -> bool:
    """Return whether an existing run has a label of `runs` and another configuration."""
    keys = {label: configuration_key(run) for label, run in runs.items()}
    return any(run.label in keys and run.key[0] != keys[run.label] for run in existing)


def planned(study: StudyRecord | None, runs: Mapping[str, RunConfig], seeds: int) -> int:
    """Return the number of runs of a comparison once these have run, including earlier ones.

    study: The comparison; None if it doesn't exist yet.
    """
    existing = recorded_runs(study) if study is not None else []
    started = {run.key for run in existing if not run.waits}
    return len(started | {run.key for run in with_fresh_seeds(runs, seeds)})


def comparison_file(
    name: str,
    file: StudyFile,
    runs: Mapping[str, RunConfig],
    lengths: Sequence[int] | None,
    existing: StudyRecord | None,
) -> StudyFile:
    """Return the study file of a comparison.

    The runs stop early after the same number of solved measurements as the trials of the study
    (`Ladder.solved_reports`).

    name: The name of the comparison.

    file: The study file of the first study.

    runs: The configurations by label.

    lengths: The lengths to measure. None: those of the existing comparison, or `fresh_lengths`.

    existing: The comparison; None if it doesn't exist yet.
    """
    searched, ladder = file.study.ladder, _ladder(existing)
    if lengths is None and ladder is not None:
        lengths = ladder.lengths
    phases = ladder.phases if ladder and ladder.phases else _phases(file, runs)
    study = dataclasses.replace(
        file.study,
        name=name,
        pruning=None,
        seeds=Seeds(),
        objectives=("score",),
        points=(),
        stop=None,
        ladder=Ladder(
            lengths=tuple(lengths or fresh_lengths(searched)),
            select=searched.select if searched.solved_reports else searched.lengths[:1],
            sequences=max(searched.sequences, phases),
            solved_reports=searched.solved_reports,
            phases=phases,
            k_top=ladder.k_top if ladder else "final",
        ),
    )
    return dataclasses.replace(file, study=study)


def enqueue(study: StudyWriter, runs: Sequence[Run]) -> list[int]:
    """Enqueue the runs that a comparison doesn't have under any label.

    Returns the trial numbers of those given runs that have not started, in the order of `runs`.
    """
    existing = {run.key for run in recorded_runs(study.read())}
    for run in runs:
        if run.key not in existing:
            study.enqueue(run.run, label=run.label)
            existing.add(run.key)
    numbers = {run.key: run.number for run in recorded_runs(study.read()) if run.waits}
    return [number for run in runs if (number := numbers.pop(run.key, None)) is not None]
