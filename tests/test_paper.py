"""Test the published numbers shown with studies of the same tasks."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from sabtune import schema
from sabtune.config import PARTS
from sabtune.reporting import length_table, published
from sabtune.reporting.data import ReportData, gather
from sabtune.storage.store import Store
from sabtune.study.record import StudyRecord
from sabtune.tasks import Adding, Copying, Language, Pixels, Recall
from tests.reports import searched

SAME = {
    "copying": Copying.Config(length=100, symbols=10),
    "adding": Adding.Config(length=200),
    "mnist": Pixels.Config(images="mnist", length=784, permutation=0),
    "cifar10": Pixels.Config(images="cifar10", length=1024),
    "ptb": Language.Config(text="ptb", length=100),
    "text8": Language.Config(text="text8", length=180),
}
"""The tasks with the settings of the tables of published numbers."""


def data(task: Any, folder: Path) -> ReportData:
    store = Store(folder).made()
    return gather(StudyRecord(searched(store, "of-a-task", 3, task=task)))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("copying", ["| SAB | – |", "| 41 |", "out of memory"]),
        ("adding", ["Loss in squared error", "5.5e-08", "4.6e-06"]),
        ("mnist", ["94.2", "11.3", "Their permutation is not known."]),
        ("cifar10", ["64.5", "58.3"]),
        ("ptb", ["There: LSTM, full BPTT 1.36; LSTM, truncated BPTT (k_trunc=20) 1.4; SAB"]),
        ("text8", ["There: LSTM, full BPTT 1.42; SAB 1.44."]),
    ],
)
def test_published_numbers_are_shown_as_quoted(kind: str, says: list[str], tmp_path: Path) -> None:
    found = data(SAME[kind], tmp_path)
    text = length_table.markdown(found)
    for words in [*says, published.QUOTED]:
        assert words in text
    # Copying has published numbers of two settings.
    assert ("other settings do not compare" in text) == (kind == "copying")
    rows = list(csv.DictReader(io.StringIO(length_table.csv_page(found))))
    theirs = [row for row in rows if published.QUOTED in row["source"]]
    accuracy = kind in ("copying", "mnist", "cifar10")
    assert all(bool(row["accuracy"]) == accuracy for row in theirs if not row.get("note"))
    assert all(bool(row["loss"]) != accuracy for row in theirs if not row.get("note"))
    assert {row["length"] for row in theirs} == (
        {""} if kind in ("ptb", "text8") else {str(n) for n in lengths(kind)}
    )


def lengths(kind: str) -> set[int | None]:
    task = schema.to_dict(SAME[kind], PARTS)
    tables = [table for table in published.TABLES if table.compares(task)]
    return {length for table in tables for row in table.rows for length in row.values}


def test_numbers_of_another_setting_are_left_out(tmp_path: Path) -> None:
    text = length_table.markdown(data(Adding.Config(length=50), tmp_path))
    assert published.QUOTED not in text
    left_out = "left out: adding, trained and tested at length 200, mean squared error."
    assert left_out in text


@pytest.mark.parametrize(
    "task", [Recall.Config(length=10), Pixels.Config(images="digits", length=64)], ids=str
)
def test_tasks_without_published_numbers_quote_nothing(task: Any, tmp_path: Path) -> None:
    assert published.QUOTED not in length_table.markdown(data(task, tmp_path))
