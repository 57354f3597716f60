"""Optuna's own page on a store."""

from __future__ import annotations

import signal
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from sabtune.search import record
from sabtune.store import Store

HOST = "127.0.0.1"


class _Server(ThreadingMixIn, WSGIServer):
    """Answers a page's many requests at once; none of them keeps it from ending."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each request is of no use to a person."""


def serve(store: Store, port: int) -> None:
    """Runs optuna-dashboard on the loopback interface until Ctrl-C or SIGTERM.

    In this process: a database's password is in no other's arguments. Raises StoreError if the
    database can't be used.
    """
    app = optuna_dashboard.wsgi(record.store_of(store))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with make_server(HOST, port, app, server_class=_Server, handler_class=_Quiet) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
