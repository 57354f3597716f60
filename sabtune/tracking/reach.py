"""The check of whether MLflow can be reached."""

from __future__ import annotations

import mlflow
import sqlalchemy

from sabtune.databases import tables
from sabtune.storage.database import database_at
from sabtune.tracking.mlflow_client import closing_engine, describe, hasten, is_server, quieten


def problem_of(uri: str) -> str:
    """Return why MLflow cannot be reached at `uri`, in one line, or "" if it can.

    A database that does not exist yet is no problem, and is not created.
    """
    quieten()
    hasten(uri)
    try:
        if is_server(uri) or _exists(uri):
            mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except Exception as problem:
        return describe(problem, uri)
    return ""


def _exists(uri: str) -> bool:
    """Return whether a database has MLflow's tables. Raises StoreError or SQLAlchemy's errors."""
    path = database_at(uri).file
    if path is not None:
        return "experiments" in tables(path)
    with closing_engine(uri) as engine:
        return sqlalchemy.inspect(engine).has_table("experiments")
