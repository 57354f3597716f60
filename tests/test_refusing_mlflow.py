"""Test an MLflow server that refuses access, and one whose artifact store can't be reached."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

from sabtune.errors import TrackingError
from sabtune.tracking.mlflow_client import describe, refuse_database
from tests.faults import study
from tests.forked import sabtune
from tests.objects import KEYS


@contextmanager
def answering(status: int, body: bytes = b"no") -> Iterator[str]:
    """Start a server that gives every request the same answer, and yield its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("body", [b"no", b'{"error_code": "PERMISSION_DENIED", "message": "no"}'])
def test_a_server_that_denies_access_is_an_error_at_the_start(status: int, body: bytes) -> None:
    with answering(status, body) as uri, pytest.raises(TrackingError) as raised:
        refuse_database(uri)
    assert str(raised.value).startswith(f"MLflow at {uri} ")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        assert name in str(raised.value)


def test_other_failures_of_a_server_are_not_an_error_at_the_start() -> None:
    with answering(503) as uri:
        refuse_database(uri)
    refuse_database(uri)  # now nothing answers


def test_a_search_does_not_start_without_access_to_mlflow(tmp_path: Path) -> None:
    with answering(401) as uri:
        shown = sabtune("search", study(tmp_path, "s", ["plain"]), "--tracking", uri, cwd=tmp_path)
    assert shown.returncode == 2
    (line,) = shown.stderr.splitlines()
    assert line.startswith(
        f"sabtune: MLflow at {uri} requires authentication (401): set MLFLOW_TRACKING_"
    )
    assert "#0" not in shown.stdout


@pytest.mark.parametrize(
    ("status", "remedy"), [(403, "set AWS_ACCESS_KEY_ID"), (None, "AWS_ENDPOINT_URL")]
)
def test_errors_of_the_artifact_store_are_distinguished_from_mlflows(
    status: int | None, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (KEYS | {"AWS_MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(name, value)
    with answering(status or 200) as uri:
        place = uri if status else "http://127.0.0.1:9"
        client = boto3.client("s3", endpoint_url=place)
        with pytest.raises((ClientError, BotoCoreError)) as raised:
            client.put_object(Bucket="b", Key="k", Body=b"")
    said = describe(raised.value, "http://anna:s3cr3t@mlflow.example")
    assert said.startswith("MLflow at http://mlflow.example answers, but storing its files fails: ")
    assert "can't be reached" not in said
    assert remedy in said
    assert "s3cr3t" not in said
