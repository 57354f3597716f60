"""Test the folder and token of a local Ray, and addresses without a cluster."""

from __future__ import annotations

import resource
import socket
import stat
from pathlib import Path

import pytest

from sabtune.cluster import doctor, local_ray
from sabtune.cluster.ray_session import check_answers, cluster_address
from sabtune.errors import ClusterError, StoreError
from sabtune.storage.store import Store, check_tracking


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)


def bits(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_token_is_private(tmp_path: Path) -> None:
    path = tmp_path / ".ray" / "auth_token"
    local_ray.prepare_token()
    made = path.read_text()
    assert len(made) == 64
    assert (bits(path), bits(path.parent)) == (0o600, 0o700)
    path.chmod(0o644)
    local_ray.prepare_token()
    assert (path.read_text(), bits(path)) == (made, 0o600)
    assert sorted(found.name for found in path.parent.iterdir()) == ["auth_token"]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RAY_AUTH_TOKEN_PATH", "/nowhere/token", "can't be read from /nowhere/token"),
        ("RAY_AUTH_MODE", "maybe", "RAY_AUTH_MODE is 'maybe'"),
    ],
)
def test_doctor_reports_a_missing_token(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ClusterError, match=says):
        local_ray.prepare_token()
    assert [says in str(finding) for finding in doctor.own_ray()] == [True]


def test_the_folder_is_short_enough_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    with local_ray.private_folder() as folder:
        assert (
            len(f"{folder}/session_2026-11-29_12-28-18_627557_1098200/sockets/plasma_store") < 108
        )
        assert bits(folder.parent) == 0o700
    assert not folder.parent.exists()


def test_too_little_address_space_is_an_error_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = 2**30 + 2**29
    monkeypatch.setattr(resource, "getrlimit", lambda _: (few, few))
    with pytest.raises(ClusterError, match=r"1\.5 GiB of addresses .*ulimit -v unlimited"):
        local_ray.start(tmp_path / "r")
    assert ["ulimit -v" in str(finding) for finding in doctor.own_ray()] == [True]


def test_without_a_short_temporary_folder_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_ray, "SOCKET_PATH_BYTES", 0)
    with pytest.raises(ClusterError, match="set TMPDIR to a short path that you may write"):
        local_ray.folder_base()


def test_no_credentials_are_forwarded() -> None:
    from ray.tune.execution import class_cache

    local_ray.forward_no_credentials()
    assert not [name for name in class_cache.ENV_VARS_TO_PROPAGATE if "AWS" in name]


def test_an_address_without_a_cluster_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("http://10.0.0.2", "junk", "10.0.0.2", "h:99999", "ray://10.0.0.2:10001"):
        with pytest.raises(ClusterError, match="give the head's HOST:PORT"):
            check_answers(address)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(ClusterError, match="nothing answers at"):
            check_answers(f"127.0.0.1:{closed.getsockname()[1]}")
    with pytest.raises(ClusterError, match="nothing answers at"):
        check_answers("nosuchhost.invalid:6379")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_address() is None


@pytest.mark.parametrize("uri", ["./mlruns", "file:/tmp/x", "databricks", "junk://x", "sqlite://"])
def test_an_invalid_mlflow_uri_is_named_with_a_remedy(uri: str) -> None:
    with pytest.raises(StoreError, match=r"MLFLOW_TRACKING_URI, is .*: give a server as"):
        Store.at("store", tracking=uri)


@pytest.mark.parametrize(
    "uri", ["http://h:5000", "https://h", "postgresql://me@h/db", "sqlite:///m.db", "", None]
)
def test_a_valid_mlflow_uri_is_accepted(uri: str | None) -> None:
    check_tracking(uri)
