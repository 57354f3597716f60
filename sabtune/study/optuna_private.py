"""The private attributes of Optuna that sabtune uses.

No other module uses a private attribute or a private module of Optuna, so that a new version of
Optuna can only break this one.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn, Self

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, Row, Table, func, select

CACHED_METHODS = ("_create_new_trial", "_get_trials", "_set_trial_param")
"""The private methods of a storage in a database that Optuna's cache calls."""

CREATING_METHODS = ("create_new_trial", "_create_new_trial")
"""The methods of a storage that create a trial. The private one returns it, the other its ID."""


class Internals:
    """The storage of an Optuna study, and single trials in it."""

    def __init__(self, study: optuna.Study):
        self.study = study
        self._storage: BaseStorage = study._storage

    @property
    def database(self) -> BaseStorage:
        """Return the study's storage, which Optuna puts behind a cache if it is a database."""
        return getattr(self._storage, "_backend", self._storage)

    @property
    def engine(self) -> Engine:
        """Return the engine of the study's database."""
        database = self.database
        assert isinstance(database, RDBStorage)
        return database.engine

    @property
    def study_id(self) -> int:
        """Return the ID of the study in its storage."""
        return self.study._study_id

    def close(self) -> None:
        """Close the connections to the study's database."""
        self._storage.remove_session()
        self.engine.dispose()

    def read(self, number: int) -> FrozenTrial:
        """Read one trial. Raises KeyError if there is none with this number.

        This is faster than reading all trials: Optuna doesn't cache trials that haven't ended.
        """
        return self._storage.get_trial(self._trial_id(number))

    def open(self, number: int) -> optuna.Trial:
        """Open a trial that hasn't ended, to write to it."""
        return optuna.Trial(self.study, self._trial_id(number))

    def start(self, number: int) -> optuna.Trial:
        """Start the waiting trial with this number, and open it.

        Optuna's `Study.ask` always starts the first waiting trial.
        """
        trial_id = self._trial_id(number)
        self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        return optuna.Trial(self.study, trial_id)

    def start_as(self, number: int, template: FrozenTrial) -> None:
        """Start the waiting trial with this number, with the parameters and attributes of another.

        template: a trial that was made by `optuna.trial.create_trial`.
        """
        trial_id = self._trial_id(number)
        for name, distribution in template.distributions.items():
            value = distribution.to_internal_repr(template.params[name])
            self._storage.set_trial_param(trial_id, name, value, distribution)
        for name, value in template.user_attrs.items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)

    def add(self, template: FrozenTrial) -> optuna.Trial:
        """Add a running trial that was made by `optuna.trial.create_trial`, and open it."""
        trial_id = self._storage.create_new_trial(self.study_id, template)
        return optuna.Trial(self.study, trial_id)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self.study_id, number)


def when_opened(trial: optuna.Trial) -> FrozenTrial:
    """Return an open trial with what it held when it was opened, and what it has written since."""
    return trial._cached_frozen_trial


def trial_id(trial: FrozenTrial) -> int:
    """Return the ID of a trial in its storage."""
    return trial._trial_id


def is_on_grid(distribution: BaseDistribution, value: float) -> bool:
    """Return whether a distribution of numbers contains a number, which its step may exclude."""
    return distribution._contains(value)


class InterceptedTrial(optuna.Trial):
    """A trial that calls `before` and `refused` when it suggests a parameter."""

    @classmethod
    def of(cls, trial: optuna.Trial) -> Self:
        """Return an intercepted trial with the state of `trial`."""
        intercepted = cls.__new__(cls)
        vars(intercepted).update(vars(trial))
        return intercepted

    def before(self, name: str, distribution: BaseDistribution, fixed: Mapping[str, Any]) -> None:
        """Check a parameter before it gets a value.

        fixed: the value that the trial was enqueued with, by the name; empty if there is none.
        """

    def refused(self, name: str, distribution: BaseDistribution) -> None:
        """Handle a parameter that Optuna refuses with a ValueError, which is raised afterwards."""

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        given = name in self._fixed_params and name not in self._cached_frozen_trial.params
        self.before(name, distribution, {name: self._fixed_params[name]} if given else {})
        try:
            return super()._suggest(name, distribution)
        except ValueError:
            self.refused(name, distribution)
            raise


class ReadOnlyStorage(BaseStorage):
    """A storage that shows the studies of another one and refuses to change them.

    Subclasses override what is shown differently.

    storage: the other storage.
    """

    def __init__(self, storage: BaseStorage):
        self.storage = optuna.storages.get_storage(storage)

    def get_all_studies(self) -> list[Any]:
        return self.storage.get_all_studies()

    def get_study_id_from_name(self, study_name: str) -> int:
        return self.storage.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self.storage.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self.storage.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self.storage.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self.storage.get_study_system_attrs(study_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self.storage.get_trial(trial_id)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        return self.storage.get_all_trials(study_id, deepcopy, states)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("this storage can only be read")

    create_new_study = create_new_trial = delete_study = _refuse
    set_study_user_attr = set_study_system_attr = _refuse
    set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refuse
    set_trial_user_attr = set_trial_system_attr = _refuse


class BulkStorage(RDBStorage):
    """Optuna's storage in a database, which reads all trials of a study without mapped objects.

    Optuna builds an object for every parameter, attribute and score. For thousands of trials, that
    takes most of the time and memory of reading a study.
    """

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Read the trials of a study: all of them in a fraction of the time that Optuna takes."""
        if included_trial_ids or trial_id_greater_than > -1:  # an update of a few trials
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        trials = all_trials(self.engine, study_id)
        return [trial for trial in trials if states is None or trial.state in states]


def all_trials(engine: Engine, study_id: int) -> list[FrozenTrial]:
    """Return all trials of a study, in the order of their IDs; the same as Optuna's storage does.

    Raises KeyError if there is no such study.
    """
    with engine.connect() as connection:
        study, trial = _table(models.StudyModel), _table(models.TrialModel)
        if connection.execute(select(study).where(study.c.study_id == study_id)).first() is None:
            raise KeyError(f"there is no study with the ID {study_id}")
        # The trials are read first: what is read later of a trial that ends meanwhile only adds to
        # a trial that counts as running. The other way round, a complete trial could lack values.
        selected = select(trial).where(trial.c.study_id == study_id).order_by(trial.c.trial_id)
        trials = connection.execute(selected).all()
        ids = select(trial.c.trial_id).where(trial.c.study_id == study_id).scalar_subquery()
        rows = functools.partial(_rows, connection, ids)
        params: dict[int, dict[str, Any]] = defaultdict(dict)
        distributions: dict[int, dict[str, BaseDistribution]] = defaultdict(dict)
        for row in rows(models.TrialParamModel, order_by="param_id"):
            distribution = _distribution(row.distribution_json)
            distributions[row.trial_id][row.param_name] = distribution
            params[row.trial_id][row.param_name] = distribution.to_external_repr(row.param_value)
        user_attrs, system_attrs = (
            _attributes(rows(kind))
            for kind in (models.TrialUserAttributeModel, models.TrialSystemAttributeModel)
        )
        scores: dict[int, dict[int, float]] = defaultdict(dict)
        for row in rows(models.TrialIntermediateValueModel):
            scores[row.trial_id][row.step] = _score(row)
        values: dict[int, dict[int, float]] = defaultdict(dict)
        for row in rows(models.TrialValueModel):
            values[row.trial_id][row.objective] = _value(row)
        return [
            FrozenTrial(
                number=row.number,
                state=row.state,
                value=None,
                values=[by_objective for _, by_objective in sorted(values[row.trial_id].items())]
                if row.trial_id in values
                else None,
                datetime_start=row.datetime_start,
                datetime_complete=row.datetime_complete,
                params=params.get(row.trial_id, {}),
                distributions=distributions.get(row.trial_id, {}),
                user_attrs=user_attrs.get(row.trial_id, {}),
                system_attrs=system_attrs.get(row.trial_id, {}),
                intermediate_values=scores.get(row.trial_id, {}),
                trial_id=row.trial_id,
            )
            for row in trials
        ]


@dataclass
class StudyTally:
    """The trials of a study, counted by its database.

    counts: the number of trials by state. run_again: the number of trials that other trials repeat.
    best: the best score of a trial that hasn't failed, or None. active: when a trial last started
    or ended. is_ours: whether a trial has the attribute that sabtune gives every trial.
    """

    counts: dict[TrialState, int] = field(default_factory=dict)
    run_again: int = 0
    best: float | None = None
    active: datetime | None = None
    is_ours: bool = False

    def score(self, value: float | None) -> None:
        """Take a score into account, if there is one."""
        if value is not None:
            self.best = value if self.best is None else max(self.best, value)


def tallies(engine: Engine, *, retry: str, scores: str, made: str) -> dict[str, StudyTally]:
    """Count the trials of all studies of a database, by the name of the study.

    retry, scores, made: the attributes of a trial with the number of the trial that it repeats,
    with its scores by step, if the study doesn't store them in Optuna's way, and with what every
    trial of sabtune has.
    """
    found: dict[int, StudyTally] = defaultdict(StudyTally)
    trial, value, report, attribute = (
        _table(model).c
        for model in (
            models.TrialModel,
            models.TrialValueModel,
            models.TrialIntermediateValueModel,
            models.TrialUserAttributeModel,
        )
    )
    unfailed = trial.state.in_([TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING])
    times = func.max(trial.datetime_start), func.max(trial.datetime_complete)
    by_state = select(trial.study_id, trial.state, func.count(), *times)
    last = (
        select(report.trial_id, func.max(report.step).label("step"))
        .join(trial.trial_id.table, report.trial_id == trial.trial_id)
        .where(trial.state.in_([TrialState.PRUNED, TrialState.RUNNING]))
        .group_by(report.trial_id)
        .subquery()
    )
    final = (
        select(trial.study_id, func.max(value.value))
        .join(value.trial_id.table, value.trial_id == trial.trial_id)
        .where(value.objective == 0, trial.state == TrialState.COMPLETE)
    )
    latest = (
        select(trial.study_id, func.max(report.intermediate_value))
        .join(report.trial_id.table, report.trial_id == trial.trial_id)
        .join(last, (last.c.trial_id == report.trial_id) & (last.c.step == report.step))
    )
    own = select(trial.study_id, attribute.value_json).join(
        attribute.trial_id.table, attribute.trial_id == trial.trial_id
    )
    with engine.connect() as connection:
        for study, state, count, *dates in connection.execute(
            by_state.group_by(trial.study_id, trial.state)
        ):
            tally = found[study]
            tally.counts[state] = count
            tally.active = max(filter(None, [tally.active, *dates]), default=None)
        for statement in (final, latest):
            for study, best in connection.execute(statement.group_by(trial.study_id)):
                found[study].score(best)
        repeated: dict[int, set[str]] = defaultdict(set)
        for study, number in connection.execute(own.where(attribute.key == retry)):
            repeated[study].add(number)
        for study, numbers in repeated.items():
            found[study].run_again = len(numbers)
        of_scores = attribute.key == scores
        for study, text in connection.execute(own.where(of_scores, unfailed)):
            by_step = {int(step): score for step, score in json.loads(text).items()}
            found[study].score(by_step[max(by_step)] if by_step else None)
        for (study,) in connection.execute(
            select(trial.study_id)
            .distinct()
            .join(attribute.trial_id.table, attribute.trial_id == trial.trial_id)
            .where(attribute.key == made)
        ):
            found[study].is_ours = True
        study_of = _table(models.StudyModel).c
        names = connection.execute(select(study_of.study_id, study_of.study_name))
        return {name: found[study] for study, name in names}


def _table(model: Any) -> Table:
    table: Table = model.__table__
    return table


def _rows(
    connection: Connection,
    ids: sqlalchemy.ScalarSelect[int],
    model: Any,
    *,
    order_by: str | None = None,
) -> Iterator[Row[Any]]:
    """Yield the rows of a table that belong to the trials with these IDs."""
    table = _table(model)
    statement = select(table).where(table.c.trial_id.in_(ids))
    if order_by is not None:
        statement = statement.order_by(table.c[order_by])
    yield from connection.execute(statement)


def _attributes(rows: Iterator[Row[Any]]) -> dict[int, dict[str, Any]]:
    attributes: dict[int, dict[str, Any]] = defaultdict(dict)
    for row in rows:
        attributes[row.trial_id][row.key] = json.loads(row.value_json)
    return attributes


def _value(row: Row[Any]) -> float:
    return models.TrialValueModel.stored_repr_to_value(row.value, row.value_type)


def _score(row: Row[Any]) -> float:
    return models.TrialIntermediateValueModel.stored_repr_to_intermediate_value(
        row.intermediate_value, row.intermediate_value_type
    )


@functools.lru_cache(maxsize=10_000)
def _distribution(text: str) -> BaseDistribution:
    """Return a distribution from its JSON. Trials share it, because it is never changed."""
    return json_to_distribution(text)
