"""MLflow's UI for a store, read-only and on the loopback interface.

/                 opens the view of the study that was searched last, or of the requested one
/studies/STUDY    opens the view of a study
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import warnings
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import uvicorn

from sabtune.errors import TrackingError
from sabtune.loopback import HOST, READING, refusal
from sabtune.storage.store import Store
from sabtune.study.names import stored_names
from sabtune.tracking import database, view
from sabtune.tracking.links import ShownStudy, shown_studies
from sabtune.tracking.mlflow_client import describe, refuse_database, shown

NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Environment that stops the server from starting seven more processes for jobs."""

SEARCHES = re.compile(
    r"/graphql|/(?:ajax-)?api/[23]\.0/mlflow/(?:"
    r"(?:experiments|runs|logged-models|datasets|traces|issues|prompt-optimization/jobs)/search"
    r"|experiments/search-datasets|registered-models/get-latest-versions"
    r"|traces/(?:metrics|batchGetInfos|calculate-filter-correlation))"
)
"""Requests that MLflow's UI sends by POST and that change nothing."""

STUDIES = "/studies/"
"""The start of the address of a study's view."""

MAX_ADDRESSES = 5
"""Maximum number of studies whose addresses are printed."""

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


def opening(app: App, uri: str, study: str | None = None) -> App:
    """Wrap MLflow's application so that its page opens the view of a study.

    uri: The address of MLflow's database.

    study: The study that / opens. None: the one that was searched last.
    """

    async def respond(scope: Message, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" and scope["method"] == "GET" else ""
        if path == "/":
            studies = await asyncio.to_thread(shown_studies, uri)
            requested = [shown for shown in studies if shown.name == study]
            opened = next(iter(requested or studies), None)
            await app(_unconditional(scope), receive, _with_script(_script(opened), send))
        elif path.startswith(STUDIES):
            studies = await asyncio.to_thread(shown_studies, uri)
            name = path.removeprefix(STUDIES)
            opened = next((shown for shown in studies if shown.name == name), None)
            await _redirect(opened, name, send)
        else:
            await app(scope, receive, send)

    return respond


def _script(study: ShownStudy | None) -> bytes:
    """Return the element that sets the defaults of a new browser and opens a study.

    An address with a fragment is opened as it is.
    """
    defaults = json.dumps(view.BROWSER_DEFAULTS)
    target = json.dumps(study.path.removeprefix("/") if study else "")
    return (
        "<script>try { for (const [key, value] of Object.entries("
        f"{defaults})) if (localStorage.getItem(key) === null) localStorage.setItem(key, value) }} "
        f"catch {{}} if (!location.hash && {target}) location.replace({target})</script>"
    ).encode()


def _unconditional(scope: Message) -> Message:
    """Return a request for a whole, uncompressed page, which the script is added to."""
    dropped = (b"if-none-match", b"if-modified-since", b"range", b"accept-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in dropped]
    return {**scope, "headers": headers}


def _with_script(script: bytes, send: Send) -> Send:
    """Return a function that sends a page with the script in its head."""
    start: Message = {}
    body = b""

    async def collect(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            start = message
            return
        body += message.get("body", b"")
        if message.get("more_body"):
            return
        page = body.replace(b"</head>", script + b"</head>", 1)
        replaced = (b"content-length", b"etag", b"last-modified", b"cache-control")
        headers = [(name, value) for name, value in start["headers"] if name not in replaced]
        headers += [(b"content-length", str(len(page)).encode()), (b"cache-control", b"no-store")]
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": page})

    return collect


async def _redirect(study: ShownStudy | None, name: str, send: Send) -> None:
    """Redirect to the view of a study, or answer 404."""
    if study is not None:
        status, headers, body = 302, [(b"location", study.path.encode())], b""
    else:
        status, headers = 404, [(b"content-type", b"text/plain; charset=utf-8")]
        body = f"MLflow has no study {name!r}\n".encode()
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(
    store: Store, port: int, study: str | None = None, say: Callable[[str], None] = print
) -> None:
    """Run MLflow's UI, read-only, on the loopback interface until Ctrl-C or SIGTERM.

    It runs in this process, so that no other process outlives it or has a database's password in
    its arguments. Raises TrackingError if the store's MLflow is a server, does not exist, or was
    created by another version.

    study: The study that / opens. None: the one that was searched last.

    say: Prints the addresses of the studies, once they can be opened.
    """
    if store.artifacts is None:
        raise TrackingError(f"the store's MLflow is a server: open {shown(store.mlflow_uri)}")
    refuse_database(store.mlflow_uri)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with database.to_read(store) as uri:
            lines = list(_addresses(uri, port, study, store))
            app = opening(_app(uri, str(store.artifacts)), uri, study)
            config = uvicorn.Config(
                reading(app),
                host=HOST,
                port=port,
                log_level="error",
                server_header=False,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
            # At its end, it raises the signal that ended it.
            _Server(config, lambda: say("\n".join(lines))).run()
    except KeyboardInterrupt:
        return


class _Server(uvicorn.Server):
    """A server that calls a function once it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]):
        super().__init__(config)
        self.listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.listening()


def _addresses(uri: str, port: int, study: str | None, store: Store) -> Iterator[str]:
    """Yield lines with the address of the view of a study, and of a few others.

    study: The first study. None: the one that was searched last.

    Raises TrackingError if MLflow doesn't have the study.
    """
    try:
        studies = [shown.name for shown in shown_studies(uri)]
    except Exception as problem:
        raise TrackingError(describe(problem, uri)) from None
    if study is not None and study not in studies:
        known = f"it has {', '.join(studies[:MAX_ADDRESSES])}" if studies else "it has none"
        remedy = f"run `sabtune sync {shlex.quote(study)}` to copy it there"
        if study not in stored_names(store):
            remedy = "`sabtune status` lists the studies of the store"
        raise TrackingError(f"MLflow has no study {study!r} ({known}): {remedy}")
    names = sorted(studies, key=lambda name: name != study)
    address = f"http://{HOST}:{port}"
    yield f"MLflow: {address}{STUDIES}{names[0]}" if names else f"MLflow: {address}"
    for name in names[1:MAX_ADDRESSES]:
        yield f"        {address}{STUDIES}{name}"
    if len(names) > MAX_ADDRESSES:
        yield f"        and {len(names) - MAX_ADDRESSES:,} more"


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
