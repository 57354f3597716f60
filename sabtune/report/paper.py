"""What the papers report, to stand beside our own numbers.

Every number on this page is quoted from memory, and whoever shows one says so with `QUOTED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

QUOTED = "quoted from memory, not checked against the PDF"


@dataclass(frozen=True, kw_only=True)
class Quoted:
    """A row of a paper's table. accuracy: in %, by length, or why there is none."""

    method: str
    source: str
    accuracy: Mapping[int, float | str]


@dataclass(frozen=True, kw_only=True)
class QuotedTable:
    """Rows of one setting: what a task's config, as a dict, holds where it is the same."""

    setting: Mapping[str, Any]
    words: str
    note: str
    rows: tuple[Quoted, ...]

    def is_of(self, task: Mapping[str, Any]) -> bool:
        """Whether a study of this task stands on the same ground."""
        return all(task.get(key) == value for key, value in self.setting.items())


SAB = "Ke et al. 2018, arXiv 1809.03702"
H_DETACH = "arXiv 1810.03023"

TABLES = (
    QuotedTable(
        setting={"kind": "copying", "length": 100, "symbols": 10, "alphabet": 8},
        words="copying 10 symbols of 8, trained at length 100",
        note="The released script of Ke et al. feeds a symbol as one number, not one-hot.",
        rows=(
            Quoted(
                method="LSTM, full back-propagation",
                source=SAB,
                accuracy={100: 99, 200: 34, 300: 25, 400: 21, 2000: 12, 5000: 12},
            ),
            Quoted(
                method="LSTM with full self-attention",
                source=SAB,
                accuracy={100: 100, 200: 52, 300: 28, 400: 20, 2000: 12, 5000: "out of memory"},
            ),
            Quoted(
                method="SAB",
                source=SAB,
                accuracy={100: 99, 200: 95, 300: 83, 400: 75, 2000: 47, 5000: 41},
            ),
            Quoted(
                method="h-detach LSTM, p = 0.25",
                source=H_DETACH,
                accuracy={200: 90.2, 400: 77.8, 2000: 51.8, 5000: 42.4},
            ),
        ),
    ),
)
"""Learned at one length and tested at longer ones."""


def quoted(task: Mapping[str, Any]) -> QuotedTable | None:
    """The table of this kind of task, whether or not its setting is the same; None if none is."""
    return next((table for table in TABLES if table.setting["kind"] == task.get("kind")), None)
