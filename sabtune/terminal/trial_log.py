"""A log file with one line for each ended trial and for each note on a trial."""

from __future__ import annotations

import logging
import os
from datetime import datetime
from pathlib import Path

from sabtune.escaping import terminal
from sabtune.study.events import Outcome
from sabtune.terminal.live_table import label, same_as
from sabtune.training.trial import Progress, TrialSpec

log = logging.getLogger(__name__)

WIDTHS = {
    "time": 25,
    "trial": 6,
    "state": 8,
    "score": 6,
    "updates": 7,
    "seconds": 8,
    "accuracy by length": 56,
    "configuration": 48,
    "seed": 7,
    "reason": 0,
}
"""The minimum width of each column, in characters.

Two or more spaces separate columns, and no field contains two spaces in a row.
"""


class Logbook:
    """A watcher that appends a line to the file at `path` when a trial ends or has a note.

    A new file starts with a header. The accuracies are those on the selection sequences, from which
    the score is computed. If the file can't be written, the logbook logs one warning, and the
    search continues. The study contains the same information as the lost lines.
    """

    def __init__(self, path: Path):
        self.path = path
        self.running: dict[int, TrialSpec] = {}
        self.last: dict[int, Progress] = {}
        self.warned = False

    def trial_started(self, spec: TrialSpec) -> None:
        self.running[spec.number] = spec

    def trial_reported(self, number: int, progress: Progress) -> None:
        self.last[number] = progress

    def trial_noted(self, number: int, words: str) -> None:
        self._write(_line(_now(), f"#{number}", "NOTE", *[""] * (len(WIDTHS) - 4), words))

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        spec, last = self.running.pop(number, None), self.last.pop(number, None)
        self._write(_line(*_fields(number, spec, last, outcome)))

    def _write(self, line: str) -> None:
        try:
            self._append(line)
        except OSError as problem:
            if not self.warned:
                log.warning("%s can't be written: %s", self.path, problem)
            self.warned = True

    def _append(self, line: str) -> None:
        """Append a line in a single write; complete an unfinished last line first."""
        with self.path.open("ab+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size == 0:
                line = _line(*WIDTHS) + line
            else:
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode(errors="replace"))


def _fields(
    number: int, spec: TrialSpec | None, last: Progress | None, outcome: Outcome
) -> list[str]:
    """Return the fields of a trial, in the order of `WIDTHS`."""
    score = outcome.score
    if last and outcome.state == "PRUNED":
        score = last.score
    results = outcome.ladder or (last.ladder if last else ())
    return [
        _now(),
        f"#{number}",
        outcome.state,
        "" if score is None else f"{score:.4f}",
        str(last.report.step) if last else "",
        f"{last.seconds:.1f}" if last else "",
        " ".join(f"{result.length}:{result.accuracy:.3f}" for result in results),
        f"{same_as(spec)} {label(spec.run)}" if spec else "",
        str(spec.run.seed) if spec else "",
        outcome.reason,
    ]


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _line(*fields: str) -> str:
    """Return the fields as one line of aligned columns, with "-" for an empty field."""
    texts = [" ".join(terminal(field).split()) or "-" for field in fields]
    padded = (f"{text:<{width}}" for text, width in zip(texts, WIDTHS.values(), strict=True))
    return "  ".join(padded).rstrip() + "\n"
