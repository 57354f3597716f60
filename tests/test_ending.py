"""Test searches that are ended by signals or by the death of Ray's processes."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import mlflow
import psutil
import pytest
from optuna.trial import TrialState

from sabtune.storage.store import Store
from tests.faults import Driver, driver, records, study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

KEYS = {"AWS_ACCESS_KEY_ID": "of-nobody-1", "AWS_SECRET_ACCESS_KEY": "secret-of-nobody-2"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home folder with an endless study, and set the AWS credentials KEYS."""
    for name, value in (KEYS | {"HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    study(tmp_path, "endless", ["plain"] * 2, updates=10**7)
    return tmp_path


def family(search: Driver) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(search.process.pid).children(recursive=True)
    return found


def named(search: Driver, name: str) -> psutil.Process:
    """Return the search's Ray process with this name."""
    (found,) = [of for of in family(search) if of.name() == name]
    return found


def assert_nothing_is_left(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


def ray_folder(search: Driver) -> Path:
    (line,) = [
        word for word in named(search, "raylet").cmdline() if word.startswith("--session_dir=")
    ]
    return Path(line.partition("=")[2]).parent.parent


def addresses(search: Driver) -> set[str]:
    """Return the addresses on which the search and its processes listen."""
    every = [psutil.Process(search.process.pid), *family(search)]
    found = [c for of in every for c in of.net_connections("inet") if c.status == "LISTEN"]
    return {c.laddr.ip.removeprefix("::ffff:") for c in found}


def assert_holds_no_secret(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for value in KEYS.values():
                assert value.encode() not in content, path


def test_a_search_is_private_and_ends_cleanly_however_it_is_ended(place: Path) -> None:
    """End four searches in different ways; each one resumes the study of the one before."""
    with driver("search", "endless.py", cwd=place) as search:
        search.until("#1 60/10000000 updates")
        folder, processes = ray_folder(search), family(search)
        assert addresses(search) == {"127.0.0.1"}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((place / ".ray" / "auth_token").stat().st_mode) == 0o600
        assert_holds_no_secret(folder)
        search.process.send_signal(signal.SIGTERM)
        assert search.end() == 143
        assert search.errors == ""
        assert "Interrupted. Resume with:" in search.shown
        assert_nothing_is_left(processes)
        assert not folder.exists()
    assert_holds_no_secret(place)
    store = Store(place / "sabtune-store")
    assert [trial.state for trial in records(store, "endless")] == [TrialState.RUNNING] * 2
    client = mlflow.MlflowClient(store.mlflow_uri)
    (experiment,) = [of for of in client.search_experiments() if of.name == "endless"]
    runs = client.search_runs([experiment.experiment_id])
    (own,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert own.info.status == "KILLED"

    for name in ("raylet", "gcs_server"):
        with driver("search", "endless.py", cwd=place) as search:
            search.until("#1 resumes at")
            search.until("updates, ")
            processes = family(search)
            named(search, name).kill()
            assert search.end() == 2
            (line,) = search.errors.splitlines()
            assert f"{name} was killed" in line
            assert "; resume with: " in line
            assert line.endswith(" -m sabtune search endless.py")
            assert_nothing_is_left(processes)
        assert [trial.state for trial in records(store, "endless")] == [TrialState.RUNNING] * 2

    with driver("search", "endless.py", cwd=place) as search:
        search.until("#1 resumes at")
        search.until("updates, ")
        processes = family(search)
        os.killpg(search.process.pid, signal.SIGHUP)  # as when a terminal is closed
        assert search.end() == 129
        assert search.errors == ""
        assert_nothing_is_left(processes)
