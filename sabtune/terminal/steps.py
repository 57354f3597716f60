"""The steps of a command before and after its trials: a spinner on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.spinner import Spinner
from rich.text import Text

from sabtune.terminal.pace import duration
from sabtune.terminal.region import LiveRegion, is_live

REPORT_STEP = "Writing the report to MLflow"
"""The step after a search, in which its report is logged to MLflow."""

REFRESH_SECONDS = 0.1
"""The seconds between two drawings of the spinner."""


class Steps:
    """The steps of a command that may take seconds, such as starting Ray.

    Call it with the words for each step that begins. On a terminal, the present step is shown below
    all output with a spinner and the time since the command began. Elsewhere, each step is printed
    on a line. Use it as a context manager around the command.

    console: The console. None: nothing is shown.

    clock: Returns the current time in seconds.
    """

    def __init__(self, console: Console | None, clock: Callable[[], float] = time.monotonic):
        self.console, self.clock, self.began = console, clock, clock()
        self.words = self._printed = ""
        self._spinner = Spinner("dots", style="cyan")
        self._region: LiveRegion | None = None
        self._changed: Callable[[], object] | None = None

    def __call__(self, words: str) -> None:
        """Begin a step: "" if the command does something that is shown in another way."""
        if words == self.words:
            return
        self.words = words
        if self._changed is not None:
            self._changed()
        self._show()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self("")

    @property
    def elapsed(self) -> float:
        """The seconds since the command began."""
        return self.clock() - self.began

    def line(self) -> RenderableType:
        """Return the line with the present step."""
        self._spinner.text = Text(f"{self.words} … {duration(self.elapsed)}", overflow="ellipsis")
        return self._spinner

    @contextmanager
    def shown_by(self, changed: Callable[[], object]) -> Iterator[None]:
        """Leave it to the caller to show `line` on a terminal while there are `words`.

        changed: Called when the words change.
        """
        self._changed = changed
        self._show()
        try:
            yield
        finally:
            self._changed = None
            self._show()

    def _show(self) -> None:
        """Show the present step, or end the line of the last one."""
        if self.console is None:
            return
        if not is_live(self.console):
            self._print(self.console)
        elif not self.words or self._changed is not None:
            self._hide()
        elif self._region is None:
            self._region = LiveRegion(self.console, self.line, pace=REFRESH_SECONDS, kept=False)
            self._region.start()

    def _hide(self) -> None:
        if self._region is not None:
            self._region.stop()
            self._region = None

    def _print(self, console: Console) -> None:
        if self.words in ("", self._printed):
            return
        self._printed = self.words
        try:
            console.print(Text(f"{self.words} …"), soft_wrap=True)
        except (OSError, SystemExit):  # rich exits on a closed pipe; the search must not
            console.quiet = True
