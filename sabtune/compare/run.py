"""Confirmations and ablations from start to end: the runs that they need, and running them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sabtune.compare.ablation import CHANGED, ablations
from sabtune.compare.champion import update_champion
from sabtune.compare.confirm import (
    EVALUATION_SEED,
    comparison_file,
    enqueue,
    finalists,
    name_of,
    planned,
    study_file,
    with_fresh_seeds,
)
from sabtune.config import RunConfig
from sabtune.schema import check_lengths, check_whole
from sabtune.storage.store import Store
from sabtune.study.events import Version, Watcher
from sabtune.study.locks import locked
from sabtune.study.record import StudyRecord
from sabtune.study.resuming import check_same_data
from sabtune.study.study_file import StudyFile
from sabtune.study.trial_specs import TrialSpecs
from sabtune.study.writer import StudyWriter
from sabtune.tracking import mirror
from sabtune.tuning.run import (
    FIRST_STEP,
    Ending,
    EnqueuedTrials,
    Say,
    execute,
    open_or_create,
    silent,
)


@dataclass(frozen=True, kw_only=True)
class ComparisonPlan:
    """A comparison that has not run yet.

    name: The study that contains its runs. If the study NAME.confirm or NAME.ablate has runs that
    these can't be compared with, the name is the first of NAME.confirm-2, NAME.confirm-3 and so on
    that fits.

    file: The study file of the first study.

    runs: The configurations by label.

    seeds: The number of fresh seeds of each configuration.

    trials: The number of trials that the study has once the comparison is complete.

    lengths: The lengths to measure. None: those of the existing comparison, or fresh ones.

    champion_of: The study whose champion the finished comparison updates, or None.
    """

    name: str
    file: StudyFile
    store: Store
    runs: dict[str, RunConfig]
    seeds: int
    trials: int
    lengths: tuple[int, ...] | None
    champion_of: str | None = None

    @property
    def renamed_file(self) -> StudyFile:
        """The study file with the name and the number of trials of the comparison."""
        return self.file.renamed(self.name).with_limits(trials=self.trials, seed=None)


def plan_confirmation(
    store: Store,
    studies: Sequence[str],
    *,
    top: int = 3,
    seeds: int = 10,
    lengths: Sequence[int] | None = None,
    say: Say = silent,
) -> ComparisonPlan:
    """Plan the confirmation of the best configurations of one or more studies.

    top: The number of configurations of the first study. Each other study takes part with its best
    configuration of each kind of model.

    say: Receives a line if the runs go to another study than NAME.confirm.

    Raises StoreError if a study has no complete trial, the studies have different tasks or their
    data has changed, DataError if the data is missing, and ConfigError if a number is out of range.
    """
    check_whole("top", top, least=1)
    records = [StudyRecord.open(store, name) for name in studies]
    runs = finalists(records, top)
    _check_data(records, runs)
    return _plan("confirm", records[0], runs, seeds, lengths, say, champion_of=studies[0])


def plan_ablation(
    store: Store,
    studies: Sequence[str],
    *,
    seeds: int = 5,
    changes: Sequence[str] | None = None,
    lengths: Sequence[int] | None = None,
    say: Say = silent,
) -> ComparisonPlan:
    """Plan the ablation of the best configuration of each study.

    changes: The settings to change, among `ablation.CHANGED`. None: all of them.

    say: Receives a line about each variant that is left out.

    Raises StoreError if a study has no complete trial, the studies have different tasks or their
    data has changed, DataError if the data is missing, and ConfigError if a number is out of range
    or a change is unknown.
    """
    records = [StudyRecord.open(store, name) for name in studies]
    runs = ablations(finalists(records, 1), CHANGED if changes is None else changes, say)
    _check_data(records, runs)
    return _plan("ablate", records[0], runs, seeds, lengths, say)


def _check_data(records: Sequence[StudyRecord], runs: dict[str, RunConfig]) -> None:
    """Raise StoreError if the data of these studies has changed."""
    for task in {run.task for run in runs.values()}:
        for record in records:
            check_same_data(record, task)


def _plan(
    kind: str,
    study: StudyRecord,
    runs: dict[str, RunConfig],
    seeds: int,
    lengths: Sequence[int] | None,
    say: Say,
    champion_of: str | None = None,
) -> ComparisonPlan:
    check_whole("seeds", seeds, least=1)
    if lengths is not None:
        check_lengths("lengths", lengths)
    requested = f"{study.name}.{kind}"
    name, existing = name_of(requested, study.store, runs, lengths)
    if name != requested:
        say(f"{requested} has other lengths or another winner; these runs go to {name}")
    return ComparisonPlan(
        name=name,
        file=study_file(study),
        store=study.store,
        runs=runs,
        seeds=seeds,
        trials=planned(existing, runs, seeds),
        lengths=None if lengths is None else tuple(lengths),
        champion_of=champion_of,
    )


def run_comparison(
    plan: ComparisonPlan,
    watchers: Sequence[Watcher] = (),
    say: Say = silent,
    step: Say = silent,
) -> tuple[Ending, StudyRecord]:
    """Run a comparison; return how it ended, and the study that contains its runs.

    Each configuration is trained on the same fresh seeds and measured on fresh sequences. A
    comparison that was interrupted resumes. watchers, say, step: See `sabtune.tuning.run.search`,
    which also lists the errors.
    """
    step(FIRST_STEP)
    with locked(plan.name, plan.store) as lock:
        existing = StudyRecord.find(plan.store, plan.name)
        file = comparison_file(plan.name, plan.file, plan.runs, plan.lengths, existing)
        study = open_or_create(file, plan.store)
        models = {label: run.model.label() for label, run in plan.runs.items()}
        study.change_plan(
            searched=plan.file.study.ladder.select,
            comparison={**(study.read().plan.comparison or {}), **models},
        )
        queue = enqueue(study, with_fresh_seeds(plan.runs, plan.seeds))
        record = study.read()
        specs = TrialSpecs(
            file, record.trials, plan.store.code, evaluation_seed=EVALUATION_SEED, confirms=True
        )
        ending = execute(
            study,
            file,
            plan.store,
            watchers,
            trials=len(record.counted) + len(queue),
            enqueued=EnqueuedTrials(numbers=queue, specs=specs),
            lock=lock,
            say=say,
            step=step,
        )
    return ending, study.read()


def update_champion_of(plan: ComparisonPlan, ending: Ending) -> tuple[Version | None, str]:
    """Update the champion of the study that a finished comparison is about.

    Returns the champion, or None if the comparison doesn't concern one, and why MLflow doesn't show
    the champion; "" if it does.
    """
    if plan.champion_of is None or not ending.complete:
        return None, ""
    searched = StudyWriter.open(plan.store, plan.champion_of)
    champion = update_champion(searched, StudyRecord.open(plan.store, plan.name))
    behind = "" if champion is None else mirror.show_champion(searched, plan.store)
    return champion, behind
