"""MLflow's UI for a store, read-only and on the loopback interface."""

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
"""Environment that stops the server from starting seven more processes for jobs."""

SEARCHES = re.compile(
    r"/graphql|/(?:ajax-)?api/[23]\.0/mlflow/(?:"
    r"(?:experiments|runs|logged-models|datasets|traces|issues|prompt-optimization/jobs)/search"
    r"|experiments/search-datasets|registered-models/get-latest-versions"
    r"|traces/(?:metrics|batchGetInfos|calculate-filter-correlation))"
)
"""Requests that MLflow's UI sends by POST and that change nothing."""

DRAIN_SECONDS = 2
"""Maximum time for open requests to finish at the end."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
"""An ASGI application."""


def reading(app: App) -> App:
    """Wrap an application so that it refuses WebSockets, and requests that `loopback` refuses."""

    async def respond(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        reason = _refusal(scope) if scope["type"] == "http" else None
        if reason is None:
            await app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": f"{reason}\n".encode()})

    return respond


def _refusal(scope: Message) -> str | None:
    """Return why a request is refused, or None."""

    def values(header: bytes) -> list[str]:
        return [value.decode("latin-1") for name, value in scope["headers"] if name == header]

    method = scope["method"]
    searches = method == "POST" and SEARCHES.fullmatch(scope["path"]) is not None
    return refusal(values(b"host"), values(b"origin"), reads=method in READING or searches)


def serve(store: Store, port: int) -> None:
    """Run MLflow's UI, read-only, on the loopback interface until Ctrl-C or SIGTERM.

    It runs in this process, so that no other process outlives it or has a database's password in
    its arguments. Raises TrackingError if the store's MLflow is a server, does not exist, or was
    created by another version.
    """
    if store.artifacts is None:
        raise TrackingError(f"the store's MLflow is a server: open {shown(store.mlflow_uri)}")
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
            server.run()  # at its end, it raises the signal that ended it
    except KeyboardInterrupt:
        return


def _app(uri: str, artifacts: str) -> App:
    """Return MLflow's own application, configured through environment variables.

    It reads files from the artifact store directly and accepts no uploads.
    """
    os.environ.update(NO_JOBS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from imports of MLflow
        from mlflow.server import constants

        os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = uri
        os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = uri
        os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = artifacts
        os.environ.pop(constants.SERVE_ARTIFACTS_ENV_VAR, None)
        from mlflow.server.fastapi_app import app
        from mlflow.server.handlers import initialize_backend_stores

        initialize_backend_stores(uri, uri, artifacts)
    return app  # type: ignore[no-any-return]
