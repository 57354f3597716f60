"""Find the checkpoints of a study's trials.

The folder NNNN holds the checkpoints of the first attempt at trial NNNN, NNNN.1 those of the
second attempt, and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sabtune import manifest
from sabtune.errors import CheckpointError
from sabtune.storage.folder import Folder
from sabtune.training.trial import FILE, Progress, TrialSpec, load_history

CHECKPOINT = "checkpoint_"
"""The prefix of Ray Tune's checkpoint folders. An increasing number follows."""

ENTRY = "entry.json"
"""A file in each checkpoint of a study with backups: the trial's entry in the study."""


def directory(number: int, attempt: int) -> str:
    """Return the name of an attempt's folder. Attempts count from 0."""
    return f"{number:04d}" + (f".{attempt}" if attempt else "")


class Attempts:
    """The attempts at the trials of a study, found by listing the study's folder once.

    study: the folder of the study's checkpoints.
    """

    def __init__(self, study: Folder):
        self.study = study
        self._attempts: dict[int, list[int]] = {}
        for name in study.names():
            match = re.fullmatch(r"(\d{4,})(?:\.(\d+))?", name)
            if match is not None:
                self._attempts.setdefault(int(match[1]), []).append(int(match[2] or 0))

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of the trials that have a folder, sorted."""
        return sorted(self._attempts)

    def next(self, number: int) -> int:
        """Return the number of a trial's next attempt: one more than the last one with a folder."""
        return max(self._attempts.get(number, ()), default=-1) + 1

    def checkpoints(self, number: int) -> list[Folder]:
        """Return the checkpoints of all attempts at a trial, newest first."""
        attempts = sorted(self._attempts.get(number, ()), reverse=True)
        folders = [self.study / directory(number, attempt) for attempt in attempts]
        return [checkpoint for folder in folders for checkpoint in within(folder)]


def within(attempt: Folder) -> list[Folder]:
    """Return the checkpoints of one attempt, newest first."""
    names = [name for name in attempt.names() if name.startswith(CHECKPOINT)]
    return [attempt / name for name in sorted(names, reverse=True)]


def history(checkpoints: Iterable[Folder], spec: TrialSpec | None = None) -> list[Progress]:
    """Return the progress stored in the first readable checkpoint; [] if none can be read.

    spec: if given, checkpoints of trials with another specification are skipped.
    """
    for checkpoint in checkpoints:
        try:
            with checkpoint.here((FILE, *manifest.FILES)) as here:
                return load_history(here, spec)
        except CheckpointError:
            continue
    return []


def clear(attempt: Folder, names: Sequence[str]) -> None:
    """Delete the checkpoints of an attempt that are older than all checkpoints in `names`."""
    for checkpoint in within(attempt):
        if checkpoint.name < min(names):
            checkpoint.delete_all()
