"""What the attempts at trials left of checkpoints: NNNN of the first, NNNN.1 of the second, …"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sabtune import manifest
from sabtune.errors import CheckpointError
from sabtune.storage.folder import Folder
from sabtune.training.trial import FILE, Progress, TrialSpec, load_history

CHECKPOINT = "checkpoint_"
"""What the names of Tune's folders begin with; a number follows, which rises."""

ENTRY = "entry.json"
"""Beside a checkpoint's files, where its study is copied: what the study holds of the trial."""


def directory(number: int, attempt: int) -> str:
    """The name of an attempt's folder; `attempt` from 0."""
    return f"{number:04d}" + (f".{attempt}" if attempt else "")


class Attempts:
    """The attempts at the trials of a study, as its folder listed them when this was made."""

    def __init__(self, study: Folder):
        self.study = study
        self._known: dict[int, list[int]] = {}
        for name in study.names():
            found = re.fullmatch(r"(\d{4,})(?:\.(\d+))?", name)
            if found is not None:
                self._known.setdefault(int(found[1]), []).append(int(found[2] or 0))

    @property
    def numbers(self) -> list[int]:
        """The trials that left anything."""
        return sorted(self._known)

    def next(self, number: int) -> int:
        """The first attempt at a trial that left nothing, nor any after it."""
        return max(self._known.get(number, ()), default=-1) + 1

    def checkpoints(self, number: int) -> list[Folder]:
        """What the attempts at a trial left, newest first."""
        attempts = sorted(self._known.get(number, ()), reverse=True)
        return [of for at in attempts for of in within(self.study / directory(number, at))]


def within(attempt: Folder) -> list[Folder]:
    """The checkpoints of one attempt, newest first."""
    names = [name for name in attempt.names() if name.startswith(CHECKPOINT)]
    return [attempt / name for name in sorted(names, reverse=True)]


def history(checkpoints: Iterable[Folder], spec: TrialSpec | None = None) -> list[Progress]:
    """What the first of these checkpoints that can be read says was reported; else nothing.

    assignment: those of another are passed over.
    """
    for checkpoint in checkpoints:
        try:
            with checkpoint.here((FILE, *manifest.FILES)) as here:
                return load_history(here, spec)
        except CheckpointError:
            continue
    return []


def clear(attempt: Folder, kept: Sequence[str]) -> None:
    """Takes away an attempt's checkpoints that are older than all of `kept`."""
    for checkpoint in within(attempt):
        if checkpoint.name < min(kept):
            checkpoint.delete_all()
