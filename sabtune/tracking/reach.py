"""Whether an MLflow answers."""

from __future__ import annotations

import mlflow
import sqlalchemy

from sabtune.databases import sqlite_path, tables
from sabtune.tracking.mlflow_client import closing_engine, describe, hasten, is_server, quieten


def problem_of(uri: str) -> str:
    """Why an MLflow can't be asked, in one line, or "". One that isn't there yet is no problem, and
    stays so."""
    quieten()
    hasten(uri)
    try:
        if is_server(uri) or _is_made(uri):
            mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except Exception as problem:
        return describe(problem, uri)
    return ""


def _is_made(uri: str) -> bool:
    """Whether a database has MLflow's tables. Raises StoreError or what SQLAlchemy raises."""
    path = sqlite_path(uri)
    if path is not None:
        return "experiments" in tables(path)
    with closing_engine(uri) as engine:
        return sqlalchemy.inspect(engine).has_table("experiments")
