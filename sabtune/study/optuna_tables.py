"""The tables of Optuna's storage, read and written without mapped objects.

Optuna maps every parameter, attribute and score to an object, and commits every change on its own.
For thousands of trials, that takes most of the time and memory.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, Row, Table, select
from sqlalchemy.dialects import postgresql, sqlite

UPSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""The statement that inserts or updates rows, by the name of the database's dialect."""


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


def write(engine: Engine, changes: Changes) -> None:
    """Write changes in one transaction. Writing them again changes nothing more."""
    with engine.begin() as connection:
        for model, rows in _changed_rows(changes):
            if rows:
                _upsert(connection, model, rows)
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


def _upsert(connection: Connection, model: Any, rows: list[dict[str, Any]]) -> None:
    statement = UPSERTS[connection.dialect.name](_table(model))
    key, changed = [*rows[0]][:2], [*rows[0]][2:]
    statement = statement.on_conflict_do_update(
        index_elements=key, set_={name: statement.excluded[name] for name in changed}
    )
    connection.execute(statement, rows)
