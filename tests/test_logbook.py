"""Test the trial log, a file with a line for each trial that ended."""

from __future__ import annotations

import logging
import re
from datetime import datetime
from pathlib import Path

import pytest

from sabtune.study.events import Outcome
from sabtune.terminal.trial_log import Logbook
from sabtune.training.evaluation import LengthResult
from sabtune.training.loop import Report
from sabtune.training.trial import Progress
from tests.records import spec

LABEL = "k_top=2 k_att=2 k_trunc=3 constant rate=0.001"


def results(*accuracies: float) -> list[LengthResult]:
    return [
        LengthResult(length=4 * 2**i, accuracy=a, loss=0.0, sequences=8)
        for i, a in enumerate(accuracies)
    ]


def progress(step: int, score: float) -> Progress:
    report = Report(
        step=step, loss=0.5, accuracy=0.8, gradient_norm=1.0, skipped=0, updates_per_second=9.0
    )
    return Progress(report=report, ladder=results(score), score=score, seconds=step * 2, memory=1.0)


def fields(line: str) -> list[str]:
    return re.split(r" {2,}", line)


def test_the_log_has_a_line_for_each_ended_trial(tmp_path: Path) -> None:
    book = Logbook(tmp_path / "study.log")
    begun = datetime.now().astimezone().replace(microsecond=0)
    for number in range(3):
        book.trial_started(spec(number, 1 if number == 2 else None))
        book.trial_reported(number, progress(10, 0.5))
    book.trial_reported(0, progress(20, 0.7))
    assert not book.path.exists()
    book.trial_ended(
        0, Outcome(state="COMPLETE", score=0.75, ladder=results(1, 0.5), test=results(0.1, 0.1))
    )
    book.trial_ended(2, Outcome(state="PRUNED", reason="score 0.500\n at 10 updates"))
    book.trial_ended(1, Outcome(state="FAIL", reason="DivergedError: no finite gradient"))
    head, *lines = book.path.read_text().splitlines()
    assert fields(head) == [
        *("time", "trial", "state", "score", "updates", "seconds"),
        *("accuracy by length", "configuration", "seed", "reason"),
    ]
    assert [fields(line)[1:] for line in lines] == [
        ["#0", "COMPLETE", "0.7500", "20", "40.0", "4:1.000 8:0.500", LABEL, "0", "-"],
        [
            *("#2", "PRUNED", "0.5000", "10", "20.0", "4:0.500"),
            *(f"as #1 {LABEL}", "2", "score 0.500 at 10 updates"),
        ],
        [
            *("#1", "FAIL", "-", "10", "20.0", "4:0.500", LABEL, "1"),
            "DivergedError: no finite gradient",
        ],
    ]
    for line in lines:
        assert begun <= datetime.fromisoformat(fields(line)[0]) <= datetime.now().astimezone()
        assert line.index(fields(line)[2]) == head.index("state")  # the columns are aligned


def test_the_next_search_appends_to_the_log(tmp_path: Path) -> None:
    """Check that the next search appends to the log, even after a line that was cut short."""
    path = tmp_path / "study.log"
    Logbook(path).trial_ended(0, Outcome(state="FAIL", reason="lost"))
    with path.open("a") as file:
        file.write("2026-01-01T00:0")
    Logbook(path).trial_ended(1, Outcome(state="FAIL", reason="lost"))
    starts = [line.split()[:2] for line in path.read_text().splitlines()]
    assert [start[0] for start in starts].count("time") == 1
    assert [start[-1] for start in starts] == ["trial", "#0", "2026-01-01T00:0", "#1"]


def test_a_failure_to_write_is_one_warning_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = Logbook(tmp_path / "missing" / "study.log")
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            book.trial_ended(number, Outcome(state="FAIL", reason="lost"))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{book.path} can't be written" in caplog.text
    book.path.parent.mkdir()  # now it can be written
    book.trial_ended(3, Outcome(state="FAIL", reason="lost"))
    assert "#3" in book.path.read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_a_full_disk_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    Logbook(Path("/dev/full")).trial_ended(0, Outcome(state="FAIL", reason="lost"))
    assert "No space left" in caplog.text
