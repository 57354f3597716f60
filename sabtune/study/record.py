"""Read a study of a store.

`StudyRecord` is the only reader of what a store holds about a study. `sabtune.study.writer` writes.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import optuna
from optuna.trial import FrozenTrial, TrialState

from sabtune.config import RunConfig
from sabtune.errors import StoreError
from sabtune.storage.store import Store
from sabtune.study.attributes import FIXED, LABEL, MODEL, PLAN, RETRY_OF, SPEC, TRACKING, VERSIONS
from sabtune.study.configurations import Configuration, Leaderboard, Seeds
from sabtune.study.definition import Study, study_from_dict
from sabtune.study.events import KeptModel, Registered, Version
from sabtune.study.optuna_private import Internals
from sabtune.study.optuna_storage import Studies, exists, open_storage
from sabtune.study.plan import Plan, planned_trials
from sabtune.study.states import ENDED, WORDS, counts
from sabtune.study.trial_record import TrialRecord, counted, readable
from sabtune.wording import counted as number_of

MAX_SHOWN_STUDIES = 20
"""The maximum number of studies that a message lists."""


OF_ATTRIBUTES = {"attributes", "plan", "definition", "registered", "model"}
"""The properties of a `StudyRecord` that are read from the study alone, without its trials."""


@dataclass(frozen=True, kw_only=True)
class LabeledRun:
    """A run that was enqueued for a comparison."""

    label: str
    run: RunConfig
    number: int  # of its trial
    waits: bool  # whether the trial has not started yet


class StudyRecord:
    """A study of a store, read once.

    Each property is read when it is first used, and stays as it is until you call `refresh`. Each
    raises StoreError if the store can't be read, or holds a value that sabtune can't read.
    """

    def __init__(self, study: optuna.Study, store: Store | None = None):
        """Read an Optuna study.

        store: the store of a study that is in memory, for the history of its trials and for its
        comparisons.
        """
        self._study, self._internals = study, Internals(study)
        self.name: str = study.study_name
        self._store, self._beside = store_of(study), store

    @classmethod
    def open(cls, store: Store, name: str) -> Self:
        """Open a study of a store for reading.

        Raises StoreError if the store has no such study, or if sabtune didn't create it. If there
        is no such study, the message lists those that exist.
        """
        return cls(load(store, name))

    @classmethod
    def find(cls, store: Store, name: str) -> Self | None:
        """Open a study of a store for reading; return None if the store has no such study.

        Raises StoreError if sabtune didn't create the study.
        """
        if not exists(store):
            return None
        storage = open_storage(store)
        if name not in names_in(storage):
            return None
        record = cls(optuna.load_study(study_name=name, storage=storage))
        record.check()
        return record

    def refresh(self, *, trials: bool = True) -> None:
        """Have every property read again when it is used next.

        trials: whether to read the trials again too, and not only the attributes of the study.
        """
        for name in [*vars(self)] if trials else OF_ATTRIBUTES & vars(self).keys():
            if isinstance(getattr(type(self), name, None), cached_property):
                del self.__dict__[name]

    def close(self) -> None:
        """Close the connections to the database. They open again when they are needed."""
        self._internals.close()

    def check(self) -> None:
        """Raise StoreError if sabtune didn't create the study, or if its plan is damaged."""
        if not self.is_ours:
            raise StoreError(
                f"study {self.name!r} in {self.store.shown} wasn't made by sabtune: "
                "give the name of another study"
            )
        _ = self.plan

    @property
    def store(self) -> Store:
        """The store of the study."""
        store = self._beside if self._store is None else self._store
        assert store is not None, "the study is in no store"
        return store

    @property
    def is_stored(self) -> bool:
        """Whether the study is in a store, which may contain other studies too."""
        return (self._store or self._beside) is not None

    @property
    def directions(self) -> list[str]:
        """The direction of each objective: "maximize" or "minimize"."""
        return [direction.name.lower() for direction in self._study.directions]

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """The attributes of the study, as they are stored."""
        return self._study.user_attrs

    @cached_property
    def frozen(self) -> Sequence[FrozenTrial]:
        """All trials as Optuna has them, including those that wait. Don't change them."""
        return self._study.get_trials(deepcopy=False)

    @property
    def is_ours(self) -> bool:
        """Whether sabtune created the study: it has a plan, or sabtune started all its trials."""
        started = (trial for trial in self.frozen if trial.datetime_start is not None)
        return PLAN in self.attributes or all({SPEC, FIXED} & t.user_attrs.keys() for t in started)

    @cached_property
    def trials(self) -> list[TrialRecord]:
        """The trials that have started, in the order of their numbers.

        Failed trials that were run again are included, with `run_again` set; see `counted`.
        """
        trials = (trial for trial in self.frozen if trial.state != TrialState.WAITING)
        return [self._record(trial) for trial in trials]

    @cached_property
    def counted(self) -> list[TrialRecord]:
        """The trials that enter scores, rankings and counts: all but those run again."""
        return counted(self.trials)

    @property
    def failed(self) -> list[TrialRecord]:
        """The failed trials that have a configuration and were not run again."""
        return [t for t in self.counted if t.state == TrialState.FAIL and t.run is not None]

    @cached_property
    def run_again(self) -> set[int]:
        """The numbers of failed trials that were run again, or are enqueued to be."""
        attributes = (trial.user_attrs for trial in self.frozen)
        return {attrs[RETRY_OF] for attrs in attributes if RETRY_OF in attrs}

    @property
    def waiting(self) -> list[int]:
        """The numbers of the enqueued trials that have not started."""
        return [trial.number for trial in self.frozen if trial.state == TrialState.WAITING]

    @property
    def waiting_repetitions(self) -> list[int]:
        """The numbers of the enqueued trials that repeat a failed trial."""
        waiting = (trial for trial in self.frozen if trial.state == TrialState.WAITING)
        return [trial.number for trial in waiting if RETRY_OF in trial.user_attrs]

    @property
    def running(self) -> list[int]:
        """The numbers of the trials that run, or that an earlier search left unfinished."""
        return [trial.number for trial in self.frozen if trial.state == TrialState.RUNNING]

    @property
    def planned(self) -> int | None:
        """The number of ended trials at which the study is complete; None if it isn't stored."""
        return planned_trials(self.plan, sum(self.counts.values()))

    @property
    def ended(self) -> int:
        """The number of trials that have ended, without failed trials that were run again."""
        return sum(count for state, count in self.counts.items() if state in ENDED)

    @cached_property
    def counts(self) -> Mapping[TrialState, int]:
        """The number of trials in each state, without failed trials that were run again."""
        return Counter(t.state for t in self.frozen if t.number not in self.run_again)

    @property
    def labeled_runs(self) -> list[LabeledRun]:
        """The runs of a comparison, whether or not they have started."""
        with readable(f"the runs of study {self.name!r}", self._store):
            return [
                LabeledRun(
                    label=trial.user_attrs[LABEL],
                    run=RunConfig.from_dict(trial.user_attrs[FIXED]["run"]),
                    number=trial.number,
                    waits=trial.state == TrialState.WAITING,
                )
                for trial in self.frozen
                if LABEL in trial.user_attrs
            ]

    @property
    def belongs_to_search(self) -> bool:
        """Whether a trial has started that is not a run of a comparison."""
        attributes = (trial.user_attrs for trial in self.frozen)
        return any(SPEC in attrs and LABEL not in attrs for attrs in attributes)

    def trial(self, number: int) -> TrialRecord:
        """Return the trial with this number. Raises StoreError if there is none.

        If the trials haven't been read yet, only this one is.
        """
        if "trials" in vars(self):
            for trial in self.trials:
                if trial.number == number:
                    return trial
        try:
            frozen = self._internals.read(number)
        except KeyError:
            raise StoreError(
                f"study {self.name!r} has no trial {number}: it has 0 to {len(self.frozen) - 1}"
            ) from None
        return TrialRecord.of(frozen, self._store)

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        record = TrialRecord.of(trial, self._store)
        return replace(record, run_again=True) if trial.number in self.run_again else record

    @cached_property
    def plan(self) -> Plan:
        """The settings of the study file that a report or a later search needs."""
        with readable(f"the plan of study {self.name!r}", self._store):
            return Plan.from_dict(dict(self.attributes.get(PLAN, {})))

    @cached_property
    def definition(self) -> Study | None:
        """The definition of the study, as its file had it last; None if the study stores none."""
        if self.plan.study is None:
            return None
        with readable(f"the plan of study {self.name!r}", self._store):
            return study_from_dict(self.plan.study)

    @property
    def stopped_by(self) -> str:
        """The stopping rule that ended the last search, in words; "" if none did."""
        return (self.plan.stopped or {}).get("reason", "")

    @property
    def is_comparison(self) -> bool:
        """Whether the trials of the study are the runs of `confirm` or `ablate`."""
        return self.plan.comparison is not None

    @cached_property
    def leaderboard(self) -> Leaderboard:
        """The configurations of the study, with the results of their seeds."""
        with readable(f"the plan of study {self.name!r}", self._store):
            seeds = Seeds(**self.plan.seeds or {})
        return Leaderboard(seeds).add(self.trials)

    @cached_property
    def ranked(self) -> list[Configuration]:
        """The configurations with a complete, feasible trial, best first."""
        return self.leaderboard.ranked()

    @property
    def best(self) -> TrialRecord | None:
        """The best trial of the best configuration; None if no trial qualifies."""
        return self.ranked[0].best if self.ranked else None

    @property
    def pareto_front(self) -> list[TrialRecord]:
        """The complete trials of the Pareto front, by the first objective, best first."""
        front = [self._record(trial) for trial in self._study.best_trials]
        return sorted(front, key=lambda trial: trial.values[0], reverse=True)

    @cached_property
    def registered(self) -> Registered:
        """The registered models of the study, and its champion."""
        stored = self.attributes.get(VERSIONS, {"versions": [], "champion": None})
        with readable(f"the champion of study {self.name!r}", self._store):
            versions = tuple(Version(**version) for version in stored["versions"])
            return Registered(versions=versions, champion=stored["champion"])

    @property
    def champion(self) -> Version | None:
        """The trial whose model you should use; None if there is none."""
        return self.registered.champion_version

    @cached_property
    def model(self) -> KeptModel | None:
        """The model that MLflow keeps for the study, or None."""
        stored = self.attributes.get(MODEL)
        with readable(f"the kept model of study {self.name!r}", self._store):
            return KeptModel(**stored) if stored else None

    @property
    def tracking(self) -> str | None:
        """The URI of the MLflow that has the model; None if it is the store's own."""
        return self.attributes.get(TRACKING)

    def counts_in_words(self, words: Mapping[TrialState, str] = WORDS) -> str:
        """Return the number of trials in each state; "" if there are none.

        Waiting trials count too. An example is "5 complete, 2 pruned; 1 failed and run again".
        """
        again = len(self.run_again)
        text = counts(Counter(self.counts).elements(), words)
        return text + (f"; {again} failed and run again" if again else "")

    @property
    def size(self) -> str:
        """The number of started trials in words, as in "7 trials (5 complete, 2 pruned)"."""
        started: Mapping[TrialState, str] = {
            state: word for state, word in WORDS.items() if state != TrialState.WAITING
        }
        words = self.counts_in_words(started)
        return number_of(len(self.counted), "trial") + (f" ({words})" if words else "")


def store_of(study: optuna.Study) -> Store | None:
    """Return the store that holds a study; None if the study is in no store."""
    database = Internals(study).database
    return database.store if isinstance(database, Studies) else None


def load(store: Store, name: str) -> optuna.Study:
    """Load a study of a store for reading, after the checks of `StudyRecord.open`."""
    storage = open_storage(store)
    existing = names_in(storage)
    if name not in existing:
        raise StoreError(
            f"{store.shown} has no study {name!r}: {_existing_studies(name, existing)}"
        )
    study = optuna.load_study(study_name=name, storage=storage)
    StudyRecord(study).check()
    return study


def names_in(storage: Studies) -> list[str]:
    """Return the names of the studies in a storage, sorted."""
    return sorted(study.study_name for study in storage.get_all_studies())


def _existing_studies(name: str, existing: Sequence[str]) -> str:
    """Return the end of a message: the studies that exist, and the one with the closest name."""
    if not existing:
        return "it has no studies yet; run `sabtune search` first"
    near = difflib.get_close_matches(name, existing, n=1)
    hidden = len(existing) - MAX_SHOWN_STUDIES
    others = f", and {hidden} more" if hidden > 0 else ""
    words = f"it has {', '.join(existing[:MAX_SHOWN_STUDIES])}{others}"
    return f"did you mean {near[0]!r}? {words}" if near else words
