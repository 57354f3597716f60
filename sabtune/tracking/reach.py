"""Whether an MLflow answers."""

from __future__ import annotations

from pathlib import Path

import mlflow

from sabtune.tracking.manners import describe, hasten, quieten


def problem_of(uri: str) -> str:
    """Why an MLflow can't be asked, in one line, or "". One that isn't there yet is no problem."""
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return ""
    quieten()
    hasten(uri)
    try:
        mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except Exception as problem:
        return describe(problem, uri)
    return ""
