"""What the person watching a search sees: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from sabtune.config import RunConfig
from sabtune.evaluation import Rung
from sabtune.training import Report
from sabtune.watcher import Outcome

STATES = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}


@dataclass
class Row:
    """A trial as the table shows it."""

    number: int
    label: str
    updates: int
    state: str = "running"
    report: Report | None = None
    ladder: Sequence[Rung] = field(default_factory=list)
    score: float = 0.0
    reason: str = ""


class Watch:
    """Shows a search on a console; use it as a context manager around the search."""

    def __init__(self, console: Console, trials: int):
        self.console = console
        self.trials = trials
        self.rows: dict[int, Row] = {}
        # Rich's own output goes on above the table; the driver's prints are not to be caught.
        self.live = Live(
            get_renderable=self._table,
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

    def trial_started(self, number: int, run: RunConfig) -> None:
        train = run.trial.train
        label = f"{run.trial.model.label()} rate={train.learning_rate:.2g}"
        self.rows[number] = Row(number=number, label=label, updates=train.updates)
        self._say(f"#{number} starts: {label}")

    def trial_reported(
        self, number: int, report: Report, ladder: Sequence[Rung], score: float
    ) -> None:
        row = self.rows[number]
        row.report, row.ladder, row.score = report, ladder, score
        self._say(
            f"#{number} {report.step}/{row.updates} updates, {report.updates_per_second:.0f}/s, "
            f"loss {report.loss:.3f}, {_rungs(ladder)}, score {score:.3f}"
        )

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        row = self.rows.setdefault(number, Row(number=number, label="", updates=0))
        row.state, row.reason = STATES[outcome.state], outcome.reason
        row.ladder = outcome.ladder or row.ladder
        detail = outcome.reason or _rungs(outcome.test)
        self._say(f"#{number} {row.state}: {detail}  [{self._count()}]")

    def _say(self, line: str) -> None:
        if not self.console.is_terminal:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _count(self) -> str:
        ended = sum(row.state in ("done", "pruned") for row in self.rows.values())
        return f"{ended} of {self.trials}"

    def _table(self) -> RenderableType:
        table = Table(title=f"trials: {self._count()}", title_justify="left", expand=False)
        for name in ("#", "state", "configuration"):
            table.add_column(name, no_wrap=True)
        for name in ("update", "per s", "loss", "score", "accuracy at length"):
            table.add_column(name, justify="right", no_wrap=True)
        leader = max(
            (row for row in self.rows.values() if row.report and row.state != "failed"),
            key=lambda row: row.score,
            default=None,
        )
        room = max(self.console.height - 6, 4)  # the title, the head and the frame take the rest
        for row in sorted(self.rows.values(), key=_newest_last)[-room:]:
            report = row.report
            table.add_row(
                str(row.number),
                row.state,
                row.label,
                f"{report.step if report else 0}/{row.updates}",
                f"{report.updates_per_second:.0f}" if report else "",
                f"{report.loss:.3f}" if report else "",
                f"{row.score:.3f}" if report else "",
                row.reason if row.state == "failed" else _rungs(row.ladder),
                style="bold" if row is leader else "dim" if row.state == "pruned" else None,
            )
        return table


def _newest_last(row: Row) -> tuple[bool, int]:
    return row.state == "running", row.number


def _rungs(rungs: Sequence[Rung]) -> str:
    return "  ".join(f"{rung.length}: {rung.accuracy:.1%}" for rung in rungs)
