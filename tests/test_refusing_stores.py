"""Test an object store that starts to deny access during a search."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from optuna.trial import TrialState

from sabtune.errors import RefusedError, StoreError
from sabtune.storage.folder import Folder, _system
from sabtune.storage.store import Store
from tests.faults import assert_as_unbroken, driver, records, study
from tests.forked import sabtune
from tests.objects import BUCKET, KEYS, Objects, objects

pytestmark = pytest.mark.timeout(400)


def let_in(there: Objects, requests: int) -> None:
    """Have the server accept this many more requests, whatever their keys, and no others."""
    address = f"{there.url}/moto-api/reset-auth"
    headers = {"Content-Type": "text/plain"}
    asked = urllib.request.Request(address, str(requests).encode(), headers, method="POST")
    with urllib.request.urlopen(asked) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("address", "problem", "kind", "words"),
    [
        ("s3://b/x", "AWS Error ACCESS_DENIED during HeadObject", RefusedError, "AWS_PROFILE"),
        ("s3://b/x", "AWS Error UNKNOWN (HTTP status 403) during", RefusedError, "AWS_SECRET"),
        ("s3://b/x", "AWS Error UNKNOWN (HTTP status 400): ExpiredToken", RefusedError, "expired"),
        ("s3://b/x", "AWS Error NO_SUCH_BUCKET during PutObject", RefusedError, "create it"),
        ("s3://b/x", "AWS Error UNKNOWN (HTTP status 503): SlowDown", StoreError, "SlowDown"),
        ("s3://b/x", "AWS Error NETWORK_CONNECTION: curlCode: 28", StoreError, "network is up"),
        ("gs://b/x", "google::cloud::Status(PERMISSION_DENIED: no)", RefusedError, "GOOGLE_APP"),
        ("gs://b/x", "google::cloud::Status(UNAUTHENTICATED: no)", RefusedError, "gcloud auth"),
        ("gs://b/x", "google::cloud::Status(UNAVAILABLE: down)", StoreError, "network is up"),
    ],
)
def test_permanent_errors_are_distinguished_from_temporary_ones(
    address: str, problem: str, kind: type, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://anna:s3cr3t@127.0.0.1:9")
    told = Folder(address).failure(OSError(problem), "written")
    assert type(told) is kind
    assert str(told).startswith(f"{address} can't be written: ")
    assert words in str(told)
    assert "s3cr3t" not in str(told)
    assert ("127.0.0.1:9" in str(told)) == address.startswith("s3")


@pytest.mark.slow
def test_a_search_that_loses_access_ends_with_one_line_and_can_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, files = study(tmp_path, "refused", ["plain"], updates=900), f"s3://{BUCKET}/refused"
    with objects(tmp_path, {"INITIAL_NO_AUTH_ACTION_COUNT": "1000000"}) as there:
        for name, value in there.environment.items():
            monkeypatch.setenv(name, value)
        _system.cache_clear()
        with driver("search", file, "--files", files, cwd=tmp_path) as search:
            search.until("#0 300/900 updates")
            let_in(there, 0)
            code = search.end()
            shown, errors = search.shown, search.errors
        assert code == 2
        (line,) = errors.splitlines()
        assert line.startswith(f"sabtune: {files}")
        assert "access is denied" in line
        assert f"(asked: {there.url})" in line
        assert "failed" not in shown
        let_in(there, 1_000_000)
        store = Store.at(str(tmp_path / "sabtune-store"), files)
        (trial,) = records(store, "refused")
        assert trial.state == TrialState.RUNNING
        again = sabtune("search", file, "--files", files, cwd=tmp_path)
        assert again.stderr == ""
        assert again.returncode == 0
        (trial,) = records(store, "refused")
        assert trial.state == TrialState.COMPLETE
        assert_as_unbroken(trial)
    _system.cache_clear()
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in shown + errors + again.stdout
