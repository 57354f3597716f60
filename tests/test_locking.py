"""Test the locks of a store's files: which other processes see, and how long a search waits."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import filelock
import pytest

from sabtune.cluster import doctor, node_facts
from sabtune.errors import ConfigError, StoreError
from sabtune.storage import locking
from sabtune.storage.store import Store
from sabtune.study.locks import locked

ELSEWHERE = """
import json, sys
from sabtune.storage.locking import not_seen
print(json.dumps(not_seen(json.loads(sys.argv[1]))))
"""


def not_seen_elsewhere(paths: Mapping[str, str]) -> list[str]:
    """Return what `not_seen` returns in another process."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, json.dumps(dict(paths))],
        capture_output=True,
        text=True,
        check=True,
    )
    kinds: list[str] = json.loads(done.stdout)
    return kinds


def test_other_processes_see_the_locks(tmp_path: Path) -> None:
    with locking.held_locks(tmp_path) as paths:
        assert set(paths) == {"flock", "SQLite"}
        assert not_seen_elsewhere(paths) == []
    assert list(tmp_path.iterdir()) == []
    free = {kind: str(tmp_path / kind) for kind in paths}
    for path in free.values():
        Path(path).touch()
    assert not_seen_elsewhere(free) == ["flock", "SQLite"]
    with pytest.raises(FileNotFoundError):
        locking.not_seen({"flock": str(tmp_path / "missing")})


def test_the_locks_of_records_are_those_of_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TABLE t (x)")
        assert not_seen_elsewhere({"SQLite": str(path)}) == ["SQLite"]
        database.execute("BEGIN EXCLUSIVE")
        assert not_seen_elsewhere({"SQLite": str(path)}) == []


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a file system without locks, as Lustre is without its option flock."""

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", fails)
    monkeypatch.setattr(locking, "TAKE", dict.fromkeys(locking.TAKE, fails))
    monkeypatch.setattr(node_facts, "mount", lambda _: ("lustre", frozenset()))


@pytest.mark.usefixtures("no_locks")
def test_a_file_system_without_locks_is_one_line(tmp_path: Path) -> None:
    assert locking.problem(tmp_path) == "Function not implemented"
    store = Store(tmp_path).made()
    with (
        pytest.raises(StoreError, match=r"can't be locked \(Func.*with locks .*--store") as told,
        locked("x", store),
    ):
        pass
    assert len(str(told.value).splitlines()) == 1
    (finding,) = doctor.store_findings(store)
    assert finding.wrong
    assert "can't be locked: Function not implemented" in finding.says


@pytest.mark.parametrize(
    ("kind", "options", "wal", "says"),
    [
        ("ext4", {"rw"}, True, []),
        ("nfs4", {"rw", "local_lock=none"}, False, []),
        ("nfs", {"rw", "nolock"}, False, ["note: keeps locks to one machine"]),
        ("nfs4", {"rw", "local_lock=all"}, False, ["note: keeps locks to one machine"]),
        ("lustre", {"localflock"}, False, ["note: keeps locks to one machine"]),
        ("lustre", {"flock"}, True, ["wrong: is in SQLite's WAL mode, which fails on lustre"]),
    ],
)
def test_doctor_reads_how_the_store_is_mounted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    options: set[str],
    wal: bool,
    says: list[str],
) -> None:
    monkeypatch.setattr(node_facts, "mount", lambda _: (kind, frozenset(options)))
    store = Store(tmp_path).made()
    with closing(sqlite3.connect(tmp_path / "optuna.db")) as database:
        database.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
        database.execute("CREATE TABLE t (x)")
    found = [f for f in doctor.store_findings(store) if "lock" in f.says or "WAL" in f.says]
    assert len(found) == len(says)
    for finding, expected in zip(found, says, strict=True):
        state, _, words = expected.partition(": ")
        assert finding.wrong is (state == "wrong")
        assert words in finding.says
        assert finding.remedy


def test_a_search_waits_for_the_lock_of_a_lost_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path).made()
    held = pytest.raises(StoreError, match="being searched by another")
    with filelock.FileLock(store.lock("x")), held, locked("x", store):
        pass
    other = filelock.FileLock(store.lock("x"), thread_local=False)
    other.acquire()
    timer = threading.Timer(1.5, other.release)  # longer than without the variable
    timer.start()
    monkeypatch.setenv("SABTUNE_LOCK_SECONDS", "30")
    with locked("x", store):
        assert not other.is_locked
    timer.join()


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf"])
def test_a_wait_that_is_no_number_of_seconds_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SABTUNE_LOCK_SECONDS", text)
    store = Store(tmp_path).made()
    expected = f"SABTUNE_LOCK_SECONDS is '{text}': give a number"
    with pytest.raises(ConfigError, match=expected), locked("x", store):
        pass
