"""Optuna's own page on a store."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from sabtune.loopback import HOST, READING, refusal
from sabtune.storage.store import Store
from sabtune.study import record

MOST_UNREAD = 1 << 16
"""Bytes of a refused request's body that are read, so that who sends them gets the answer."""

App = Callable[..., Iterable[bytes]]
"""A WSGI application."""


class _Server(ThreadingMixIn, WSGIServer):
    """Answers a page's many requests at once; none of them keeps it from ending."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each request is of no use to a person."""


def reading(app: App) -> App:
    """Return the application without the requests that `loopback` refuses."""

    def answer(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        why = refusal(
            [environ.get("HTTP_HOST", "")],  # two are joined by a comma, which no host has
            [environ["HTTP_ORIGIN"]] if "HTTP_ORIGIN" in environ else [],
            reads=environ["REQUEST_METHOD"] in READING,
        )
        if why is None:
            return app(environ, start_response)
        length = environ.get("CONTENT_LENGTH") or "0"
        environ["wsgi.input"].read(min(int(length), MOST_UNREAD) if length.isdecimal() else 0)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{why}\n".encode()]

    return answer


def serve(store: Store, port: int) -> None:
    """Runs optuna-dashboard on the loopback interface until Ctrl-C or SIGTERM; it only reads.

    In this process: a database's password is in no other's arguments. Raises StoreError if the
    database can't be used.
    """
    app = reading(optuna_dashboard.wsgi(record.store_of(store)))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with make_server(HOST, port, app, server_class=_Server, handler_class=_Quiet) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
