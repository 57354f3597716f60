"""Serve Optuna's dashboard for a store."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from sabtune.loopback import HOST, READING, refusal
from sabtune.storage.store import Store
from sabtune.study.optuna_storage import open_storage

REFUSED_BODY_BYTES = 1 << 16
"""The maximum number of bytes that are read from the body of a refused request.

If the body weren't read, the client might not receive the response."""

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


def serve(store: Store, port: int) -> None:
    """Serve a read-only optuna-dashboard on the loopback interface until Ctrl-C or SIGTERM.

    The dashboard runs in this process, so that a database password never appears in the arguments
    of another process.

    port: the TCP port. Raises StoreError if the database can't be used.
    """
    app = read_only(optuna_dashboard.wsgi(open_storage(store)))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with make_server(HOST, port, app, server_class=_Server, handler_class=_SilentHandler) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
