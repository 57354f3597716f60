"""MLflow's page on a store."""

from __future__ import annotations

import os
import re
import signal
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from sabtune.errors import TrackingError
from sabtune.loopback import HOST, READING, refusal
from sabtune.storage.store import Store
from sabtune.tracking import database
from sabtune.tracking.mlflow_client import refuse_database, shown

NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Of its own accord the server starts seven more processes, for jobs that no study has."""

SEARCHES = re.compile(
    r"/graphql|/(?:ajax-)?api/[23]\.0/mlflow/(?:"
    r"(?:experiments|runs|logged-models|datasets|traces|issues|prompt-optimization/jobs)/search"
    r"|experiments/search-datasets|registered-models/get-latest-versions"
    r"|traces/(?:metrics|batchGetInfos|calculate-filter-correlation))"
)
"""What MLflow's page sends by POST and changes nothing."""

DRAIN_SECONDS = 2

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
"""An ASGI application."""


def reading(app: App) -> App:
    """Return the application without the requests that `loopback` refuses."""

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        why = _refusal(scope) if scope["type"] == "http" else None
        if why is None:
            await app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": f"{why}\n".encode()})

    return answer


def _refusal(scope: Message) -> str | None:
    def values(header: bytes) -> list[str]:
        return [value.decode("latin-1") for name, value in scope["headers"] if name == header]

    method = scope["method"]
    searches = method == "POST" and SEARCHES.fullmatch(scope["path"]) is not None
    return refusal(values(b"host"), values(b"origin"), reads=method in READING or searches)


def serve(store: Store, port: int) -> None:
    """Runs MLflow's server on the loopback interface until Ctrl-C or SIGTERM; it only reads.

    In this process: no other one outlives it, or has a database's password in its arguments.
    Raises TrackingError if the store's MLflow is a server already, another version's, or not there.
    """
    if store.artifacts is None:
        raise TrackingError(f"the store's MLflow has its page: open {shown(store.mlflow_uri)}")
    refuse_database(store.mlflow_uri)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with database.to_read(store) as uri:
            server = uvicorn.Server(
                uvicorn.Config(
                    reading(_app(uri, store.artifacts)),
                    host=HOST,
                    port=port,
                    log_level="error",
                    server_header=False,
                    timeout_graceful_shutdown=DRAIN_SECONDS,
                )
            )
            server.run()  # raises the signal that ended it again
    except KeyboardInterrupt:
        return


def _app(uri: str, artifacts: str) -> App:
    """Return MLflow's own application, which learns from the environment what it is to show.

    It reads a run's files where they are; through the server nobody stores any.
    """
    os.environ.update(NO_JOBS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what MLflow imports
        from mlflow.server import constants

        os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = uri
        os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = uri
        os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = artifacts
        os.environ.pop(constants.SERVE_ARTIFACTS_ENV_VAR, None)
        from mlflow.server.fastapi_app import app
        from mlflow.server.handlers import initialize_backend_stores

        initialize_backend_stores(uri, uri, artifacts)
    return app  # type: ignore[no-any-return]
