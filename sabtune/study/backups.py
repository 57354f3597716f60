"""Back up a store's database to the location of the store's files, and restore it from there.

A backup survives the loss of the machine that runs the search.

snapshots/optuna-00000017.db   the newest backup; the one before it is kept as well
snapshots/lease.json           the store that owns the backups, and whether it is being searched

A reader never sees an incomplete backup. Each backup has a new name. An object store creates a file
atomically, and in a folder the complete file is moved into place.

The lease prevents two machines from resuming the same studies. Object stores have no locks, so a
search checks the lease before it starts, renews it while it runs, and stops if another store has
taken it over.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sabtune.errors import RefusedError, StoreError
from sabtune.storage.database import file_database
from sabtune.storage.folder import Folder
from sabtune.storage.patience import patiently
from sabtune.storage.store import Store
from sabtune.study.events import Outcome
from sabtune.study.recovery import recover
from sabtune.study.writer import writers
from sabtune.training.trial import Progress, TrialSpec

LEASE_EXPIRY_SECONDS = 60.0
"""The age in seconds at which a lease counts as abandoned by a dead machine."""

LEASE_RENEWAL_SECONDS = 15.0
"""The interval in seconds between two renewals of a lease."""

COPY_PAUSE_SECONDS = 2.0
"""The minimum pause in seconds between two backups while a search runs."""

COPY_TIME_FRACTION = 0.1
"""The fraction of time that backups may take.

The pause after a backup is at most LEASE_RENEWAL_SECONDS, so slow backups take a larger share."""

COPY_INTERVAL_SECONDS = 60.0
"""The seconds after which a changed database is backed up, even if no trial starts or ends."""

COPIES_KEPT = 2
"""The number of backups that are kept."""

LEASE, CLOCK = "lease.json", "clock"


class TakenOverError(StoreError):
    """An error raised when another store's search has taken over the backups."""


class Lease:
    """A store's right to write backups at the location of its files."""

    def __init__(self, store: Store):
        assert store.snapshots is not None
        self.store, self.folder = store, store.snapshots
        self.owner = _identity(store.root)

    def refuse(self, *, restoring: bool = False) -> None:
        """Raise StoreError if another store holds the lease.

        The error is raised while that store is being searched, and also afterwards, because the
        studies of this store are then out of date. restoring: whether this store has no studies
        yet; then only a running search is an error.
        """
        lease = self._read()
        if lease is None or lease["owner"] == self.owner:
            return
        owner = f"{self.store.place} is written by the store {lease['folder']} on {lease['host']}"
        age = self._age()
        if not lease["ended"] and age < LEASE_EXPIRY_SECONDS and not _is_dead(lease):
            raise StoreError(
                f"{owner}, last heard of {age:.0f} s ago: wait for that search to end, or, if its "
                f"machine is gone, search again in {LEASE_EXPIRY_SECONDS - age:.0f} s"
            )
        if not restoring:
            raise StoreError(
                f"{owner}, and not by this one: to resume from there, move "
                f"{self.store.root / 'optuna.db'} away, or give another --files"
            )

    def take(self) -> None:
        """Take the lease.

        Raises StoreError as `refuse` does, or if another store takes the lease at the same time.
        """
        self.refuse()
        self.write(ended=False)
        self.renew()

    def renew(self) -> None:
        """Renew the lease. Raises TakenOverError if another store has taken it."""
        lease = self._read()
        if lease is not None and lease["owner"] != self.owner:
            raise TakenOverError(
                f"the store {lease['folder']} on {lease['host']} has taken over the files at "
                f"{self.store.place}: this search ends; resume the study there"
            )
        self.write(ended=False)

    def write(self, *, ended: bool) -> None:
        """Write the lease with this store as its owner.

        ended: whether no search of this store is running.
        """
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
        """Release the lease, if this store still holds it."""
        lease = self._read()
        if lease is not None and lease["owner"] == self.owner:
            self.write(ended=True)

    def _read(self) -> dict[str, Any] | None:
        content = self.folder.read(LEASE)
        try:
            return dict(json.loads(content)) if content else None
        except ValueError:
            return None

    def _age(self) -> float:
        """Return the age of the lease in seconds, by the clock of the files' location."""
        clock = f"{CLOCK}-{self.owner}"
        self.folder.write(clock, b"")
        times = self.folder.times()
        self.folder.delete(clock)
        return max(0.0, times[clock] - times.get(LEASE, 0.0))


def _machine() -> str:
    """Return an identifier of this machine and its last boot; "" if it can't be determined.

    A container with its own process IDs counts as a machine of its own.
    """
    boot, processes = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if not boot.exists() or not processes.exists():
        return ""
    return f"{socket.gethostname()} {boot.read_text().strip()} {processes.readlink()}"


def _is_dead(lease: dict[str, Any]) -> bool:
    """Return whether the search that wrote a lease ran on this machine and no longer exists."""
    if not _machine() or lease["machine"] != _machine():
        return False
    return not Path(f"/proc/{lease['process']}").exists()


def _identity(root: Path) -> str:
    """Return the unique ID of a store's folder, which is stored in the folder."""
    path = root / "owner"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(uuid.uuid4().hex)
        part.replace(path)
    return path.read_text().strip()


class Snapshots:
    """A watcher that backs up the store's database in a background thread.

    A backup is made whenever a trial starts or ends, and otherwise every COPY_INTERVAL_SECONDS if
    the database has changed.

    lost: called in the background thread if another store has taken over the backups, or if the
    location refuses access.
    """

    def __init__(self, store: Store, lost: Callable[[], None]):
        self.lease, self.lost = Lease(store), lost
        self.folder, self.database = self.lease.folder, file_database(store.root / "optuna.db")
        self.problem: StoreError | None = None  # why the backups stopped for good
        self.behind: StoreError | None = None  # why the last backup failed
        self._copied: tuple[int, int] | None = None
        self._woken, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="snapshots", daemon=True)

    def start(self) -> None:
        """Take the lease, make a first backup, and start the thread.

        Raises StoreError if another store holds the lease, or if the location can't be written.
        """
        self.lease.take()
        self.copy()
        self._thread.start()

    def close(self) -> None:
        """Stop the thread, make a last backup, and release the lease."""
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
        """Have the thread make a backup."""
        self._woken.set()

    def trial_reported(self, number: int, progress: Progress) -> None:
        """Do nothing: the trial's checkpoint holds its metrics."""

    def trial_noted(self, number: int, words: str) -> None:
        """Do nothing: the study's log holds the note."""

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        """Have the thread make a backup."""
        self._woken.set()

    def _work(self) -> None:
        renewed, copied = time.monotonic(), time.monotonic()
        while not self._closed.is_set():
            woken = self._woken.wait(LEASE_RENEWAL_SECONDS)
            self._woken.clear()
            began = time.monotonic()
            try:
                if began - renewed >= LEASE_RENEWAL_SECONDS:
                    patiently(self.lease.renew, RefusedError)
                    renewed = began
            except (TakenOverError, RefusedError) as problem:
                self.problem = problem
                self.lost()
                return
            except StoreError as problem:
                self.behind = problem
            if woken or began - copied >= COPY_INTERVAL_SECONDS:
                try:
                    self.copy()
                    copied, self.behind = began, None
                except StoreError as problem:
                    self.behind = problem
                pause = (time.monotonic() - began) / COPY_TIME_FRACTION
                self._closed.wait(min(max(COPY_PAUSE_SECONDS, pause), LEASE_RENEWAL_SECONDS))

    def copy(self) -> None:
        """Make a backup if the database has changed since the last one.

        Raises StoreError if the backup can't be written.
        """
        stat = self.database.path.stat()
        if self._copied == (stat.st_mtime_ns, stat.st_size):
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "optuna.db"
            self.database.copy(copy)
            earlier = _copies(self.folder)
            number = 1 + (_number(earlier[0]) if earlier else 0)
            self.folder.write(f"optuna-{number:08d}.db", copy)
        for old in earlier[COPIES_KEPT - 1 :]:
            self.folder.delete(old)
        self._copied = (stat.st_mtime_ns, stat.st_size)


@contextmanager
def snapshots(store: Store, lost: Callable[[], None]) -> Iterator[Sequence[Snapshots]]:
    """Back up the store's database while the block runs, and yield the watchers that do so.

    Yields no watcher if the store makes no backups. lost: see `Snapshots`. Raises StoreError on
    entry if the backups can't be written, and on exit if the backups stopped for good.
    """
    if store.snapshots is None:
        yield ()
        return
    watcher = Snapshots(store, lost)
    watcher.start()
    try:
        yield (watcher,)
    finally:
        watcher.close()
    if watcher.problem is not None:
        raise watcher.problem


def restored(store: Store, say: Callable[[str], None]) -> Store:
    """Restore the studies of a store if it has lost them, and return the store; see `restore`.

    say: called with the sentence that says what was done.
    """
    sentence = restore(store)
    if sentence:
        say(sentence)
    return store


def restore(store: Store) -> str:
    """Restore the studies of a store from the newest readable backup.

    Nothing is done if the store already has a database, or if there is no backup. Trials that
    started after the backup are recovered from their checkpoints. Returns a sentence that says
    what was done; "" if nothing was done.

    Raises StoreError if a search of another store is writing backups to the same location, or if no
    backup can be read.
    """
    database = store.root / "optuna.db"
    if store.snapshots is None or database.exists():
        return ""
    copies = _copies(store.snapshots)
    if not copies:
        return ""
    store.root.mkdir(parents=True, exist_ok=True)
    lease = Lease(store)
    lease.refuse(restoring=True)
    for name in copies:
        with store.snapshots.here((name,)) as here:
            if file_database(here / name).is_intact("studies"):
                part = database.with_suffix(".part")
                shutil.copy(here / name, part)
                lease.write(ended=True)  # from here on, the backups belong to this store
                part.replace(database)
                for study in writers(store):
                    if study.read().is_ours:
                        recover(study, store.trials / study.name)
                return (
                    f"Restored the studies from {store.snapshots / name}: trials that ran after "
                    "that backup resume from their checkpoints."
                )
    raise StoreError(
        f"no backup of the studies in {store.snapshots} can be read: give another --files"
    )


def _copies(folder: Folder) -> list[str]:
    """Return the names of the backups, newest first."""
    return [name for name in reversed(folder.names()) if _number(name)]


def _number(name: str) -> int:
    """Return the number of a backup; 0 for any other file."""
    digits = name.removeprefix("optuna-").removesuffix(".db")
    return int(digits) if digits.isdecimal() else 0
