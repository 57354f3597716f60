"""Results from papers, for comparison with a study's own numbers.

All numbers in this module are quoted from memory. Wherever they are shown, show `QUOTED` too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

QUOTED = "quoted from memory, not checked against the PDF"


Measure = Literal["accuracy", "loss"]


@dataclass(frozen=True, kw_only=True)
class Quoted:
    """A row of a paper's table.

    values: Accuracies in % or losses, by length. A text says why there is no number. The key None
    stands for a whole test set.
    """

    method: str
    source: str
    values: Mapping[int | None, float | str]


@dataclass(frozen=True, kw_only=True)
class QuotedTable:
    """Rows of a paper's table that share one setting.

    subject: The entries of a task's configuration that say which task the table is about.

    setting: The further entries that a task needs for its results to be comparable. None: no task
    has comparable results.

    words: The setting in words.
    """

    subject: Mapping[str, Any]
    setting: Mapping[str, Any] | None
    measure: Measure = "accuracy"
    words: str
    note: str = ""
    rows: tuple[Quoted, ...]

    def is_about(self, task: Mapping[str, Any]) -> bool:
        """Return whether the table is about this task, in whatever setting."""
        return _holds(task, self.subject)

    def compares(self, task: Mapping[str, Any]) -> bool:
        """Return whether the results are comparable with a study of this task."""
        return self.is_about(task) and self.setting is not None and _holds(task, self.setting)


def _holds(task: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    return all(task.get(key) == value for key, value in content.items())


SAB = "Ke et al. 2018, arXiv 1809.03702"
H_DETACH = "arXiv 1810.03023"


def _sab(method: str, values: Mapping[int | None, float | str]) -> Quoted:
    return Quoted(method=method, source=SAB, values=values)


TABLES = (
    QuotedTable(
        subject={"kind": "copying"},
        setting={"length": 100, "symbols": 10, "alphabet": 8},
        words="copying 10 symbols of 8, trained at length 100",
        note="The released script of Ke et al. feeds a symbol as one number, not one-hot.",
        rows=(
            _sab(
                "LSTM, full BPTT",
                {100: 99, 200: 34, 300: 25, 400: 21, 2000: 12, 5000: 12},
            ),
            _sab(
                "Self-attention LSTM, full BPTT",
                {100: 100, 200: 52, 300: 28, 400: 20, 2000: 12, 5000: "out of memory"},
            ),
            _sab("SAB", {100: 99, 200: 95, 300: 83, 400: 75, 2000: 47, 5000: 41}),
            Quoted(
                method="h-detach LSTM, p = 0.25",
                source=H_DETACH,
                values={200: 90.2, 400: 77.8, 2000: 51.8, 5000: 42.4},
            ),
        ),
    ),
    QuotedTable(
        subject={"kind": "copying"},
        setting=None,
        words="copying 10 symbols of 8, trained at each length that it is tested at",
        rows=(
            _sab("LSTM, full BPTT", {100: 99.8, 200: 56.0, 300: 35.9}),
            _sab("LSTM, truncated BPTT (k_trunc=20)", {100: 30.5, 200: 35.8, 300: 25.7}),
            _sab("SAB (k_top=5, k_trunc=5)", {100: 100, 200: 99.3, 300: 98.9}),
            _sab("SAB (k_top=1, k_trunc=1)", {100: 57.9, 200: 29.8, 300: 26.7}),
        ),
    ),
    QuotedTable(
        subject={"kind": "adding"},
        setting={"length": 200},
        measure="loss",
        words="adding, trained and tested at length 200, mean squared error",
        rows=(
            _sab("LSTM, full BPTT", {200: 4.6e-6}),
            _sab("Self-attention LSTM, full BPTT", {200: 5.5e-8}),
            _sab("LSTM, truncated BPTT (k_trunc=50)", {200: 3.0e-4}),
            _sab("SAB (k_top=10, k_trunc=10)", {200: 2.0e-6}),
        ),
    ),
    QuotedTable(
        subject={"kind": "pixels", "images": "mnist"},
        setting={"by": "pixel", "permutation": 0},
        words="permuted MNIST by pixel, test images",
        note="Their permutation is not known.",
        rows=(
            _sab("LSTM, full BPTT", {784: 90.3}),
            _sab("LSTM, truncated BPTT (k_trunc=300)", {784: 11.3}),
            _sab("SAB (k_top=10, k_att=50, k_trunc=50)", {784: 94.2}),
            _sab("Transformer", {784: 97.9}),
        ),
    ),
    QuotedTable(
        subject={"kind": "pixels", "images": "cifar10"},
        setting={"by": "pixel", "permutation": None},
        words="CIFAR-10 by pixel, test images",
        rows=(
            _sab("LSTM, full BPTT", {1024: 58.3}),
            _sab("LSTM, truncated BPTT", {1024: 51.3}),
            _sab("SAB (k_top=10, k_att=16, k_trunc=16)", {1024: 64.5}),
            _sab("Transformer", {1024: 62.2}),
        ),
    ),
    QuotedTable(
        subject={"kind": "language", "text": "ptb"},
        setting={},
        measure="loss",
        words="Penn Treebank by character, test text, bits per character",
        rows=(
            _sab("LSTM, full BPTT", {None: 1.36}),
            _sab("LSTM, truncated BPTT (k_trunc=20)", {None: 1.40}),
            _sab("SAB (k_trunc=20)", {None: 1.37}),
        ),
    ),
    QuotedTable(
        subject={"kind": "language", "text": "text8"},
        setting={},
        measure="loss",
        words="text8 by character, test text, bits per character",
        rows=(
            _sab("LSTM, full BPTT", {None: 1.42}),
            _sab("SAB", {None: 1.44}),
        ),
    ),
)


def quoted(task: Mapping[str, Any]) -> list[QuotedTable]:
    """Return the tables whose results are comparable with a study of this task."""
    return [table for table in TABLES if table.compares(task)]


def left_out(task: Mapping[str, Any]) -> list[QuotedTable]:
    """Return the tables about this task whose results are not comparable with a study of it."""
    return [table for table in TABLES if table.is_about(task) and not table.compares(task)]
