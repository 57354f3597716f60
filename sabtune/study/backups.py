"""Copies of the study's database where its machine's death doesn't reach: written, and restored.

snapshots/optuna-00000017.db   the newest copy, and the one before
snapshots/lease.json           which store's they are, and whether a search writes them now

A copy is whole or not there: it gets a name that none had before, and object stores write a file at
once (in a folder it is moved into place). The lease keeps two machines from going on with the same
studies: an object store has no locks, so a search looks at it before it starts, renews it while it
runs, and ends when it finds that another has taken it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna

from sabtune.errors import RefusedError, StoreError
from sabtune.storage.folder import Folder
from sabtune.storage.patience import patiently
from sabtune.storage.store import Store
from sabtune.study import record
from sabtune.study.events import Outcome
from sabtune.study.recovery import recover
from sabtune.training.trial import Progress, TrialSpec

FRESH = 60.0
"""Seconds since it was renewed after which a lease is thought to be a dead machine's."""

RENEW = 15.0
"""Seconds between two renewals."""

PACE, SHARE = 2.0, 0.1
"""Between two copies: seconds at least, and as many that copying is no more than this share."""

KEPT = 2
"""How many copies."""

LEASE, CLOCK = "lease.json", "clock"


class TakenOverError(StoreError):
    """Another store's search writes there now."""


class Lease:
    """A store's right to write the snapshots at its files' place."""

    def __init__(self, store: Store):
        assert store.snapshots is not None
        self.store, self.folder = store, store.snapshots
        self.owner = _identity(store.root)

    def refuse(self, *, restoring: bool = False) -> None:
        """Raises StoreError if another store's search writes there, or did so after this store
        last; `restoring`: this one has nothing yet that could be out of date."""
        said = self._read()
        if said is None or said["owner"] == self.owner:
            return
        whose = f"{self.store.place} is written by the store {said['folder']} on {said['host']}"
        age = self._age()
        if not said["ended"] and age < FRESH and not _is_gone(said):
            raise StoreError(
                f"{whose}, last heard of {age:.0f} s ago: wait for that search to end, or, if its "
                f"machine is gone, search again in {FRESH - age:.0f} s"
            )
        if not restoring:
            raise StoreError(
                f"{whose}, and not by this one: to go on from there move "
                f"{self.store.root / 'optuna.db'} away, or give another --files"
            )

    def take(self) -> None:
        """Raises StoreError as `refuse` does, or if another is quicker."""
        self.refuse()
        self.write(ended=False)
        self.renew()

    def renew(self) -> None:
        """Raises TakenOverError if another store has taken it."""
        said = self._read()
        if said is not None and said["owner"] != self.owner:
            raise TakenOverError(
                f"the store {said['folder']} on {said['host']} has taken over what is at "
                f"{self.store.place}: this search ends, go on there"
            )
        self.write(ended=False)

    def write(self, *, ended: bool) -> None:
        content = {
            "owner": self.owner,
            "host": socket.gethostname(),
            "folder": str(self.store.root),
            "machine": _machine(),
            "process": os.getpid(),
            "ended": ended,
        }
        self.folder.write(LEASE, json.dumps(content).encode())

    def end(self) -> None:
        """Lets others go on at once, if it is still ours."""
        said = self._read()
        if said is not None and said["owner"] == self.owner:
            self.write(ended=True)

    def _read(self) -> dict[str, Any] | None:
        content = self.folder.read(LEASE)
        try:
            return dict(json.loads(content)) if content else None
        except ValueError:
            return None

    def _age(self) -> float:
        """Seconds since it was written, by the clock of where it is."""
        clock = f"{CLOCK}-{self.owner}"
        self.folder.write(clock, b"")
        times = self.folder.times()
        self.folder.delete(clock)
        return max(0.0, times[clock] - times.get(LEASE, 0.0))


def _machine() -> str:
    """This one since it was started; a container that sees no processes but its own is another."""
    boot, processes = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if not boot.exists() or not processes.exists():
        return ""
    return f"{socket.gethostname()} {boot.read_text().strip()} {processes.readlink()}"


def _is_gone(said: dict[str, Any]) -> bool:
    """Whether the search that wrote a lease was on this machine and runs no more."""
    if not _machine() or said["machine"] != _machine():
        return False
    return not Path(f"/proc/{said['process']}").exists()


def _identity(root: Path) -> str:
    """Who a store's folder is to those who share its files: made up once, kept in it."""
    path = root / "owner"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(uuid.uuid4().hex)
        part.replace(path)
    return path.read_text().strip()


class Snapshots:
    """Copies the store's database whenever a trial starts or ends, and each minute if it changed,
    in a thread of its own; a watcher. `lost` is called if another store has taken over."""

    def __init__(self, store: Store, lost: Callable[[], None]):
        self.lease, self.lost = Lease(store), lost
        self.folder, self.database = self.lease.folder, store.root / "optuna.db"
        self.problem: StoreError | None = None
        self.behind: StoreError | None = None  # the last copy failed
        self._copied: tuple[int, int] | None = None
        self._woken, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="snapshots", daemon=True)

    def start(self) -> None:
        """Raises StoreError if it isn't ours to write, or can't be written."""
        self.lease.take()
        self.copy()
        self._thread.start()

    def close(self) -> None:
        """Copies what is new, and lets others go on."""
        self._closed.set()
        self._woken.set()
        self._thread.join()
        if self.problem is None:
            try:
                self.copy()
                self.lease.end()
            except StoreError as problem:
                self.behind = problem

    def trial_started(self, spec: TrialSpec) -> None:
        self._woken.set()

    def trial_reported(self, number: int, progress: Progress) -> None:
        """Nothing: a report is in the trial's checkpoint."""

    def trial_noted(self, number: int, words: str) -> None:
        """Do nothing: the study's log has it."""

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        self._woken.set()

    def _work(self) -> None:
        renewed, copied = time.monotonic(), time.monotonic()
        while not self._closed.is_set():
            woken = self._woken.wait(RENEW)
            self._woken.clear()
            began = time.monotonic()
            try:
                if began - renewed >= RENEW:
                    patiently(self.lease.renew, RefusedError)
                    renewed = began
            except (TakenOverError, RefusedError) as problem:
                self.problem = problem
                self.lost()
                return
            except StoreError as problem:
                self.behind = problem
            if woken or began - copied >= 60:
                try:
                    self.copy()
                    copied, self.behind = began, None
                except StoreError as problem:
                    self.behind = problem
                pause = (time.monotonic() - began) / SHARE
                self._closed.wait(min(max(PACE, pause), RENEW))

    def copy(self) -> None:
        """Unless nothing has changed. Raises StoreError."""
        stat = self.database.stat()
        if self._copied == (stat.st_mtime_ns, stat.st_size):
            return
        with tempfile.TemporaryDirectory() as folder:
            copied = Path(folder) / "optuna.db"
            with (
                closing(sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)) as source,
                closing(sqlite3.connect(copied)) as target,
            ):
                source.backup(target)
            there = _copies(self.folder)
            number = 1 + (_number(there[0]) if there else 0)
            self.folder.write(f"optuna-{number:08d}.db", copied)
        for old in there[KEPT - 1 :]:
            self.folder.delete(old)
        self._copied = (stat.st_mtime_ns, stat.st_size)


@contextmanager
def snapshots(store: Store, lost: Callable[[], None]) -> Iterator[Sequence[Snapshots]]:
    """The watcher that copies the store's database while it is searched; none where the store is
    in one place. Raises StoreError beforehand if that can't be done, and afterwards if another
    store has taken over."""
    if store.snapshots is None:
        yield ()
        return
    made = Snapshots(store, lost)
    made.start()
    try:
        yield (made,)
    finally:
        made.close()
    if made.problem is not None:
        raise made.problem


def restore(store: Store) -> str:
    """Where the store's folder has no studies, those of the newest copy that can be read, with the
    trials that ran after it was written; in a line what was done, or "".

    Raises StoreError if another store's search is writing there.
    """
    database = store.root / "optuna.db"
    if store.snapshots is None or database.exists():
        return ""
    there = _copies(store.snapshots)
    if not there:
        return ""
    store.root.mkdir(parents=True, exist_ok=True)
    lease = Lease(store)
    lease.refuse(restoring=True)
    for name in there:
        with store.snapshots.here((name,)) as here:
            if _is_whole(here / name):
                part = database.with_suffix(".part")
                shutil.copy(here / name, part)
                lease.write(ended=True)  # from here on they are this store's
                part.replace(database)
                storage = record.store_of(store, write=True)
                for study in record.names(store):
                    opened = optuna.load_study(study_name=study, storage=storage)
                    if record.is_ours(opened):
                        recover(opened, store.trials / study)
                return (
                    f"Restored the studies from {store.snapshots / name}: trials that ran after "
                    "it was written go on from their checkpoints."
                )
    raise StoreError(
        f"no copy of the studies in {store.snapshots} can be read: give another --files"
    )


def _copies(folder: Folder) -> list[str]:
    """The names of the copies, the newest first."""
    return [name for name in reversed(folder.names()) if _number(name)]


def _number(name: str) -> int:
    """Of a copy; 0 of another file."""
    digits = name.removeprefix("optuna-").removesuffix(".db")
    return int(digits) if digits.isdecimal() else 0


def _is_whole(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            (said,) = database.execute("PRAGMA quick_check").fetchone()
            database.execute("SELECT count(*) FROM studies").fetchone()
    except sqlite3.Error:
        return False
    return bool(said == "ok")
