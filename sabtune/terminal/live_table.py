"""The display of a running search: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from optuna.trial import TrialState
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sabtune.config import RunConfig
from sabtune.study.events import Outcome
from sabtune.study.states import SUMMARY_WORDS, WORDS_IN_A_SEARCH
from sabtune.study.trial_record import TrialRecord
from sabtune.terminal.one_line import OneLine
from sabtune.terminal.pace import Pace, duration
from sabtune.terminal.region import LiveRegion, is_live
from sabtune.terminal.steps import Steps
from sabtune.terminal.styles import STYLES, styled, with_colored_counts
from sabtune.training.evaluation import LengthResult
from sabtune.training.loop import Report
from sabtune.training.trial import Progress, TrialSpec

WIDE_COLUMNS = 110
"""The minimum width of a terminal, in characters, at which the table shows speed and loss."""

BAR_COLUMNS = (10, 40)
"""The minimum and maximum width of the progress bar, in characters."""

REFRESH_SECONDS = 0.5
"""The seconds between two drawings of the table on a terminal."""

FIRST_REPORT = "Waiting for the first report (a first search compiles its kernels)"
"""The step between the start of the first trial and its first report."""


def label(run: RunConfig) -> str:
    """Return a short description of a configuration."""
    return f"{run.model.label()} rate={run.train.learning_rate:.2g}"


def same_as(spec: TrialSpec) -> str:
    """Return "as #N" if the earlier trial N has the same configuration, else ""."""
    own = spec.configuration == spec.number
    return "" if own else f"as #{spec.configuration}"


@dataclass
class Row:
    """The row of a trial in the table."""

    number: int
    spec: TrialSpec | None = None
    shown_updates: int = 0  # updates that an earlier search has shown
    resumed: bool = False
    updates: int = 0  # at the latest score
    latest: float | None = None  # the latest score, before the outcome
    report: Report | None = None  # the latest report; None if only the score is known
    ladder: Sequence[LengthResult] = ()  # the length results of the latest report
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
        return self.latest

    @property
    def results(self) -> Sequence[LengthResult]:
        """The latest length results."""
        return self.outcome.ladder if self.outcome and self.outcome.ladder else self.ladder

    @property
    def progress(self) -> str:
        """The numbers of completed and of all updates, as in "10/20"."""
        done = max(self.updates, self.shown_updates)
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

    steps: The steps of the search, such as starting Ray, which are shown above the table.

    clock: Returns the current time in seconds.
    """

    def __init__(
        self,
        console: Console,
        trials: int,
        *,
        ended: int = 0,
        earlier: Sequence[TrialRecord] = (),
        steps: Steps | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.console = console
        self.trials, self.before = trials, ended
        self.shown_updates = {trial.number: max(trial.scores, default=0) for trial in earlier}
        scored = [t for t in earlier if t.state != TrialState.FAIL and (t.values or t.scores)]
        self.best_before = max(((t.score, -t.number) for t in scored), default=None)
        self.rows: dict[int, Row] = {}
        self.steps = steps or Steps(None, clock)
        self.pace = Pace(clock)
        self._shown, self._has_ended = ExitStack(), False

    def __enter__(self) -> Self:
        if is_live(self.console):
            # Lines printed to this console appear above the table. Other output isn't captured.
            region = LiveRegion(self.console, self._screen, pace=REFRESH_SECONDS, kept=True)
            self._shown.enter_context(self.steps.shown_by(region.refresh))
            region.start()
            self._shown.callback(region.stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._has_ended = True
        self._shown.close()

    def add(self, trial: TrialRecord) -> None:
        """Add the row of a trial that has started, without printing a line for it.

        The trial mustn't be one of `earlier`.
        """
        last = max(trial.scores, default=0)
        self.rows[trial.number] = Row(
            trial.number,
            trial.spec,
            shown_updates=last,
            updates=last,
            latest=trial.scores.get(last),
            ladder=trial.ladder,
            outcome=trial.outcome,
        )

    def trial_started(self, spec: TrialSpec) -> None:
        number = spec.number
        previous = self.rows.get(number)
        row = Row(number, spec, self.shown_updates.get(number, 0))
        row.resumed = previous is not None or number in self.shown_updates
        if previous:
            row.updates, row.latest = previous.updates, previous.latest
            row.report, row.ladder = previous.report, previous.ladder
        self.rows[number] = row
        self.pace.start(number)
        verb = "resumes" if row.resumed else "starts"
        at = f" at {row.progress} updates" if row.shown_updates or row.updates else ""
        self._print(f"#{number} {verb}{at}: {row.words}")
        if self.steps.words and not any(row.updates for row in self.rows.values()):
            self.steps(FIRST_REPORT)

    def trial_reported(self, number: int, progress: Progress) -> None:
        self.steps("")
        row = self.rows[number]
        row.report = report = progress.report
        row.updates, row.latest, row.ladder = report.step, progress.score, progress.ladder
        updates = row.spec.run.train.updates if row.spec else report.step
        self.pace.report(number, progress.seconds * (updates - report.step) / max(report.step, 1))
        if report.step > row.shown_updates:
            self._print(
                f"#{number} {row.progress} updates, {report.updates_per_second:.0f}/s, "
                f"loss {_loss(report.loss)}, {_results(progress.ladder)}, "
                f"score {progress.score:.3f}"
            )

    def trial_scored(self, number: int, updates: int, score: float) -> None:
        """Show a score of a trial, of whose report nothing else is known."""
        row = self.rows[number]
        row.updates, row.latest = updates, score
        if updates > row.shown_updates:
            row.shown_updates = updates
            self._print(f"#{number} {row.progress} updates, score {score:.3f}")

    def trial_noted(self, number: int, words: str) -> None:
        self._print(f"#{number} {words}")

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        self.steps("")
        row = self.rows.setdefault(number, Row(number))
        row.outcome = outcome
        self.pace.end(number)
        same_as = f" ({row.same_as})" if row.same_as else ""
        detail = outcome.reason or _results(outcome.test or row.results)
        ended = f"{self._ended()} of {self.trials}, left {duration(self._left())}"
        self._print(f"#{number}{same_as} {row.state}: {detail}  [{ended}]")

    def _print(self, line: str) -> None:
        if is_live(self.console):
            return
        try:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        except (OSError, SystemExit):  # rich exits on a closed pipe; the search must not
            self.console.quiet = True

    def _ended(self) -> int:
        return self.before + sum(row.outcome is not None for row in list(self.rows.values()))

    def _left(self) -> float | None:
        return self.pace.left(self.trials - self._ended())

    def _head(self) -> list[RenderableType]:
        """Return the lines above the table: the progress bar, the counts, and the present step."""
        shows_step = bool(self.steps.words) and not self._has_ended
        step = [self.steps.line()] if shows_step else []
        if not self.rows:
            return [self._bar(), *step]
        count = Counter(row.state for row in list(self.rows.values()))
        states = ", ".join(f"{count[word]} {word}" for word in SUMMARY_WORDS)
        before = f", {self.before} before" if self.before else ""
        score, number = self._best() or (None, 0)
        best = "best –" if score is None else f"best {score:.3f} by #{-number}"
        rate = "–" if self.pace.rate is None else f"{self.pace.rate:.3g}"
        counts = with_colored_counts(f"{states}{before} · {best} · {rate} trials/h")
        return [self._bar(), counts, *step]

    def _bar(self) -> RenderableType:
        """Return the progress bar: the ended trials, and the elapsed and the remaining time."""
        ended = self._ended()
        text = f"{ended} of {self.trials} trials · elapsed {duration(self.steps.elapsed)}"
        text += f" · left {duration(self._left())}" if ended < self.trials else ""
        least, most = BAR_COLUMNS
        width = min(self.console.width - len(text) - 1, most)
        if width < least:
            return Text(text)
        bar = ProgressBar(
            total=max(self.trials, 1),
            completed=min(ended, self.trials),
            width=width,
            style="dim",
            complete_style="cyan",
            finished_style="green",
        )
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(bar, Text(text))
        return line

    def _best(self) -> tuple[float, int] | None:
        """Return the highest score and the negated number of its trial, the first one of a tie."""
        scored = [(row.score, -row.number) for row in list(self.rows.values())]
        scores = [(score, number) for score, number in scored if score is not None]
        return max([*scores, self.best_before] if self.best_before else scores, default=None)

    def _screen(self) -> RenderableType:
        """Return the lines above the table, the number of hidden rows, and the rows that fit."""
        rows, head = sorted([*self.rows.values()], key=_newest_last), Group(*self._head())
        if not rows:
            return head
        lines = len(self.console.render_lines(head))
        room = max(self.console.height - lines - 3, 1)  # the header, the hidden rows, the cursor
        best = self._best()
        shown, hidden = _fitting(rows, room, -best[1] if best else None)
        parts: list[RenderableType] = [head]
        if hidden:
            running = sum(row.outcome is None for row in hidden)
            words = f"… and {len(hidden)} more, {running} of them running"
            parts.append(Text(words, style="dim"))
        return Group(*parts, _table(shown, self.console.width, -best[1] if best else None))


def _fitting(rows: Sequence[Row], room: int, leader: int | None) -> tuple[list[Row], list[Row]]:
    """Return the rows to show, and the hidden ones: the last rows, and that of the best trial."""
    if len(rows) <= room:
        return list(rows), []
    shown = list(rows[-room:])
    best = [row for row in rows[:-room] if row.number == leader]
    if best and room > 1:
        shown = best + shown[1:]
    return shown, [row for row in rows if row not in shown]


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
        style = (
            "bold" if row.number == leader else STYLES["pruned"] if row.state == "pruned" else None
        )
        table.add_row(*_cells(row, lengths, wide=width >= WIDE_COLUMNS), style=style)
    return table


def _cells(row: Row, lengths: Sequence[int], *, wide: bool) -> list[RenderableType]:
    report = row.report
    speed = [
        f"{report.updates_per_second:.0f}" if report else "",
        _loss(report.loss) if report else "",
    ]
    accuracy = {result.length: f"{result.accuracy:.1%}" for result in row.results}
    return [
        str(row.number),
        styled("resumed" if row.resumed and not row.outcome else row.state),
        OneLine(row.words),
        row.progress,
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
