"""Test what is refused before anything is sent to a cluster, without a cluster."""

from __future__ import annotations

import platform
import socket
from importlib.metadata import version
from pathlib import Path

import pytest

from sabtune.cli.remote import options
from sabtune.cluster.cluster_file import ClusterFile
from sabtune.cluster.jobs import check_versions
from sabtune.cluster.ray_session import cluster_address
from sabtune.cluster.ssh import Login, forwarded
from sabtune.errors import ClusterError

ROOT = Path(__file__).parent.parent
LOCAL = """
cluster_name: lab
provider: {type: local, head_ip: 127.0.0.1, worker_ips: []}
auth: {ssh_user: nobody, ssh_private_key: ~/.ssh/lab}
"""


@pytest.fixture
def file(tmp_path: Path) -> ClusterFile:
    path = tmp_path / "cluster.yaml"
    path.write_text(LOCAL)
    return ClusterFile.load(path)


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path where `ray start` records a cluster's address; there is no file yet."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_a_running_cluster_on_this_machine_is_found(note: Path) -> None:
    assert cluster_address() is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        note.write_text(address)
        assert cluster_address() == address
    assert cluster_address() is None


def test_a_job_uses_its_own_cluster(note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    assert cluster_address() == "10.0.0.9:6379"


def test_versions_must_equal_those_of_the_cluster(file: ClusterFile) -> None:
    ours = {"rayVersion": version("ray"), "pythonVersion": platform.python_version()}
    check_versions(ours, file)
    for other in ({"rayVersion": "2.59.1"}, {"pythonVersion": "3.10.4"}):
        with pytest.raises(ClusterError) as told:
            check_versions(ours | other, file)
        assert str(told.value).count("\n") == 0
        assert next(iter(other.values())) in str(told.value)


def test_a_head_without_ssh_is_one_line(file: ClusterFile) -> None:
    with pytest.raises(ClusterError) as told, forwarded(file, 8265):
        pass
    (line,) = str(told.value).splitlines()
    assert line.startswith("the head nobody@127.0.0.1 can't be reached by SSH (")


def test_ssh_is_not_interactive_and_uses_the_key_of_the_file(file: ClusterFile) -> None:
    command = Login.of(file).command("-N")
    assert "BatchMode=yes" in command
    assert str(Path("~/.ssh/lab").expanduser()) in command
    assert command[-1] == "nobody@127.0.0.1"


def test_options_are_sent_to_the_head_without_passwords() -> None:
    given = {
        "--trials": 3,
        "--new": True,
        "--hours": None,
        "--dry-run": False,
        "--files": "s3://a/b",
    }
    assert options(given) == ["--trials", "3", "--new", "--files", "s3://a/b"]
    with pytest.raises(ClusterError, match="--store has a password") as told:
        options({"--store": "postgresql://me:secret@host/db"})
    assert "secret" not in str(told.value)


def test_the_local_cluster_file_is_read() -> None:
    file = ClusterFile.load(ROOT / "cluster.local.yaml")
    assert (file.name, file.provider) == ("lab", "local")
