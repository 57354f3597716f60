"""MLflow's manners within this process: quiet, quick to give up, its problems told in one line.

What a person has set in the environment holds.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.exceptions import MlflowException, RestException
from sqlalchemy import Engine, create_engine, inspect

from sabtune.databases import sqlite_path
from sabtune.errors import SabtuneError, TrackingError
from sabtune.redaction import hide_password, redact

QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""MLflow's own are 7, with pauses of minutes between them, and 120 s."""

NOISY = ("alembic", "mlflow", "urllib3.connectionpool")
"""Loggers that tell of creating a database, and of every request that is tried again."""

OTHER_SCHEMA = ("Detected out-of-date database schema", "Can't locate revision")
"""What MLflow says of a database that another version of it made."""

ABOUT_ONE_RUN = {
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "BAD_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
"""Answers that don't speak against asking about the next run."""

ANSWER_SECONDS = 3.0
"""How long a search waits at its start for a server's answer."""

UNAUTHORIZED = {
    401: "asks who we are (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN",
    403: "doesn't let us (403): have its keeper permit it, or set MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to somebody's who may",
}

CLIENTS = ("boto3", "botocore", "s3transfer", "google")
"""By which MLflow reaches an object store; what these raise isn't MLflow's."""

UNREACHED = ("Could not connect", "Connect timeout", "Read timeout", "Connection was closed")

LONGEST = 200
"""Characters of MLflow's own words in a message."""


def quieten() -> None:
    """Nothing of MLflow reaches the terminal: its problems are told by who asked for the work."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def hasten(uri: str) -> None:
    """Makes a server that is away cost seconds, not minutes."""
    if is_server(uri):
        for name, value in QUICK.items():
            os.environ.setdefault(name, value)


def is_server(uri: str) -> bool:
    """Whether it is a server's address, not a database that we open ourselves."""
    return uri.startswith(("http://", "https://"))


def is_about_one_run(problem: Exception) -> bool:
    """Whether MLflow is there, and only this run can't be written."""
    if isinstance(problem, SabtuneError):
        return True
    return isinstance(problem, MlflowException) and problem.error_code in ABOUT_ONE_RUN


def is_of_another_version(problem: Exception) -> bool:
    """Whether MLflow refuses its database for having other tables than it knows."""
    return any(words in str(problem) for words in OTHER_SCHEMA)


NEEDED = {
    "s3": ("boto3", "pip install 'sabtune[cluster]'"),
    "gs": ("google.cloud.storage", "pip install google-cloud-storage"),
}
"""What MLflow wants for files in an object store, and where that comes from."""


def refuse_without_client(artifacts: str | None) -> None:
    """Raises TrackingError if MLflow lacks what it wants to keep files there."""
    module, remedy = NEEDED.get((artifacts or "").partition("://")[0], ("", ""))
    try:
        there = not module or importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        there = False
    if not there:
        raise TrackingError(f"MLflow's files at {artifacts} want {module}: {remedy}")


def refuse_database(uri: str) -> None:
    """Raises TrackingError if the database that MLflow is to be kept in can't be reached, is one of
    another version, or is Optuna's: both keep their version in a table of the same name. Does
    nothing else to it. Of a server only if it doesn't let us in: one that is away may come back."""
    if is_server(uri):
        _refuse_unauthorized(uri)
        return
    path = sqlite_path(uri)
    if path is not None and not path.is_file():
        return
    try:
        with closing_engine(uri) as engine:
            found = inspect(engine)
            made, studies = found.has_table("experiments"), found.has_table("studies")
            others = [] if made or path is None else found.get_table_names()
        if studies:
            raise TrackingError(
                f"the database of MLflow at {shown(uri)} holds Optuna's studies, and MLflow "
                "can't be beside them: give --tracking a database of its own (CREATE DATABASE …)"
            )
        if others:
            raise TrackingError(
                f"the database of MLflow at {shown(uri)} holds tables of another program "
                f"({', '.join(others[:3])} …): move it away, or give another --tracking"
            )
        if made:
            mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except TrackingError:
        raise
    except Exception as problem:
        if is_of_another_version(problem) or not uri.startswith("sqlite:"):
            raise TrackingError(describe(problem, uri)) from None


def _refuse_unauthorized(uri: str) -> None:
    """Raise TrackingError if a server says, within seconds, that it doesn't let us in."""
    said: list[str] = []

    def ask() -> None:
        try:
            mlflow.MlflowClient(uri).search_experiments(max_results=1)
        except Exception as problem:
            if _status(problem) in (401, 403):
                said.append(describe(problem, uri))

    hasten(uri)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if said:
        raise TrackingError(said[0])


@contextmanager
def closing_engine(uri: str) -> Iterator[Engine]:
    """The database, asked once: MLflow asks ten times, which takes minutes."""
    engine = create_engine(uri)
    try:
        yield engine
    finally:
        engine.dispose()


def describe(problem: Exception, uri: str) -> str:
    """A problem in one line, without the password that the address may hold."""
    if isinstance(problem, SabtuneError):
        return str(problem)
    where = f"MLflow at {shown(uri)}"
    if is_of_another_version(problem):
        return (
            f"{where} was made by another MLflow than {mlflow.__version__}: use that one, or, "
            "if it was an older one, back it up and run `mlflow db upgrade`"
        )
    words = redact((str(problem).strip() or type(problem).__name__).splitlines()[0], uri)[:LONGEST]
    if _is_about_files(problem):
        return f"{where} is there, and its files' place fails: {words}; {_remedy(problem, words)}"
    status = _status(problem)
    if status in UNAUTHORIZED:
        return f"{where} {UNAUTHORIZED[status]}"
    answered = isinstance(problem, RestException) or is_about_one_run(problem)
    refused = isinstance(problem, MlflowException) and problem.error_code not in (
        "INTERNAL_ERROR",
        "TEMPORARILY_UNAVAILABLE",
    )
    if is_server(uri) and not answered and not refused:
        return f"{where} can't be reached"
    return f"{where} fails: {words}"


def _status(problem: Exception) -> int | None:
    """Return what a server answered, as HTTP says it."""
    answer = getattr(problem, "response", None)
    status = getattr(answer, "status_code", None)
    if answer is None and isinstance(problem, MlflowException):
        status = problem.get_http_status_code()  # type: ignore[no-untyped-call]
    return status if isinstance(status, int) else None


def _is_about_files(problem: Exception) -> bool:
    """Return whether it is where MLflow keeps its files that fails, not MLflow."""
    answer = getattr(problem, "response", None)
    return (
        type(problem).__module__.partition(".")[0] in CLIENTS
        or "uploading one or more artifacts" in str(problem)
        or (
            _status(problem) is not None and "/mlflow-artifacts/" in str(getattr(answer, "url", ""))
        )
    )


def _remedy(problem: Exception, words: str) -> str:
    if type(problem).__module__.startswith("google"):
        return "see that the network is up, and set GOOGLE_APPLICATION_CREDENTIALS to a key's file"
    if "/mlflow-artifacts/" in words:
        return "see that the server reaches the place of its artifacts"
    if any(sign in words for sign in UNREACHED):
        return "see that the network is up, and that AWS_ENDPOINT_URL and the region are right"
    return (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to credentials that may "
        "list, read and write there"
    )


def shown(uri: str) -> str:
    """The address, for people: no user, no password, no query."""
    if uri.startswith("sqlite:"):
        return hide_password(uri)
    return re.sub(r"//.*@", "//", hide_password(uri)).partition("?")[0]
