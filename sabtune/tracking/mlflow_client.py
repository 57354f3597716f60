"""Settings of the MLflow client in this process, and one-line messages for its errors.

Environment variables that you set take precedence over these settings.
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

from sabtune.errors import SabtuneError, TrackingError
from sabtune.redaction import hide_password, redact
from sabtune.storage.database import database_at

QUIET_ENVIRONMENT = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

TIMEOUT_ENVIRONMENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Limits for a server. MLflow's are 7 retries, with pauses of minutes, and a timeout of 120 s."""

NOISY_LOGGERS = ("alembic", "mlflow", "urllib3.connectionpool")
"""Loggers that report the creation of a database and every retried request."""

OTHER_SCHEMA = ("Detected out-of-date database schema", "Can't locate revision")
"""Parts of MLflow's messages about a database that another version of MLflow created."""

ABOUT_ONE_RUN = {
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "BAD_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
"""Error codes that concern a single run, so that other runs can still be written."""

ANSWER_SECONDS = 3.0
"""Maximum time that a command waits for a server to answer a question that it can do without."""

UNAUTHORIZED = {
    401: "requires authentication (401): set MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    403: "denies access (403): ask its administrator for permission, or set "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to an "
    "account that has it",
}

CLIENTS = ("boto3", "botocore", "s3transfer", "google")
"""Packages with which MLflow accesses an object store; they raise exceptions of their own."""

UNREACHED = ("Could not connect", "Connect timeout", "Read timeout", "Connection was closed")

MESSAGE_CHARACTERS = 200
"""Maximum length of MLflow's own words in a message."""


def quieten() -> None:
    """Silence MLflow on the terminal; callers report its errors."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def hasten(uri: str) -> None:
    """Shorten the timeouts for a server, so that an unavailable one costs seconds, not minutes."""
    if is_server(uri):
        for name, value in TIMEOUT_ENVIRONMENT.items():
            os.environ.setdefault(name, value)


def is_server(uri: str) -> bool:
    """Return whether `uri` is the address of a server rather than a database."""
    return uri.startswith(("http://", "https://"))


def is_about_one_run(problem: Exception) -> bool:
    """Return whether MLflow is available and the error concerns only one run."""
    if isinstance(problem, SabtuneError):
        return True
    return isinstance(problem, MlflowException) and problem.error_code in ABOUT_ONE_RUN


def is_of_another_version(problem: Exception) -> bool:
    """Return whether MLflow refuses its database because another version created it."""
    return any(words in str(problem) for words in OTHER_SCHEMA)


STORAGE_PACKAGES = {
    "s3": ("boto3", "pip install 'sabtune[cluster]'"),
    "gs": ("google.cloud.storage", "pip install google-cloud-storage"),
}
"""The package that MLflow needs for each kind of object store, and how to install it."""


def refuse_without_client(artifacts: str | None) -> None:
    """Raise TrackingError if a package that MLflow needs for files at `artifacts` is missing."""
    module, remedy = STORAGE_PACKAGES.get((artifacts or "").partition("://")[0], ("", ""))
    try:
        installed = not module or importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        installed = False
    if not installed:
        raise TrackingError(f"MLflow needs {module} for its files at {artifacts}: {remedy}")


def refuse_unusable(uri: str, artifacts: str | None) -> None:
    """Raise TrackingError if MLflow can't be used at `uri` with its files at `artifacts`."""
    refuse_without_client(artifacts)
    refuse_database(uri)


def refuse_database(uri: str) -> None:
    """Raise TrackingError if MLflow cannot use this database or server.

    A database must be reachable, created by this version of MLflow, and must not contain Optuna's
    studies, because both programs store their version in a table of the same name. A server must
    not deny access; one that is unavailable is accepted, because it may come back. Changes nothing.
    """
    if is_server(uri):
        _refuse_unauthorized(uri)
        return
    path = database_at(uri).file
    if path is not None and not path.is_file():
        return
    try:
        with closing_engine(uri) as engine:
            tables = inspect(engine)
            exists, studies = tables.has_table("experiments"), tables.has_table("studies")
            others = [] if exists or path is None else tables.get_table_names()
        if studies:
            raise TrackingError(
                f"the database of MLflow at {shown(uri)} holds Optuna's studies, and MLflow "
                "can't share a database with them: give --tracking a database of its own "
                "(CREATE DATABASE …)"
            )
        if others:
            raise TrackingError(
                f"the database of MLflow at {shown(uri)} holds tables of another program "
                f"({', '.join(others[:3])} …): move it away, or give another --tracking"
            )
        if exists:
            mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except TrackingError:
        raise
    except Exception as problem:
        if is_of_another_version(problem) or path is None:
            raise TrackingError(describe(problem, uri)) from None


def _refuse_unauthorized(uri: str) -> None:
    """Raise TrackingError if a server denies access within `ANSWER_SECONDS`."""
    refusals: list[str] = []

    def ask() -> None:
        try:
            mlflow.MlflowClient(uri).search_experiments(max_results=1)
        except Exception as problem:
            if _status(problem) in (401, 403):
                refusals.append(describe(problem, uri))

    hasten(uri)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if refusals:
        raise TrackingError(refusals[0])


@contextmanager
def closing_engine(uri: str) -> Iterator[Engine]:
    """Yield an engine without retries. MLflow's own engine retries ten times, for minutes."""
    engine = create_engine(uri)
    try:
        yield engine
    finally:
        engine.dispose()


def describe(problem: Exception, uri: str) -> str:
    """Describe an error in one line, without a password that the address may contain."""
    if isinstance(problem, SabtuneError):
        return str(problem)
    where = f"MLflow at {shown(uri)}"
    if is_of_another_version(problem):
        return (
            f"{where} was made by another MLflow than {mlflow.__version__}: use that version, or, "
            "if it is older, back up the database and run `mlflow db upgrade`"
        )
    words = redact((str(problem).strip() or type(problem).__name__).splitlines()[0], uri)[
        :MESSAGE_CHARACTERS
    ]
    if _is_about_files(problem):
        return f"{where} answers, but storing its files fails: {words}; {_remedy(problem, words)}"
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
    """Return the HTTP status of a server's answer, or None if there is none."""
    response = getattr(problem, "response", None)
    status = getattr(response, "status_code", None)
    if response is None and isinstance(problem, MlflowException):
        status = problem.get_http_status_code()  # type: ignore[no-untyped-call]
    return status if isinstance(status, int) else None


def _is_about_files(problem: Exception) -> bool:
    """Return whether the storage of MLflow's files fails, rather than MLflow itself."""
    response = getattr(problem, "response", None)
    return (
        type(problem).__module__.partition(".")[0] in CLIENTS
        or "uploading one or more artifacts" in str(problem)
        or (
            _status(problem) is not None
            and "/mlflow-artifacts/" in str(getattr(response, "url", ""))
        )
    )


def _remedy(problem: Exception, words: str) -> str:
    """Return what to do about a failure of the file storage."""
    if type(problem).__module__.startswith("google"):
        return "check the network, and set GOOGLE_APPLICATION_CREDENTIALS to a key file"
    if "/mlflow-artifacts/" in words:
        return "check that the server can reach its artifact store"
    if any(part in words for part in UNREACHED):
        return "check the network, AWS_ENDPOINT_URL and the region"
    return (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to credentials that may "
        "list, read and write there"
    )


def shown(uri: str) -> str:
    """Return the address without user, password and query, for messages."""
    if not is_server(uri) and database_at(uri).file is not None:
        return hide_password(uri)
    return re.sub(r"//.*@", "//", hide_password(uri)).partition("?")[0]
