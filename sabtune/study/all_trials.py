"""Read all trials of a study from Optuna's tables, without an object for each row.

Optuna's storage builds a mapped object for every parameter, attribute and score. For thousands of
trials, that takes most of the time and memory of reading a study.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, Engine, Row, Table, select


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
