"""The display of a running search: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from optuna.trial import TrialState
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sabtune.config import RunConfig
from sabtune.study.events import Outcome
from sabtune.study.states import SUMMARY_WORDS, WORDS_IN_A_SEARCH
from sabtune.study.trial_record import TrialRecord
from sabtune.training.evaluation import LengthResult
from sabtune.training.trial import Progress, TrialSpec

WIDE_COLUMNS = 110
"""The minimum width of a terminal, in characters, at which the table shows speed and loss."""


def label(run: RunConfig) -> str:
    """Return a short description of a configuration."""
    return f"{run.model.label()} rate={run.train.learning_rate:.2g}"


def same_as(spec: TrialSpec) -> str:
    """Return "as #N" if the earlier trial N has the same configuration, else ""."""
    own = spec.configuration == spec.number
    return "" if own else f"as #{spec.configuration}"


class Pace:
    """The rate at which trials end, and an estimate of the remaining time of a search.

    clock: Returns the current time in seconds.
    """

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self.started_at: float | None = None  # the start of the first trial
        self.running: dict[int, float] = {}  # the start of each running trial
        self.due: dict[int, float] = {}  # the expected end of each running trial, if not pruned
        self.durations: list[float] = []  # seconds of each trial that ended
        self.slots = 0  # the largest number of trials that ran at once

    def start(self, number: int) -> None:
        """Record that a trial starts."""
        now = self.clock()
        self.started_at = now if self.started_at is None else self.started_at
        self.running.setdefault(number, now)
        self.slots = max(self.slots, len(self.running))

    def report(self, number: int, remaining: float) -> None:
        """Record the seconds that a trial would still take if it weren't pruned."""
        self.due[number] = self.clock() + remaining

    def end(self, number: int) -> None:
        """Record that a trial ended."""
        if number not in self.running:
            return  # the search space rejected its configuration
        self.durations.append(self.clock() - self.running.pop(number))
        self.due.pop(number, None)

    @property
    def rate(self) -> float | None:
        """The number of trials that end in an hour; None before the first has ended."""
        elapsed = self.clock() - self.started_at if self.started_at is not None else 0.0
        return len(self.durations) / elapsed * 3600 if self.durations and elapsed > 0 else None

    def left(self, missing: int) -> float | None:
        """Estimate the seconds until `missing` more trials have ended; None before two have.

        The estimate assumes that a trial that hasn't started takes the mean time, and that a
        running trial makes all its updates. With the second assumption, the estimate isn't too low
        while the last few trials run. After the last trial has started, slots become empty one by
        one. The estimate assumes that each slot but one is then empty for half the mean time.
        """
        if len(self.durations) < 2:
            return None
        mean, now, running = self._mean(), self.clock(), list(self.running.items())
        remaining = [max(self.due.get(n, start + mean) - now, 0.0) for n, start in running]
        waiting, slots = max(missing - len(running), 0), max(self.slots, 1)
        lost = mean / 2 * (slots - 1) if waiting else 0.0
        return max([(waiting * mean + sum(remaining) + lost) / slots, *remaining])

    def _mean(self) -> float:
        """Estimate the mean seconds of a trial by the method of Kaplan and Meier (JASA, 1958).

        At first, most trials that have ended were pruned, so the mean over them alone is too low.
        The running trials are censored observations: their durations have a known lower bound. A
        trial that has run for longer than every ended trial is assumed to make all its updates.
        """
        now, running = self.clock(), list(self.running.items())
        ended, censored = sorted(self.durations), sorted(now - start for _, start in running)
        mean, alive, before = 0.0, 1.0, 0.0
        for count, seconds in enumerate(ended):
            mean += alive * (seconds - before)
            at_risk = len(ended) - count + len(censored) - bisect_left(censored, seconds)
            alive, before = alive * (1 - 1 / at_risk), seconds
        ends = [max(self.due.get(n, now), now) - start for n, start in running]
        ends = [end for (_, start), end in zip(running, ends, strict=True) if now - start >= before]
        return mean + alive * max(sum(ends) / len(ends) - before, 0.0) if ends else mean


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units, as in "2 h 05 min"; "–" for None."""
    if seconds is None:
        return "–"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


@dataclass
class Row:
    """The row of a trial in the table."""

    number: int
    spec: TrialSpec | None = None
    shown_updates: int = 0  # updates that an earlier search has shown
    resumed: bool = False
    progress: Progress | None = None
    outcome: Outcome | None = None

    @property
    def state(self) -> str:
        """The state in words."""
        state = TrialState[self.outcome.state] if self.outcome else TrialState.RUNNING
        return WORDS_IN_A_SEARCH[state]

    @property
    def score(self) -> float | None:
        """The latest score; None for a failed trial, or before the first score."""
        if self.outcome and self.outcome.state == "FAIL":
            return None
        if self.outcome and self.outcome.score is not None:
            return self.outcome.score
        return self.progress.score if self.progress else None

    @property
    def results(self) -> Sequence[LengthResult]:
        """The latest length results."""
        if self.outcome and self.outcome.ladder:
            return self.outcome.ladder
        return self.progress.ladder if self.progress else ()

    @property
    def updates(self) -> str:
        """The numbers of completed and of all updates, as in "10/20"."""
        done = self.progress.report.step if self.progress else self.shown_updates
        return f"{done}/{self.spec.run.train.updates}" if self.spec else ""

    @property
    def same_as(self) -> str:
        """The earlier trial of the same configuration; see `same_as`."""
        return same_as(self.spec) if self.spec else ""

    @property
    def words(self) -> str:
        """The configuration, after the reason if the trial failed or was rejected."""
        explains = self.outcome and (self.outcome.state == "FAIL" or self.spec is None)
        reason = self.outcome.reason if self.outcome and explains else ""
        configuration = label(self.spec.run) if self.spec else ""
        return "  ".join(part for part in (self.same_as, reason, configuration) if part)


class Watch:
    """A watcher that shows a search on a console.

    Use it as a context manager around the search.

    trials: The number of trials at which the study is complete.

    ended: The number of trials that had ended before this search.

    earlier: The trials that the study had before this search. The best score so far and the resumed
    trials are taken from them.

    clock: Returns the current time in seconds.
    """

    def __init__(
        self,
        console: Console,
        trials: int,
        *,
        ended: int = 0,
        earlier: Sequence[TrialRecord] = (),
        clock: Callable[[], float] = time.monotonic,
    ):
        self.console = console
        self.trials, self.before = trials, ended
        self.shown_updates = {trial.number: max(trial.scores, default=0) for trial in earlier}
        scored = [t for t in earlier if t.state != TrialState.FAIL and (t.values or t.scores)]
        self.best_before = max(((t.score, -t.number) for t in scored), default=None)
        self.rows: dict[int, Row] = {}
        self.pace = Pace(clock)
        # Lines printed to this console appear above the table. Other output is not captured.
        self.live = Live(
            get_renderable=self._screen,
            console=console,
            refresh_per_second=2,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def trial_started(self, spec: TrialSpec) -> None:
        number = spec.number
        previous = self.rows.get(number)
        row = Row(number, spec, self.shown_updates.get(number, 0))
        row.resumed = previous is not None or number in self.shown_updates
        row.progress = previous.progress if previous else None
        self.rows[number] = row
        self.pace.start(number)
        verb = "resumes" if row.resumed else "starts"
        at = f" at {row.updates} updates" if row.shown_updates or row.progress else ""
        self._print(f"#{number} {verb}{at}: {row.words}")

    def trial_reported(self, number: int, progress: Progress) -> None:
        row = self.rows[number]
        row.progress, report = progress, progress.report
        updates = row.spec.run.train.updates if row.spec else report.step
        self.pace.report(number, progress.seconds * (updates - report.step) / max(report.step, 1))
        if report.step > row.shown_updates:
            self._print(
                f"#{number} {row.updates} updates, {report.updates_per_second:.0f}/s, "
                f"loss {_loss(report.loss)}, {_results(progress.ladder)}, "
                f"score {progress.score:.3f}"
            )

    def trial_noted(self, number: int, words: str) -> None:
        self._print(f"#{number} {words}")

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        row = self.rows.setdefault(number, Row(number))
        row.outcome = outcome
        self.pace.end(number)
        same_as = f" ({row.same_as})" if row.same_as else ""
        detail = outcome.reason or _results(outcome.test or row.results)
        ended = f"{self._ended()} of {self.trials}, left {duration(self._left())}"
        self._print(f"#{number}{same_as} {row.state}: {detail}  [{ended}]")

    def _print(self, line: str) -> None:
        if self.console.is_terminal:
            return
        try:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        except (OSError, SystemExit):  # rich exits on a closed pipe; the search must not
            self.console.quiet = True

    def _ended(self) -> int:
        return self.before + sum(row.outcome is not None for row in list(self.rows.values()))

    def _left(self) -> float | None:
        return self.pace.left(self.trials - self._ended())

    def _summary(self) -> Text:
        """Return one line with the counts, the best score, the rate and the remaining time."""
        count = Counter(row.state for row in list(self.rows.values()))
        states = ", ".join(f"{count[word]} {word}" for word in SUMMARY_WORDS)
        before = f", {self.before} before" if self.before else ""
        score, number = self._best() or (None, 0)
        best = "best –" if score is None else f"best {score:.3f} by #{-number}"
        rate = "–" if self.pace.rate is None else f"{self.pace.rate:.3g}"
        return Text(
            f"{states}{before} of {self.trials} · {best} · {rate} trials/h · "
            f"left {duration(self._left())}"
        )

    def _best(self) -> tuple[float, int] | None:
        """Return the highest score and the negated number of its trial, the first one of a tie."""
        scored = [(row.score, -row.number) for row in list(self.rows.values())]
        scores = [(score, number) for score, number in scored if score is not None]
        return max([*scores, self.best_before] if self.best_before else scores, default=None)

    def _screen(self) -> RenderableType:
        """Return the summary, the number of hidden rows, and the newest rows that fit."""
        rows = sorted(self.rows.values(), key=_newest_last)
        summary, width = self._summary(), self.console.width
        used = (
            len(summary.wrap(self.console, width)) + 2
        )  # the header, and the number of hidden rows
        room = max(self.console.height - used - 1, 1)  # the cursor has its own line
        shown, hidden = rows[-room:], rows[:-room]
        parts: list[RenderableType] = [summary]
        if hidden:
            running = sum(row.outcome is None for row in hidden)
            parts.append(Text(f"… and {len(hidden)} more, {running} of them running", style="dim"))
        best = self._best()
        return Group(*parts, _table(shown, width, -best[1] if best else None))


def _table(rows: Sequence[Row], width: int, leader: int | None) -> Table:
    """Return a table with one line per trial. Only the configuration is cut to fit the terminal."""
    lengths = _lengths(rows, width)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("#", "update", "per s", "loss", "score", *(f"at {n}" for n in lengths)):
        if width >= WIDE_COLUMNS or name not in ("per s", "loss"):
            table.add_column(name, justify="right", no_wrap=True)
        if name == "#":
            table.add_column("state", no_wrap=True)
            table.add_column("configuration", min_width=12)
    for row in rows:
        style = "bold" if row.number == leader else "dim" if row.state == "pruned" else None
        table.add_row(*_cells(row, lengths, wide=width >= WIDE_COLUMNS), style=style)
    return table


def _cells(row: Row, lengths: Sequence[int], *, wide: bool) -> list[RenderableType]:
    report = row.progress.report if row.progress else None
    speed = [
        f"{report.updates_per_second:.0f}" if report else "",
        _loss(report.loss) if report else "",
    ]
    accuracy = {result.length: f"{result.accuracy:.1%}" for result in row.results}
    return [
        str(row.number),
        "resumed" if row.resumed and not row.outcome else row.state,
        Text(row.words, no_wrap=True, overflow="ellipsis"),
        row.updates,
        *(speed if wide else []),
        "" if row.score is None else f"{row.score:.3f}",
        *(accuracy.get(length, "") for length in lengths),
    ]


def _lengths(rows: Sequence[Row], width: int) -> list[int]:
    """Return the lengths that have room in the table, the selection lengths before any others."""
    ladder = next((row.spec.ladder for row in rows if row.spec), None)
    if ladder is None:
        return []
    ordered = [*ladder.select, *(n for n in ladder.lengths if n not in ladder.select)]
    room = (width - (75 if width >= WIDE_COLUMNS else 52)) // 9
    return sorted(ordered[: max(room, 0)])


def _newest_last(row: Row) -> tuple[bool, int]:
    return row.outcome is None, row.number


def _loss(loss: float) -> str:
    return f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.1e}"


def _results(results: Sequence[LengthResult]) -> str:
    return "  ".join(f"{result.length}: {result.accuracy:.1%}" for result in results)
