"""What the attempts at a trial left on disk: NNNN of the first, NNNN.1 of the second, and so on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sabtune.errors import CheckpointError
from sabtune.trial import Assignment, Progress, load_history


def directory(number: int, attempt: int) -> str:
    """The name of an attempt's folder; `attempt` from 0."""
    return f"{number:04d}" + (f".{attempt}" if attempt else "")


def checkpoints(trials: Path, number: int) -> list[Path]:
    """What the attempts of a trial left of checkpoints, newest first."""
    attempts = [trials / f"{number:04d}", *trials.glob(f"{number:04d}.*")]
    attempts.sort(key=lambda path: int(path.suffix[1:] or 0), reverse=True)
    return [path for at in attempts for path in sorted(at.glob("checkpoint_*"), reverse=True)]


def history(directories: Iterable[Path], assignment: Assignment | None = None) -> list[Progress]:
    """What the first of these checkpoints that can be read says was reported; else nothing.

    assignment: those of another are passed over.
    """
    for directory in directories:
        try:
            return load_history(directory, assignment)
        except CheckpointError:
            continue
    return []
