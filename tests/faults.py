"""Searches with faults: studies with predefined trials, and control over their driver process."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from sabtune.storage.store import Store
from sabtune.study.record import StudyRecord
from sabtune.study.trial_record import TrialRecord
from sabtune.training.trial import Limits, Progress, TrialRun
from tests.forked import Process, start, start_anew

STUDY = '''
"""One symbol of two, two steps later; each kind of trial trains in its own way."""

from sabtune.config import TrainConfig, TrialConfig
from sabtune.training.evaluation import Ladder
from sabtune.models import LSTM
from sabtune.study.definition import Study
from sabtune.tasks import Copying
from sabtune.training.trial import Limits

KINDS = {kinds!r}

STUDY = Study(
    name={name!r},
    task=Copying.Config(length=2, symbols=1, alphabet=2),
    ladder=Ladder(lengths=(2, 4, 8), select=(2, 4), sequences=64),
    trials={trials!r},
    points={points!r},
    limits=Limits(**{limits!r}),
)


def space(trial):
    train = dict(updates={updates!r}, batch_size=16, learning_rate=0.02, report_every=30)
    train |= KINDS[trial.suggest_categorical("kind", list(KINDS))]
    hidden = trial.suggest_int("hidden", 12, 40)
    model = LSTM.Config(hidden=train.pop("hidden", hidden))  # needs no compiling
    return TrialConfig(model=model, train=TrainConfig(**train))
'''

PLAIN: dict[str, dict[str, Any]] = {"plain": {}}


def study(
    directory: Path,
    name: str,
    points: Sequence[str],
    *,
    updates: int = 120,
    kinds: Mapping[str, Mapping[str, Any]] = PLAIN,
    limits: Mapping[str, float] | None = None,
) -> Path:
    """Write a study without pruning whose trials have the kinds in `points`, in order.

    kinds: for each kind, its arguments of TrainConfig and its number of hidden units, if they
    differ from the defaults.
    """
    content = STUDY.format(
        name=name,
        kinds=dict(kinds),
        trials=len(points),
        points=tuple({"kind": kind, "hidden": at} for at, kind in enumerate(points, start=12)),
        limits=dict(limits or {}),
        updates=updates,
    )
    path = directory / f"{name}.py"
    path.write_text(content)
    return path


class Driver:
    """A running command and its output so far.

    prefix: a command that runs it elsewhere, such as on a host of a cluster.
    """

    def __init__(self, *arguments: object, cwd: Path, prefix: Sequence[str] = ()):
        self.shown, self.errors = "", ""
        (shown, out), (errors, err) = (_pipe() for _ in range(2))
        with out, err:
            streams = {"out": out, "err": err}
            self.process: Process | subprocess.Popen[bytes]
            if prefix:
                self.process = start_anew(
                    *arguments,
                    cwd=cwd,
                    **streams,
                    environment=os.environ,
                    unbuffered=True,
                    prefix=prefix,
                )
            else:
                self.process = start(
                    *arguments, cwd=cwd, **streams, environment=os.environ, unbuffered=True
                )
        self.readers = [
            threading.Thread(target=self._read, args=("shown", shown), daemon=True),
            threading.Thread(target=self._read, args=("errors", errors), daemon=True),
        ]
        for reader in self.readers:
            reader.start()

    def _read(self, name: str, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                setattr(self, name, getattr(self, name) + line)

    def until(self, holds: str | Callable[[], object], seconds: float = 300) -> None:
        """Wait until the command has shown these words, or until the condition holds."""
        limit = time.monotonic() + seconds
        while not (holds in self.shown if isinstance(holds, str) else holds()):
            assert self.process.poll() is None, f"it ended:\n{self.shown}{self.errors}"
            assert time.monotonic() < limit, f"waited too long for {holds}:\n{self.shown}"
            time.sleep(0.02 if isinstance(holds, str) else 0.25)

    def end(self) -> int:
        """Wait until the command ends and return its exit code."""
        code = self.process.wait()
        for reader in self.readers:
            reader.join(20)
        return code

    def kill(self) -> None:
        """Kill the command and its descendants, as if its machine had died."""
        self.process.kill()
        self.process.wait()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
                if session == self.process.pid and int(entry.name) != session:
                    os.kill(int(entry.name), signal.SIGKILL)
        for reader in self.readers:
            reader.join(20)


def _pipe() -> tuple[IO[str], IO[bytes]]:
    """Return the reading end and the writing end of a pipe."""
    reading, writing = os.pipe()
    return os.fdopen(reading), os.fdopen(writing, "wb")


@contextmanager
def driver(*arguments: object, cwd: Path, prefix: Sequence[str] = ()) -> Iterator[Driver]:
    """Start a command, and kill what is left of it when the context ends."""
    started = Driver(*arguments, cwd=cwd, prefix=prefix)
    try:
        yield started
    finally:
        started.kill()


def records(store: Store | Path, name: str) -> list[TrialRecord]:
    """Return the trials of a study and close the connection to its database."""
    study = StudyRecord.open(store if isinstance(store, Store) else Store(store), name)
    try:
        return study.trials
    finally:
        study.close()


def in_one_go(trial: TrialRecord) -> TrialRun:
    """Return a run of the trial from its start, in this process.

    The run has no limits, because this process uses more memory than a worker.
    """
    assert trial.spec is not None
    return TrialRun(dataclasses.replace(trial.spec, limits=Limits()))


def assert_as_unbroken(trial: TrialRecord) -> None:
    """Check that a complete trial has the results of an uninterrupted run in this process."""
    told: list[Progress] = list(in_one_go(trial))
    assert trial.scores == {progress.report.step: progress.score for progress in told}
    assert trial.ladder == told[-1].ladder
    assert trial.test == told[-1].test


def assert_begun_as_unbroken(trial: TrialRecord) -> None:
    """Check that a running trial has the first results of an uninterrupted run in this process."""
    last = max(trial.scores)
    scores = {}
    for progress in in_one_go(trial):
        scores[progress.report.step] = progress.score
        if progress.report.step == last:
            break
    assert trial.scores == scores


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    """Mount a small disk at this folder; skip the test where mounting is not permitted."""
    at.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(at)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        problem = mounted.stderr.strip() if mounted.returncode else ""
    except OSError as error:
        problem = str(error)
    if problem:
        pytest.skip(f"a disk that fills up can't be had here: {problem}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)
