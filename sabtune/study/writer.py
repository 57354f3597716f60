"""Write to a study of a store. Only the process that holds the study's lock does so."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, Self

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from sabtune.config import RunConfig
from sabtune.storage.store import Store, recorded
from sabtune.study.attributes import (
    CHECKPOINT,
    FIXED,
    FORMAT,
    IDENTITY,
    LABEL,
    LADDER,
    MEMORY,
    MODEL,
    MULTIPLY_ADDS,
    PARAMETERS,
    PLAN,
    REASON,
    RESULT,
    RETRY_OF,
    SCORES,
    SECONDS,
    STORE_FORMAT,
    TEST,
    TRACKING,
    VERSIONS,
)
from sabtune.study.events import KeptModel, Outcome, Registered
from sabtune.study.objectives import Direction
from sabtune.study.optuna_private import Internals, when_opened
from sabtune.study.optuna_storage import Studies, open_storage
from sabtune.study.plan import Plan
from sabtune.study.record import StudyRecord, load, names_in, store_of
from sabtune.study.trial_record import TrialRecord
from sabtune.study.write_behind import WriteBehind
from sabtune.training.trial import Progress, plain


class StudyWriter:
    """A study that is open to write to it. `read` returns what it holds.

    optuna: the study in Optuna, which has the sampler.
    """

    def __init__(self, study: optuna.Study):
        self.optuna, self.internals = study, Internals(study)
        self.name: str = study.study_name

    @classmethod
    def open(cls, store: Store, name: str) -> Self:
        """Open a study of a store to write to it. Raises StoreError as `StudyRecord.open` does."""
        Internals(load(store, name)).close()
        return cls(optuna.load_study(study_name=name, storage=open_storage(store, write=True)))

    @classmethod
    def create(cls, store: Store, name: str, directions: Sequence[Direction]) -> Self:
        """Create a study, or open it if the store has it.

        directions: one for each objective.
        """
        study = optuna.create_study(
            study_name=name,
            storage=open_storage(store, write=True),
            directions=list(directions),
            load_if_exists=True,
        )
        return cls(study)

    @contextmanager
    def buffered(self) -> Iterator[None]:
        """Keep the trials in memory within the block, and write their changes together.

        Only the process that holds the study's lock may do this. See `WriteBehind` for when changes
        are written. At the end of the block, all are.
        """
        optuna_study, internals = self.optuna, self.internals
        database = internals.database
        assert isinstance(database, Studies)
        storage = WriteBehind(database, internals.study_id)
        self.optuna = optuna.load_study(
            study_name=self.name, storage=storage, sampler=optuna_study.sampler
        )
        self.internals = Internals(self.optuna)
        try:
            yield
        finally:
            self.optuna, self.internals = optuna_study, internals
            storage.flush()

    def flush(self, *, after: float = 0.0) -> None:
        """Write the changes of trials, if the first was made at least `after` seconds ago.

        This does nothing outside of `buffered`.
        """
        self.internals.flush(after=after)

    def read(self) -> StudyRecord:
        """Return the record of the study as it is now."""
        return StudyRecord(self.optuna)

    def identity(self) -> str:
        """Return the unique identity of the study, and store it on the first call."""
        stored = self.optuna.user_attrs.get(IDENTITY)
        if stored is None:
            stored = uuid.uuid4().hex
            self.optuna.set_user_attr(IDENTITY, stored)
        return str(stored)

    def set_plan(self, plan: Plan) -> None:
        """Store the plan of the study, and the version of the format."""
        attributes, content = self.optuna.user_attrs, plan.to_dict()
        if attributes.get(PLAN, {}) != content:
            self.optuna.set_user_attr(PLAN, content)
        if attributes.get(FORMAT) != STORE_FORMAT:
            self.optuna.set_user_attr(FORMAT, STORE_FORMAT)

    def change_plan(self, **changes: Any) -> None:
        """Store the plan of the study with these fields changed."""
        self.set_plan(replace(self.read().plan, **changes))

    def set_model(self, model: KeptModel) -> None:
        """Store which model MLflow keeps for the study."""
        if self.read().model != model:
            self.optuna.set_user_attr(MODEL, asdict(model))

    def set_registered(self, registered: Registered) -> None:
        """Store the registered models of the study and its champion."""
        if self.read().registered != registered:
            self.optuna.set_user_attr(VERSIONS, asdict(registered))

    def set_tracking(self, uri: str | None) -> None:
        """Store the URI of the MLflow that has the model; None for the store's own."""
        if self.read().tracking != uri:
            self.optuna.set_user_attr(TRACKING, uri)

    def enqueue(
        self,
        run: RunConfig,
        *,
        params: Mapping[str, Any] | None = None,
        label: str = "",
        retry_of: int | None = None,
    ) -> None:
        """Enqueue a trial whose configuration and seed are those of `run`, not chosen by the space.

        params: the parameters to record as drawn from the space; None if the run doesn't come from
        the space. label: the trial's group in a comparison. retry_of: the number of the failed
        trial that this trial repeats.
        """
        attrs: dict[str, Any] = {FIXED: {"run": run.to_dict(), "space": params is not None}}
        attrs |= {LABEL: label} if label else {}
        attrs |= {RETRY_OF: retry_of} if retry_of is not None else {}
        self.optuna.enqueue_trial(dict(params or {}), user_attrs=attrs)

    def enqueue_point(self, point: Mapping[str, Any]) -> None:
        """Enqueue a trial with these parameters, unless a trial has them already."""
        self.optuna.enqueue_trial(dict(point), skip_if_exists=True)

    def begin(self, number: int) -> optuna.Trial:
        """Start the waiting trial with this number."""
        return self.internals.start(number)

    def begin_again(self, earlier: int, run: RunConfig, configuration: int) -> optuna.Trial:
        """Start a trial of `run`, recorded with the parameters of an earlier trial.

        The space isn't called. earlier: the number of the earlier trial. configuration: the number
        of the configuration that the new trial belongs to.
        """
        template = self.internals.read(earlier)
        fixed = {"run": run.to_dict(), "space": False, "configuration": configuration}
        return self.add(template.params, template.distributions, {FIXED: fixed})

    def add(
        self,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        attributes: dict[str, Any],
    ) -> optuna.Trial:
        """Start a new trial with these parameters and attributes."""
        return self.internals.add(_running(params, distributions, attributes))

    def begin_as(
        self,
        number: int,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        attributes: dict[str, Any],
    ) -> None:
        """Start the waiting trial with this number, with these parameters and attributes."""
        self.internals.start_as(number, _running(params, distributions, attributes))

    def reopen(self, number: int) -> optuna.Trial:
        """Open a trial that hasn't ended, to write to it."""
        return self.internals.open(number)

    def last_step(self, trial: optuna.Trial) -> int:
        """Return the number of updates at a trial's last stored score; 0 if it has none.

        Scores that another process stored after the trial was opened don't count.
        """
        return max(TrialRecord.of(when_opened(trial)).scores, default=0)

    def report(self, trial: optuna.Trial, progress: Progress) -> None:
        """Store the score of a trial at the number of updates of this progress."""
        step = progress.report.step
        if len(self.optuna.directions) == 1:
            trial.report(progress.score, step)
        else:
            scores = trial.user_attrs.get(SCORES, {})
            trial.set_user_attr(SCORES, scores | {str(step): progress.score})

    def end(
        self,
        trial: optuna.Trial,
        outcome: Outcome,
        values: Sequence[float] | None = None,
        last: Progress | None = None,
    ) -> TrialRecord:
        """Store how a trial ended, and return its record.

        values: one for each objective; None unless the trial is complete. last: the last progress;
        None if the trial made none. The state is written last, so that the record of an ended trial
        is never partial.
        """
        result: dict[str, Any] = {
            LADDER: plain(outcome.ladder),
            TEST: plain(outcome.test),
            REASON: outcome.reason,
        }
        if last is not None:
            result |= {SECONDS: last.seconds, MEMORY: last.memory}
            cost = {PARAMETERS: last.parameters, MULTIPLY_ADDS: last.multiply_adds}
            result |= {name: value for name, value in cost.items() if value is not None}
        if outcome.checkpoint is not None:
            result[CHECKPOINT] = recorded(outcome.checkpoint)
        trial.set_user_attr(RESULT, result)
        frozen = self.optuna.tell(trial, values, state=TrialState[outcome.state])
        return TrialRecord.of(frozen, store_of(self.optuna))


def writers(store: Store) -> list[StudyWriter]:
    """Open every study of a store to write to it, whether or not sabtune created it."""
    storage = open_storage(store, write=True)
    return [
        StudyWriter(optuna.load_study(study_name=name, storage=storage))
        for name in names_in(storage)
    ]


def _running(
    params: dict[str, Any],
    distributions: dict[str, BaseDistribution],
    attributes: dict[str, Any],
) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=params,
        distributions=distributions,
        user_attrs=attributes,
    )
