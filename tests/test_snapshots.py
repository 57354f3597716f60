"""Test copies of the studies: writing, restoring, and refusing to resume on two machines."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sabtune.errors import StoreError
from sabtune.storage.folder import Folder
from sabtune.storage.store import Store
from sabtune.study.backups import Lease, Snapshots, restore, snapshots
from sabtune.study.checkpoints import ENTRY, Attempts
from sabtune.study.optuna_storage import open_storage
from sabtune.study.record import StudyRecord
from sabtune.study.recovery import entry, recover
from sabtune.study.writer import StudyWriter
from tests.objects import BUCKET, Objects


@pytest.fixture(params=["folder", "s3"])
def files(request: pytest.FixtureRequest, s3: Objects, tmp_path: Path) -> str:
    """Return an address that only this test uses."""
    if request.param == "s3":
        return f"s3://{BUCKET}/{request.node.name}"
    return str(tmp_path / "files")


def begun(root: Path, files: str) -> tuple[Store, optuna.Study]:
    """Return a store with a study in it."""
    store = Store.at(str(root), files).made()
    storage = open_storage(store, write=True)
    study = optuna.create_study(study_name="copied", storage=storage)
    study.set_user_attr("plan", {"question": "Which?"})
    return store, study


def never() -> None:
    raise AssertionError("nobody took over")


def dropped(store: Store, how: str = "killed") -> None:
    """Change the lease as if a search on another machine wrote it and was then killed or ended."""
    assert store.snapshots is not None
    said = json.loads(store.snapshots.read("lease.json") or b"")
    said |= {"machine": "another", "ended": how == "ended"}
    store.snapshots.write("lease.json", json.dumps(said).encode())


def test_a_study_is_restored_as_the_search_left_it(files: str, tmp_path: Path) -> None:
    store, study = begun(tmp_path / "a", files)
    with snapshots(store, never):
        study.add_trial(optuna.trial.create_trial(value=0.5))
    other = Store.at(str(tmp_path / "b"), files).made()
    line = restore(other)
    assert line.startswith(f"Restored the studies from {files}/snapshots/optuna-00000002.db")
    assert [trial.value for trial in StudyRecord.open(other, "copied").frozen] == [0.5]
    assert restore(other) == ""  # existing studies are never overwritten
    assert restore(Store.at(str(tmp_path / "c"), f"{files}-2").made()) == ""


def test_a_copy_is_made_when_a_trial_ends_and_the_previous_one_is_kept(
    files: str, tmp_path: Path
) -> None:
    store, study = begun(tmp_path / "a", files)
    assert store.snapshots is not None
    copying = Snapshots(store, never)
    copying.start()
    counts = []
    for value in range(3):
        study.add_trial(optuna.trial.create_trial(value=value))
        before = newest(store)
        copying._woken.set()
        until(lambda before=before: newest(store) != before)  # type: ignore[misc]
        with store.snapshots.here((newest(store),)) as here:
            counts.append(trials_of(here / newest(store)))
    copying.close()
    assert counts == [1, 2, 3]
    names = [name for name in store.snapshots.names() if name.endswith(".db")]
    assert names == ["optuna-00000003.db", "optuna-00000004.db"]


def newest(store: Store) -> str:
    assert store.snapshots is not None
    return max(name for name in store.snapshots.names() if name.endswith(".db"))


def until(holds: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(6000):
        if holds():
            return
        waiting.wait(0.02)
    raise AssertionError("it didn't come about")


def trials_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM trials").fetchone()[0])


def test_the_previous_copy_replaces_an_unreadable_one(files: str, tmp_path: Path) -> None:
    store, study = begun(tmp_path / "a", files)
    with snapshots(store, never):
        study.add_trial(optuna.trial.create_trial(value=0.5))
    assert store.snapshots is not None
    store.snapshots.write("optuna-00000002.db", b"SQLite format 3\x00, and then nothing")
    other = Store.at(str(tmp_path / "b"), files).made()
    assert "optuna-00000001.db" in restore(other)
    store.snapshots.write("optuna-00000001.db", b"")
    with pytest.raises(StoreError, match=r"no backup of the studies in .* can be read"):
        restore(Store.at(str(tmp_path / "c"), files).made())


def test_no_other_machine_resumes_a_running_search(files: str, tmp_path: Path) -> None:
    store, _ = begun(tmp_path / "a", files)
    copying = Snapshots(store, never)
    copying.start()
    dropped(store)
    other = Store.at(str(tmp_path / "b"), files).made()
    with pytest.raises(StoreError, match=r"is written by the store .*/a on .*, last heard of \d"):
        restore(other)
    dropped(store, "ended")
    assert restore(other)
    copying.close()


def test_a_search_that_died_on_this_machine_blocks_no_other(files: str, tmp_path: Path) -> None:
    store, _ = begun(tmp_path / "a", files)
    lease = Lease(store)
    lease.take()
    assert store.snapshots is not None
    said = json.loads(store.snapshots.read("lease.json") or b"")
    other = Lease(Store.at(str(tmp_path / "b"), files).made())
    with pytest.raises(StoreError, match="last heard of"):
        other.refuse(restoring=True)  # this process is alive
    store.snapshots.write("lease.json", json.dumps(said | {"process": 2**22 + 1}).encode())
    other.refuse(restoring=True)


def test_an_outdated_store_does_not_resume(files: str, tmp_path: Path) -> None:
    store, _ = begun(tmp_path / "a", files)
    with snapshots(store, never):
        pass
    other = Store.at(str(tmp_path / "b"), files).made()
    restore(other)
    with pytest.raises(
        StoreError, match=r"and not by this one: to resume from there, move .*/a/opt"
    ):
        Lease(store).take()
    shutil.rmtree(store.root)
    assert restore(store.made())
    Lease(store).take()


def test_a_stale_search_stops_itself(files: str, tmp_path: Path) -> None:
    store, _ = begun(tmp_path / "a", files)
    lost = threading.Event()
    copying = Snapshots(store, lost.set)
    copying.start()
    dropped(store, "ended")
    restore(Store.at(str(tmp_path / "b"), files).made())
    assert lost.wait(120)
    copying.close()
    assert "has taken over the files at" in str(copying.problem)
    assert newest(store) == "optuna-00000001.db"


def test_two_studies_of_a_store_may_be_searched_at_once(files: str, tmp_path: Path) -> None:
    store, _ = begun(tmp_path / "a", files)
    with snapshots(store, never) as (one,), snapshots(store, never) as (other,):
        assert one.lease.owner == other.lease.owner
    assert (one.problem, one.behind) == (other.problem, other.behind) == (None, None)


def left(study: optuna.Study, trials: Folder, number: int, params: dict[str, float]) -> None:
    """Write the files of a trial that ran after the copy was made."""
    frozen = optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=params,
        distributions={name: optuna.distributions.FloatDistribution(0, 1) for name in params},
        user_attrs={"assignment": {"number": number}},
    )
    beside = optuna.create_study()
    for _ in range(number):
        beside.add_trial(optuna.trial.create_trial(value=0))
    beside.add_trial(frozen)
    trial = optuna.Trial(beside, beside.trials[number]._trial_id)
    content = entry(trial, StudyWriter(study).identity()).encode()
    (trials / f"{number:04d}" / "checkpoint_000000").write(ENTRY, content)


def test_trials_after_the_copy_are_recovered_with_their_numbers(files: str) -> None:
    study, trials = optuna.create_study(), Folder.at(files) / "trials" / "s"
    study.add_trial(optuna.trial.create_trial(value=0.5))
    study.enqueue_trial({"x": 0.25})
    left(study, trials, 1, {"x": 0.25})
    left(study, trials, 3, {"x": 0.75})
    recover(StudyWriter(study), trials)
    found = study.get_trials()
    states = [TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING, TrialState.RUNNING]
    assert [trial.state for trial in found] == states
    assert [trial.params for trial in found] == [{}, {"x": 0.25}, {}, {"x": 0.75}]
    assert found[3].user_attrs["assignment"] == {"number": 3}
    recover(StudyWriter(study), trials)
    assert study.get_trials() == found
    assert study.ask().number == 2


def test_files_of_another_study_with_the_same_name_are_ignored(files: str) -> None:
    study, trials = optuna.create_study(), Folder.at(files) / "trials" / "s"
    left(optuna.create_study(), trials, 0, {"x": 0.25})
    recover(StudyWriter(study), trials)
    assert study.get_trials() == []
    assert Attempts(trials).next(0) == 1  # its folder is not reused
