"""Test `sabtune status --follow`, which shows the search of another process from its study."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from typer.testing import CliRunner

from sabtune.cli.app import app
from sabtune.storage.store import Store
from sabtune.study.attributes import ATTEMPTS, PLAN, SPEC
from sabtune.study.events import Outcome
from sabtune.study.locks import locked
from sabtune.study.record import StudyRecord
from sabtune.study.writer import StudyWriter
from sabtune.terminal import following
from sabtune.terminal.following import Follower, began_at, follow
from sabtune.training.trial import Progress
from tests.terminals import Reflowing, Terminal
from tests.test_progress import LABEL, progress, results, shown, spec, terminal


class Search:
    """A search that another process could run: it writes to the study `copying` of a store."""

    def __init__(self, folder: Path):
        self.store = Store(folder).made()
        self.writer = StudyWriter.create(self.store, "copying", ["maximize"])
        self.writer.optuna.set_user_attr(PLAN, {"study": {"trials": 6}})
        self.running: dict[int, optuna.Trial] = {}
        self.history: dict[int, list[Progress]] = {}
        self.lock = ExitStack()
        self.lock.enter_context(locked("copying", self.store))

    def start(self) -> None:
        trial = self.writer.optuna.ask()
        trial.set_user_attr(SPEC, spec(trial.number).to_dict())
        self.running[trial.number] = trial
        self.history[trial.number] = []

    def report(self, number: int, made: Progress, *, saved: bool = True) -> None:
        self.writer.report(self.running[number], made)
        self.history[number] += [made] if saved else []

    def end(self, number: int, state: str, *accuracies: float, reason: str = "") -> None:
        done = results(*accuracies)
        outcome = Outcome(state=state, reason=reason, ladder=done, test=done)  # type: ignore[arg-type]
        values = [accuracies[0]] if state == "COMPLETE" else None
        self.writer.end(self.running.pop(number), outcome, values)


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Search]:
    """Return a search whose checkpoints have the history that it reported."""
    made = Search(tmp_path / "store")
    monkeypatch.setattr(following, "Attempts", lambda _: made)
    monkeypatch.setattr(Search, "checkpoints", lambda self, number: number, raising=False)
    monkeypatch.setattr(following, "history", lambda number, _: made.history[number])
    with made.lock:
        yield made


def test_a_followed_search_is_printed_as_the_search_itself_prints_it(search: Search) -> None:
    lines = io.StringIO()
    search.start()
    search.report(0, progress(10, 0.9, 0.4))
    follower = Follower(Console(file=lines), StudyRecord.open(search.store, "copying"))

    def printed() -> list[str]:
        follower.update()
        text = lines.getvalue()
        lines.seek(0)
        lines.truncate()
        return [re.sub(r"left .*(?=\])", "left …", line) for line in text.splitlines()]

    assert printed() == []  # what was there before
    search.start()
    assert printed() == [f"#1 starts: {LABEL}"]
    search.report(0, progress(20, 0.9, 0.5, score=0.7))
    search.report(1, progress(10, 0.5, 0.6), saved=False)
    assert printed() == [
        "#0 20/20 updates, 123/s, loss 0.500, 5: 90.0%  10: 50.0%, score 0.700",
    ]
    assert printed() == ["#1 10/20 updates, score 0.600"]  # its checkpoint is still missing
    search.history[1].append(progress(10, 0.5, 0.6))
    assert printed() == []
    assert follower.watch.rows[1].report is not None
    search.end(0, "COMPLETE", 0.95, 0.85)
    search.end(1, "PRUNED", reason="score 0.600 at 10 updates")
    search.start()
    search.end(2, "FAIL", reason="DivergedError: no finite gradient")
    assert printed() == [
        "#0 complete: 5: 95.0%  10: 85.0%  [1 of 6, left …]",
        "#1 pruned: score 0.600 at 10 updates  [2 of 6, left …]",
        f"#2 starts: {LABEL}",
        "#2 failed: DivergedError: no finite gradient  [3 of 6, left …]",
    ]
    assert printed() == []


def test_the_table_has_the_trials_of_the_whole_study(search: Search) -> None:
    search.start()
    search.end(0, "COMPLETE", 0.95, 0.85)
    search.start()
    search.report(1, progress(10, 0.9, 0.4))
    follower = Follower(terminal(), StudyRecord.open(search.store, "copying"))
    follower.update()
    lines = shown(follower.watch)
    assert " 1 of 6 trials · elapsed " in lines[0]
    assert "1 running, 0 pruned, 0 failed, 1 complete · best 0.950 by #0" in lines[1]
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[3:]]
    assert rows == [
        ["0", "complete", LABEL, "0/20", "0.950", "95.0%", "85.0%"],
        ["1", "running", LABEL, "10/20", "123", "0.500", "0.600", "90.0%", "40.0%"],
    ]


def test_following_ends_with_the_search(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last results are shown, although the search ends right after it has written them."""
    lines, pauses = io.StringIO(), list[float]()
    search.start()

    def meanwhile(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            search.end(0, "COMPLETE", 0.95, 0.85)
            search.lock.close()

    monkeypatch.setattr(time, "sleep", meanwhile)
    follow(Console(file=lines), StudyRecord.open(search.store, "copying"))
    assert len(pauses) == 2
    assert lines.getvalue() == "#0 complete: 5: 95.0%  10: 85.0%  [1 of 6, left –]\n"


def test_the_results_follow_the_search(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    search.start()

    def end(_: float) -> None:
        search.end(0, "COMPLETE", 0.95, 0.85, 0.75)
        search.lock.close()

    monkeypatch.setattr(time, "sleep", end)
    where = ["--store", str(search.store.root)]
    lines = CliRunner().invoke(app, ["status", "--follow", *where]).output.splitlines()
    assert lines[:3] == [
        "Following the search of copying. Ctrl-C leaves it running.",
        "#0 complete: 5: 95.0%  10: 85.0%  20: 75.0%  [1 of 6, left –]",
        "The search ended after 1 of 6 trials.",
    ]
    assert lines[3].startswith("Study copying: 1 trial (1 complete)")


def test_a_large_study_is_read_rarely(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    now, pauses = [0.0], list[float]()

    def slow(self: Follower) -> None:
        now[0] += 2.5 if len(pauses) == 0 else 0.001

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            search.lock.close()

    monkeypatch.setattr(Follower, "update", slow)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    follow(Console(file=io.StringIO()), StudyRecord.open(search.store, "copying"))
    assert pauses == [pytest.approx(50.0), 1.0]


def test_a_search_began_with_the_trials_that_follow_each_other() -> None:
    now = datetime(2026, 11, 30, 12)

    def trial(start: float, end: float | None, **attributes: int) -> FrozenTrial:
        """Return a trial that started and ended these minutes ago."""
        made = optuna.trial.create_trial(
            state=TrialState.RUNNING if end is None else TrialState.PRUNED, user_attrs=attributes
        )
        made.datetime_start = now - timedelta(minutes=start)
        made.datetime_complete = None if end is None else now - timedelta(minutes=end)
        return made

    def minutes(*trials: FrozenTrial) -> float:
        return (now.timestamp() - began_at(trials, now.timestamp())) / 60

    yesterday = trial(1500, 1450)
    assert minutes() == 0
    assert minutes(yesterday, trial(10, None)) == 10
    assert minutes(yesterday, trial(31, 10.5), trial(10, None), trial(60, 30)) == 60
    resumed = trial(1490, None, **{ATTEMPTS: 1})
    assert minutes(yesterday, resumed, trial(5, None)) == 5


def test_there_may_be_no_search_to_follow(search: Search) -> None:
    where = ["--store", str(search.store.root)]
    search.start()
    search.lock.close()
    lines = CliRunner().invoke(app, ["status", "copying", "--follow", *where]).output.splitlines()
    assert lines[0] == "Study copying, 0 of 6 trials: 1 unfinished"
    assert lines[1] == "No search is writing to it now, so there is none to follow."
    lines = CliRunner().invoke(app, ["status", "--follow", *where]).output.splitlines()
    assert lines[0] == "No search is running, so there is none to follow."
    assert any(line.startswith("copying  interrupted  0 of 6") for line in lines)


def test_several_searches_are_told_apart(search: Search) -> None:
    other = StudyWriter.create(search.store, "other", ["maximize"])
    other.optuna.set_user_attr(PLAN, {"study": {"trials": 6}})
    with locked("other", search.store):
        done = CliRunner().invoke(app, ["status", "--follow", "--store", str(search.store.root)])
    told = "name the study to follow; running searches: copying, other"
    assert str(done.exception) == told


def test_a_search_is_followed_on_a_terminal_that_is_resized(search: Search) -> None:
    command = [sys.executable, "-m", "sabtune", "status", "--follow", "--store", search.store.root]
    for number in range(5):
        search.start()
        search.report(number, progress(10, 0.9, 0.4, score=number / 10), saved=False)
    search.end(0, "PRUNED", reason="low")
    search.end(1, "FAIL", reason="DivergedError")
    search.end(2, "COMPLETE", 0.95, 0.85)
    with Terminal(command, columns=100, lines=20, kind=Reflowing) as emulated:
        emulated.wait_until(partial(has_row, 4, "running"))
        words = ("complete  ", "failed  ", "running  ")
        assert [emulated.color(word) for word in words] == ["green", "red", "cyan"]
        for size in ((70, 20), (48, 14), (90, 12), (60, 9)):
            emulated.resize(*size)
            emulated.wait_until(partial(is_drawn, *size))
        emulated.interrupt()
        assert emulated.wait() == 130
        assert "copying keeps running." in emulated.lines
        assert emulated.shows_cursor()


def has_row(number: int, state: str, lines: list[str]) -> bool:
    return any(re.match(rf" *{number}  {state}  ", line) for line in lines)


def is_drawn(columns: int, height: int, lines: list[str]) -> bool:
    """Return whether the table is there once, for this size of the terminal.

    It has no row twice, and those of the best trial and of the running ones.
    """
    headers = [line for line in lines if line.startswith("#  state")]
    bars = [line for line in lines if "trials · elapsed" in line]
    numbers = [line.split()[0] for line in lines if re.match(r" *\d+  [a-z]+  ", line)]
    return (
        len(headers) == len(bars) == 1
        and columns - 12 < len(headers[0]) <= columns
        and all("score" in header for header in headers)
        and len(lines) < height
        and len(numbers) == len(set(numbers))
        and {"2", "3", "4"} <= set(numbers)
    )
