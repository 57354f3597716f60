"""List the studies of a store without reading their trials one by one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from sabtune.databases import failure
from sabtune.errors import StoreError
from sabtune.storage.store import Store
from sabtune.study.attributes import PLAN, RETRY_OF, SCORES, SPEC
from sabtune.study.optuna_storage import exists, open_storage, unreadable_value
from sabtune.study.optuna_tables import StudyTally, tallies
from sabtune.study.plan import Plan, planned_trials
from sabtune.study.states import ENDED


@dataclass(frozen=True, kw_only=True)
class ListedStudy:
    """A study as a list of studies shows it.

    counts: the number of trials by state, without failed trials that were run again. planned: the
    number of ended trials at which the study is complete; None if the study doesn't store it.
    best: the best score so far of a trial that hasn't failed; None if there is none, or if the
    study is a comparison. active: when a trial last started or ended. stopped: the label of the
    stopping rule that ended the last search; "" if none did.
    """

    name: str
    counts: Mapping[TrialState, int]
    planned: int | None
    best: float | None
    active: datetime | None
    stopped: str = ""

    @property
    def ended(self) -> int:
        """Return the number of trials that have ended."""
        return sum(self.counts.get(state, 0) for state in ENDED)

    @property
    def complete(self) -> bool:
        """Return whether the planned number of trials has ended, or a stopping rule ended it."""
        if self.stopped:
            return True
        if self.planned is not None:
            return self.ended >= self.planned
        return self.ended == sum(self.counts.values()) > 0


def listed(store: Store) -> list[ListedStudy]:
    """Return the studies of a store that sabtune made, sorted by name; [] if it has none.

    This takes a fraction of the time of reading the studies, and doesn't load PyTorch. Raises
    StoreError if the store can't be read.
    """
    if not exists(store):
        return []
    storage = open_storage(store)
    attributes = {study.study_name: study.user_attrs for study in storage.get_all_studies()}
    try:
        found = tallies(storage.engine, retry=RETRY_OF, scores=SCORES, made=SPEC)
        return [
            _listed(name, attributes[name], tally)
            for name, tally in sorted(found.items())
            if name in attributes and (PLAN in attributes[name] or tally.is_ours)
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise StoreError(unreadable_value(store.shown, problem, "a study")) from problem
    except SQLAlchemyError as problem:
        raise StoreError(failure(store.shown, problem, store.optuna_url)) from problem


def _listed(name: str, attributes: Mapping[str, object], tally: StudyTally) -> ListedStudy:
    stored = attributes.get(PLAN, {})
    plan = Plan.from_dict(stored if isinstance(stored, Mapping) else {})
    counts = dict(tally.counts)
    if tally.run_again:
        counts[TrialState.FAIL] = counts.get(TrialState.FAIL, 0) - tally.run_again
    return ListedStudy(
        name=name,
        counts=counts,
        planned=planned_trials(plan, sum(counts.values())),
        best=tally.best if plan.comparison is None else None,
        active=tally.active,
        stopped=(plan.stopped or {}).get("label", ""),
    )


def parent(name: str, names: Collection[str]) -> str | None:
    """Return the study that a confirmation, an ablation or a baseline is about, among `names`.

    The name of a confirmation is that of its study with ".confirm", and that of a baseline is that
    of its study with its own name, after a dot. Returns None if there is no such study.
    """
    start, dot, _ = name.rpartition(".")
    while dot:
        if start in names:
            return start
        start, dot, _ = start.rpartition(".")
    return None
