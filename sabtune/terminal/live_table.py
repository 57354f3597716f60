"""What the person watching a search sees: a live table on a terminal, plain lines elsewhere."""

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
from sabtune.study.record import TrialRecord
from sabtune.training.evaluation import LengthResult
from sabtune.training.trial import Progress, TrialSpec

STATES = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}

WIDE = 110
"""Columns of a terminal from which on there is room for all; below, speed and loss are left out."""


def label(run: RunConfig) -> str:
    """The few words that a trial goes by."""
    return f"{run.trial.model.label()} rate={run.trial.train.learning_rate:.2g}"


def shared(spec: TrialSpec) -> str:
    """Which earlier trial has the same configuration, if one has."""
    own = spec.configuration == spec.number
    return "" if own else f"as #{spec.configuration}"


class Pace:
    """How fast the trials of this search end, and how long those still missing will take."""

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self.begun: float | None = None  # when the first trial started
        self.running: dict[int, float] = {}  # since when
        self.due: dict[int, float] = {}  # when a trial would be trained to its end
        self.took: list[float] = []  # seconds, of each that ended
        self.places = 0  # the most that ran at once

    def start(self, number: int) -> None:
        now = self.clock()
        self.begun = now if self.begun is None else self.begun
        self.running.setdefault(number, now)
        self.places = max(self.places, len(self.running))

    def report(self, number: int, rest: float) -> None:
        """`rest`: seconds that it would still take, at its own speed, if it isn't pruned."""
        self.due[number] = self.clock() + rest

    def end(self, number: int) -> None:
        if number not in self.running:
            return  # the space rejected it
        self.took.append(self.clock() - self.running.pop(number))
        self.due.pop(number, None)

    @property
    def rate(self) -> float | None:
        """Trials an hour; None before one has ended."""
        passed = self.clock() - self.begun if self.begun is not None else 0.0
        return len(self.took) / passed * 3600 if self.took and passed > 0 else None

    def left(self, missing: int) -> float | None:
        """Seconds until `missing` more have ended; None before two have.

        One that hasn't started takes as long as others did, on the mean. One that runs goes on to
        its end: so the last few, which leave places empty, aren't taken for quick ones. While
        places empty, from the last start on, half a trial's time of each is lost.
        """
        if len(self.took) < 2:
            return None
        mean, now, running = self._mean(), self.clock(), list(self.running.items())
        rests = [max(self.due.get(number, since + mean) - now, 0.0) for number, since in running]
        waiting, places = max(missing - len(running), 0), max(self.places, 1)
        lost = mean / 2 * (places - 1) if waiting else 0.0
        return max([(waiting * mean + sum(rests) + lost) / places, *rests])

    def _mean(self) -> float:
        """Seconds a trial takes, by the estimator of Kaplan and Meier (JASA, 1958).

        Those that ended are mostly pruned at first, those that run have only lasted longer than so
        far: the mean of the former alone is short by a factor. Past the longest that ended, those
        still running are taken to go on to their last update.
        """
        now, running = self.clock(), list(self.running.items())
        took, lasted = sorted(self.took), sorted(now - since for _, since in running)
        mean, alive, before = 0.0, 1.0, 0.0
        for done, seconds in enumerate(took):
            mean += alive * (seconds - before)
            at_risk = len(took) - done + len(lasted) - bisect_left(lasted, seconds)
            alive, before = alive * (1 - 1 / at_risk), seconds
        ends = [max(self.due.get(n, now), now) - since for n, since in running]
        ends = [end for (_, since), end in zip(running, ends, strict=True) if now - since >= before]
        return mean + alive * max(sum(ends) / len(ends) - before, 0.0) if ends else mean


def duration(seconds: float | None) -> str:
    """In the two largest units that matter; – if it isn't known."""
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
    """A trial as the table shows it."""

    number: int
    spec: TrialSpec | None = None
    told: int = 0  # updates that an earlier search had shown
    again: bool = False  # taken up again
    progress: Progress | None = None
    outcome: Outcome | None = None

    @property
    def state(self) -> str:
        return STATES[self.outcome.state] if self.outcome else "running"

    @property
    def score(self) -> float | None:
        """The last there is; a failed trial has none."""
        if self.outcome and self.outcome.state == "FAIL":
            return None
        if self.outcome and self.outcome.score is not None:
            return self.outcome.score
        return self.progress.score if self.progress else None

    @property
    def results(self) -> Sequence[LengthResult]:
        if self.outcome and self.outcome.ladder:
            return self.outcome.ladder
        return self.progress.ladder if self.progress else ()

    @property
    def updates(self) -> str:
        """Done and all."""
        done = self.progress.report.step if self.progress else self.told
        return f"{done}/{self.spec.run.trial.train.updates}" if self.spec else ""

    @property
    def shared(self) -> str:
        return shared(self.spec) if self.spec else ""

    @property
    def words(self) -> str:
        """What it is; of one that failed or never began, why first."""
        tells = self.outcome and (self.outcome.state == "FAIL" or self.spec is None)
        why = self.outcome.reason if self.outcome and tells else ""
        what = label(self.spec.run) if self.spec else ""
        return "  ".join(word for word in (self.shared, why, what) if word)


class Watch:
    """Shows a search on a console; use it as a context manager around the search.

    trials: how many the study is to have. ended: how many of them had ended before this search.
    earlier: what the study held before it: the best score goes on from there, and what is taken up
    again is known by it.
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
        self.told = {trial.number: max(trial.scores, default=0) for trial in earlier}
        scored = [t for t in earlier if t.state != TrialState.FAIL and (t.values or t.scores)]
        self.best_before = max(((t.score, -t.number) for t in scored), default=None)
        self.rows: dict[int, Row] = {}
        self.pace = Pace(clock)
        # Rich's own output goes on above the table; the driver's prints are not to be caught.
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
        known = self.rows.get(number)
        row = Row(number, spec, self.told.get(number, 0))
        row.again = known is not None or number in self.told
        row.progress = known.progress if known else None
        self.rows[number] = row
        self.pace.start(number)
        verb = "goes on" if row.again else "starts"
        at = f" at {row.updates} updates" if row.told or row.progress else ""
        self._say(f"#{number} {verb}{at}: {row.words}")

    def trial_reported(self, number: int, progress: Progress) -> None:
        row = self.rows[number]
        row.progress, report = progress, progress.report
        updates = row.spec.run.trial.train.updates if row.spec else report.step
        self.pace.report(number, progress.seconds * (updates - report.step) / max(report.step, 1))
        if report.step > row.told:
            self._say(
                f"#{number} {row.updates} updates, {report.updates_per_second:.0f}/s, "
                f"loss {_loss(report.loss)}, {_results(progress.ladder)}, "
                f"score {progress.score:.3f}"
            )

    def trial_noted(self, number: int, words: str) -> None:
        self._say(f"#{number} {words}")

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        row = self.rows.setdefault(number, Row(number))
        row.outcome = outcome
        self.pace.end(number)
        shared = f" ({row.shared})" if row.shared else ""
        detail = outcome.reason or _results(outcome.test or row.results)
        ended = f"{self._ended()} of {self.trials}, left {duration(self._left())}"
        self._say(f"#{number}{shared} {row.state}: {detail}  [{ended}]")

    def _say(self, line: str) -> None:
        if self.console.is_terminal:
            return
        try:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        except (OSError, SystemExit):  # rich exits when nobody reads any more: the search goes on
            self.console.quiet = True

    def _ended(self) -> int:
        return self.before + sum(row.outcome is not None for row in list(self.rows.values()))

    def _left(self) -> float | None:
        return self.pace.left(self.trials - self._ended())

    def _summary(self) -> Text:
        """Counts, the best, how fast it goes and how long it will take, on one line."""
        count = Counter(row.state for row in list(self.rows.values()))
        states = ", ".join(f"{count[s]} {s}" for s in ("running", "pruned", "failed", "done"))
        before = f", {self.before} before" if self.before else ""
        score, number = self._best() or (None, 0)
        best = "best –" if score is None else f"best {score:.3f} by #{-number}"
        rate = "–" if self.pace.rate is None else f"{self.pace.rate:.3g}"
        return Text(
            f"{states}{before} of {self.trials} · {best} · {rate} trials/h · "
            f"left {duration(self._left())}"
        )

    def _best(self) -> tuple[float, int] | None:
        """The highest score and minus its trial's number: of equal ones, the first trial's."""
        scored = [(row.score, -row.number) for row in list(self.rows.values())]
        every = [(score, number) for score, number in scored if score is not None]
        return max([*every, self.best_before] if self.best_before else every, default=None)

    def _screen(self) -> RenderableType:
        """What fits: the summary, how many rows are left out, and the newest rows."""
        rows = sorted(self.rows.values(), key=_newest_last)
        summary, width = self._summary(), self.console.width
        taken = len(summary.wrap(self.console, width)) + 2  # the head, and who is left out
        room = max(self.console.height - taken - 1, 1)  # the cursor stands on a line of its own
        shown, hidden = rows[-room:], rows[:-room]
        parts: list[RenderableType] = [summary]
        if hidden:
            running = sum(row.outcome is None for row in hidden)
            parts.append(Text(f"… and {len(hidden)} more, {running} of them running", style="dim"))
        best = self._best()
        return Group(*parts, _table(shown, width, -best[1] if best else None))


def _table(rows: Sequence[Row], width: int, leader: int | None) -> Table:
    """One line a trial. The configuration alone gives way where the terminal is narrow."""
    lengths = _lengths(rows, width)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("#", "update", "per s", "loss", "score", *(f"at {n}" for n in lengths)):
        if width >= WIDE or name not in ("per s", "loss"):
            table.add_column(name, justify="right", no_wrap=True)
        if name == "#":
            table.add_column("state", no_wrap=True)
            table.add_column("configuration", min_width=12)
    for row in rows:
        style = "bold" if row.number == leader else "dim" if row.state == "pruned" else None
        table.add_row(*_cells(row, lengths, wide=width >= WIDE), style=style)
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
        "goes on" if row.again and not row.outcome else row.state,
        Text(row.words, no_wrap=True, overflow="ellipsis"),
        row.updates,
        *(speed if wide else []),
        "" if row.score is None else f"{row.score:.3f}",
        *(accuracy.get(length, "") for length in lengths),
    ]


def _lengths(rows: Sequence[Row], width: int) -> list[int]:
    """Those that there is room to show: first the ones that choose, which every trial has."""
    ladder = next((row.spec.ladder for row in rows if row.spec), None)
    if ladder is None:
        return []
    ordered = [*ladder.select, *(n for n in ladder.lengths if n not in ladder.select)]
    room = (width - (75 if width >= WIDE else 52)) // 9
    return sorted(ordered[: max(room, 0)])


def _newest_last(row: Row) -> tuple[bool, int]:
    return row.outcome is None, row.number


def _loss(loss: float) -> str:
    return f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.1e}"


def _results(results: Sequence[LengthResult]) -> str:
    return "  ".join(f"{result.length}: {result.accuracy:.1%}" for result in results)
