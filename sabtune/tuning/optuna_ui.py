"""Serve Optuna's dashboard for a store."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from sabtune.loopback import HOST, READING, refusal
from sabtune.storage.store import Store
from sabtune.study.optuna_storage import open_storage
from sabtune.study.record import load
from sabtune.tuning.shown_storage import ShownStorage

REFUSED_BODY_BYTES = 1 << 16
"""The maximum number of bytes that are read from the body of a refused request.

If the body weren't read, the client might not receive the response."""

STUDY = re.compile(r"/api/studies/(?P<id>\d{1,9})")
"""The request of the page of a study."""

App = Callable[..., Iterable[bytes]]
"""A WSGI application."""


class _Server(ThreadingMixIn, WSGIServer):
    """A server that handles requests in parallel and doesn't wait for them when it closes."""

    daemon_threads = True


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the user doesn't need a line for each request."""


def read_only(app: App) -> App:
    """Wrap an application so that it answers 403 to the requests that `loopback` refuses."""

    def answer(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        reason = refusal(
            [environ.get("HTTP_HOST", "")],  # WSGI joins two by a comma, which no valid host has
            [environ["HTTP_ORIGIN"]] if "HTTP_ORIGIN" in environ else [],
            reads=environ["REQUEST_METHOD"] in READING,
        )
        if reason is None:
            return app(environ, start_response)
        length = environ.get("CONTENT_LENGTH") or "0"
        environ["wsgi.input"].read(
            min(int(length), REFUSED_BODY_BYTES) if length.isdecimal() else 0
        )
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{reason}\n".encode()]

    return answer


def with_notes(app: App, storage: ShownStorage) -> App:
    """Wrap the dashboard so that the page of a study has a current note."""

    def answer(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        study = STUDY.fullmatch(environ["PATH_INFO"])
        if study is not None:
            with suppress(KeyError):  # there is no such study, which the dashboard reports
                storage.make_note(int(study["id"]))
        return app(environ, start_response)

    return answer


def serve(
    store: Store, port: int, study: str | None = None, say: Callable[[str], None] = print
) -> None:
    """Serve a read-only optuna-dashboard on the loopback interface until Ctrl-C or SIGTERM.

    The dashboard runs in this process, so that a database password never appears in the arguments
    of another process.

    port: the TCP port. study: the study to print the address of; None for all. say: prints it.

    Raises StoreError if the database can't be used or doesn't have the study.
    """
    storage = ShownStorage(open_storage(store))
    address = f"http://{HOST}:{port}"
    if study is not None:
        load(store, study)
        address += f"/dashboard/studies/{storage.get_study_id_from_name(study)}"
    app = read_only(with_notes(optuna_dashboard.wsgi(storage), storage))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with make_server(HOST, port, app, server_class=_Server, handler_class=_SilentHandler) as server:
        say(f"optuna-dashboard: {address}")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
