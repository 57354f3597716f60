"""The tables of Optuna's storage, read and written without mapped objects.

Optuna maps every parameter, attribute and score to an object, and commits every change on its own.
For thousands of trials, that takes most of the time and memory.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, Row, Table, func, select


def id_of(trial: FrozenTrial) -> int:
    """Return the ID of a trial in its storage."""
    return trial._trial_id


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


def count_trials(engine: Engine, study_id: int) -> int:
    """Return the number of trials of a study."""
    trial = _table(models.TrialModel).c
    statement = select(func.count()).where(trial.study_id == study_id)
    with engine.connect() as connection:
        return int(connection.execute(statement).scalar_one())


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
        attributes[row.trial_id][row.key] = decoded(row.value_json)
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


@functools.lru_cache(maxsize=1_000)
def _distribution_json(distribution: BaseDistribution) -> str:
    return distribution_to_json(distribution)


@functools.lru_cache(maxsize=64)
def decoded(text: str) -> Any:
    """Return a value from its JSON. Trials share an equal value, such as their environment.

    Don't change the value.
    """
    return json.loads(text)


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


@dataclass
class Changes:
    """Changes of trials, by the ID of the trial and the name, step or objective.

    params: The internal representations of parameters, with their distributions.

    user_attrs, system_attrs: The JSON of attributes.

    scores: Intermediate values, by step.

    values: One for each objective.

    states: The states of trials, with the times of their start and end.
    """

    params: dict[tuple[int, str], tuple[float, BaseDistribution]] = field(default_factory=dict)
    user_attrs: dict[tuple[int, str], str] = field(default_factory=dict)
    system_attrs: dict[tuple[int, str], str] = field(default_factory=dict)
    scores: dict[tuple[int, int], float] = field(default_factory=dict)
    values: dict[tuple[int, int], float] = field(default_factory=dict)
    states: dict[int, tuple[TrialState, datetime | None, datetime | None]] = field(
        default_factory=dict
    )

    def __bool__(self) -> bool:
        """Return whether there is a change."""
        return any(vars(self).values())


def write(engine: Engine, changes: Changes, insert: Callable[..., Any]) -> None:
    """Write changes in one transaction. Writing them again changes nothing more.

    insert: The statement of the database; see `Database.insert`.
    """
    with engine.begin() as connection:
        for model, rows in _changed_rows(changes):
            if rows:
                _upsert(connection, insert(_table(model)), rows)
        if changes.states:
            table = _table(models.TrialModel)
            statement = sqlalchemy.update(table).where(
                table.c.trial_id == sqlalchemy.bindparam("id")
            )
            states = [
                {"id": trial, "state": state, "datetime_start": start, "datetime_complete": end}
                for trial, (state, start, end) in changes.states.items()
            ]
            connection.execute(statement, states)


def _changed_rows(changes: Changes) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Yield the rows of each table. The first two columns of a row are its key."""
    yield (
        models.TrialParamModel,
        [
            {
                "trial_id": trial,
                "param_name": name,
                "param_value": value,
                "distribution_json": _distribution_json(distribution),
            }
            for (trial, name), (value, distribution) in changes.params.items()
        ],
    )
    for model, attributes in (
        (models.TrialUserAttributeModel, changes.user_attrs),
        (models.TrialSystemAttributeModel, changes.system_attrs),
    ):
        yield (
            model,
            [
                {"trial_id": trial, "key": key, "value_json": text}
                for (trial, key), text in attributes.items()
            ],
        )
    scores = []
    for (trial, step), score in changes.scores.items():
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(score)
        row = {"trial_id": trial, "step": step}
        scores.append(row | {"intermediate_value": stored, "intermediate_value_type": kind})
    yield models.TrialIntermediateValueModel, scores
    values = []
    for (trial, objective), value in changes.values.items():
        stored, of_type = models.TrialValueModel.value_to_stored_repr(value)
        row = {"trial_id": trial, "objective": objective}
        values.append(row | {"value": stored, "value_type": of_type})
    yield models.TrialValueModel, values


def _upsert(connection: Connection, statement: Any, rows: list[dict[str, Any]]) -> None:
    """Insert rows, or update those that exist. The first two columns of a row are its key."""
    key, changed = [*rows[0]][:2], [*rows[0]][2:]
    statement = statement.on_conflict_do_update(
        index_elements=key, set_={name: statement.excluded[name] for name in changed}
    )
    connection.execute(statement, rows)
