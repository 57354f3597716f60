"""Test the servers of `sabtune ui` with requests by browsers and by others."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import pytest
from mlflow import MlflowClient

from sabtune.storage.store import Store
from tests.experiments import until

SAFE = {"optuna": "/api/studies", "mlflow": "/ajax-api/2.0/mlflow/experiments/search?max_results=9"}
NAMED = {"optuna": b"kept", "mlflow": b"kept"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with a study of one trial in Optuna and in MLflow, with one artifact."""
    store = Store(tmp_path_factory.mktemp("store"))
    study = optuna.create_study(study_name="kept", storage=store.optuna_url)
    study.tell(study.ask(), 1.0)
    client = MlflowClient(store.mlflow_uri)
    experiment = client.create_experiment("kept", artifact_location=store.artifacts)
    run = client.create_run(experiment, run_name="kept")
    client.log_text(run.info.run_id, "what was kept", "note.txt")
    return store


@contextmanager
def opened(store: Store, kind: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Start the server of a page, and yield its port and its process once it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sabtune", "ui", *["--optuna"] * (kind == "optuna")]
    command += ["--store", str(store.root), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            until(lambda: process.poll() is not None or listens(port))
            yield port, process
        finally:
            process.kill()


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module", params=["optuna", "mlflow"])
def page(request: pytest.FixtureRequest, store: Store) -> Iterator[tuple[str, int]]:
    with opened(store, request.param) as (port, _):
        yield request.param, port


def asked(
    port: int, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    """Send a request with only these headers and Content-Length."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    sent = {"Host": f"127.0.0.1:{port}"} | {k.replace("_", "-"): v for k, v in headers.items()}
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in (sent | {"Content-Length": str(len(body or b""))}).items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


WRITES = {
    "optuna": [("DELETE", "/api/studies/1"), ("POST", "/api/studies/1/rename"),
               ("PUT", "/api/studies/1/note"), ("POST", "/api/trials/1/tell")],
    "mlflow": [("POST", "/api/2.0/mlflow/experiments/delete"),
               ("POST", "/ajax-api/2.0/mlflow/experiments/delete"),
               ("POST", "/ajax-api/2.0/mlflow/upload-artifact?run_uuid=1&path=x"),
               ("PUT", "/api/2.0/mlflow-artifacts/artifacts/planted"),
               ("PUT", "/ajax-api/2.0/mlflow-artifacts/artifacts/planted"),
               ("POST", "/api/2.0/mlflow-artifacts/mpu/create/x/search"),
               ("POST", "/api/2.0/mlflow/runs/delete"),
               ("POST", "/ajax-api/3.0/mlflow/assistant/message")],
}  # fmt: skip


def test_pages_refuse_writes(page: tuple[str, int], store: Store) -> None:
    kind, port = page
    before = sorted(path for path in store.root.rglob("*") if path.is_file())
    path = SAFE[kind].partition("?")[0]
    others = [(method, path) for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO")]
    for method, at in (*WRITES[kind], *others):
        overrides = {"X_HTTP_Method_Override": "GET", "X_Requested_With": "XMLHttpRequest"}
        body = json.dumps({"experiment_id": "1", "direction": "minimize"}).encode()
        for more in ({}, {"Content_Type": "application/json"}, overrides):
            status, said = asked(port, method, at, body, **more)
            assert (status, said) == (403, b"refused: this page only reads\n"), (method, at)
    assert NAMED[kind] in asked(port, "GET", SAFE[kind])[1]
    assert sorted(path for path in store.root.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
def test_pages_answer_this_machine(page: tuple[str, int], name: str) -> None:
    kind, port = page
    for at in (f"{name}:{port}", f"{name}:4711", name):  # a tunnel may use another port
        origins: list[dict[str, str]] = [
            {},
            {"Origin": f"http://{at}"},
            {"Origin": f"https://{at}"},
        ]
        for origin in origins:
            status, said = asked(port, "GET", SAFE[kind], None, Host=at, **origin)
            assert status == 200, (at, origin)
            assert NAMED[kind] in said


def test_pages_refuse_other_web_sites(page: tuple[str, int]) -> None:
    kind, port = page
    hosts = ["evil.com", f"evil.com:{port}", f"127.0.0.1.evil.com:{port}", f"10.evil.com:{port}",
             f"192.168.evil.com:{port}", "", f"localhost:{port},evil.com", "localhost:port",
             f"127.0.0.1@evil.com:{port}", f"0.0.0.0:{port}", "[::1]x"]  # fmt: skip
    for host in hosts:
        for method in ("GET", "HEAD", "DELETE"):
            assert asked(port, method, SAFE[kind], Host=host)[0] == 403, host
    origins = ["http://evil.com", "null", "http://localhost.evil.com", f"http://evil.com:{port}",
               f"file://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}", "http://127.0.0.1",
               f"http://127.0.0.1:{port}@evil.com", ""]  # fmt: skip
    for origin in origins:
        for method in ("GET", "POST", "OPTIONS"):
            status, said = asked(port, method, SAFE[kind], Origin=origin)
            assert status == 403, origin
            assert b"kept" not in said


def test_mlflows_page_searches_and_shows_files(store: Store) -> None:
    client = MlflowClient(store.mlflow_uri)
    experiment = client.get_experiment_by_name("kept")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    with opened(store, "mlflow") as (port, _):
        search = json.dumps({"experiment_ids": [experiment.experiment_id]}).encode()
        json_ = {"Content_Type": "application/json", "Origin": f"http://127.0.0.1:{port}"}
        found = asked(port, "POST", "/ajax-api/2.0/mlflow/runs/search", search, **json_)
        assert json.loads(found[1])["runs"][0]["info"]["run_name"] == "kept"
        foreign = json_ | {"Origin": "http://evil.com"}
        assert asked(port, "POST", "/ajax-api/2.0/mlflow/runs/search", search, **foreign)[0] == 403
        at = f"/get-artifact?path=note.txt&run_uuid={run.info.run_id}"
        assert asked(port, "GET", at) == (200, b"what was kept")
        assert asked(port, "GET", "/api/2.0/mlflow-artifacts/artifacts?path=")[0] != 200


@pytest.mark.parametrize("kind", ["optuna", "mlflow"])
def test_no_process_outlives_a_page(store: Store, kind: str) -> None:
    with opened(store, kind) as (port, process):
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        until(lambda: not listens(port))
