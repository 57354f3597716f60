"""The live table of a search in a notebook."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from rich.terminal_theme import TerminalTheme

from sabtune.study.events import Outcome
from sabtune.study.trial_record import TrialRecord
from sabtune.terminal.console import Screen
from sabtune.terminal.live_table import Watch
from sabtune.terminal.steps import Steps
from sabtune.training.trial import Progress, TrialSpec

COLUMNS, LINES = 120, 24
"""The width and height in characters of the live table in a notebook."""

REFRESH_SECONDS = 0.5
"""The minimum time between two updates of the table."""

THEME = TerminalTheme(
    (255, 255, 255),
    (0, 0, 0),
    [
        *((36, 41, 47), (216, 58, 73), (45, 150, 70), (160, 120, 20)),
        *((60, 120, 210), (175, 80, 190), (20, 145, 165), (140, 150, 160)),
    ],
)
"""The colors of the table, which are readable on a white and on a black page."""

STYLE = "overflow-x: auto; line-height: 1.25; font-family: monospace; white-space: pre"


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def _console(**options: Any) -> Screen:
    """Return a console of the table's size that prints nowhere."""
    return Screen(
        file=io.StringIO(), force_jupyter=False, width=COLUMNS, height=LINES,
        markup=False, emoji=False, **options,
    )  # fmt: skip


class NotebookWatch(Watch):
    """A watcher that shows a search in the output of a notebook's cell.

    Its arguments are those of `Watch`, without the console.
    """

    def __init__(
        self,
        trials: int,
        *,
        ended: int = 0,
        earlier: Sequence[TrialRecord] = (),
        steps: Steps | None = None,
    ):
        console = _console(force_terminal=True)
        super().__init__(console, trials, ended=ended, earlier=earlier, steps=steps)
        self.shown: Any = None  # IPython's handle of the displayed table
        self.next_refresh = 0.0

    def __enter__(self) -> Self:
        from IPython.display import HTML, display

        self.shown = display(HTML(self.html()), display_id=True)  # type: ignore[no-untyped-call]
        self._shown.enter_context(self.steps.shown_by(partial(self._refresh, now=True)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._has_ended = True
        self._shown.close()
        self._refresh(now=True)

    def trial_started(self, spec: TrialSpec) -> None:
        super().trial_started(spec)
        self._refresh()

    def trial_reported(self, number: int, progress: Progress) -> None:
        super().trial_reported(number, progress)
        self._refresh()

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        super().trial_ended(number, outcome)
        self._refresh()

    def html(self) -> str:
        """Return the table as HTML."""
        page = _console(record=True)
        page.print(self._screen())
        return page.export_html(
            theme=THEME, inline_styles=True, code_format=f'<pre style="{STYLE}">{{code}}</pre>'
        )

    def _refresh(self, *, now: bool = False) -> None:
        """Show the present table, unless the last refresh is too recent."""
        if self.shown is None or (time.monotonic() < self.next_refresh and not now):
            return
        from IPython.display import HTML

        self.shown.update(HTML(self.html()))  # type: ignore[no-untyped-call]
        self.next_refresh = time.monotonic() + REFRESH_SECONDS
