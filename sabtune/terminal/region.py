"""A region at the end of a terminal's output that is drawn again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from rich.console import (
    Console,
    ConsoleOptions,
    ConsoleRenderable,
    RenderableType,
    RenderHook,
    RenderResult,
)
from rich.control import Control
from rich.segment import ControlType, Segment

from sabtune import interrupts

RESIZE_SECONDS = 0.1
"""The maximum time in seconds until a region is drawn again after its terminal was resized."""

LAST_DRAWING_SECONDS = 0.2
"""The time in seconds that a process which ends at once waits for the drawing in progress."""


def _control(codes: str) -> Control:
    """Return control codes that `Control` has no names for."""
    control = Control()
    control.segment = Segment(codes, None, [(ControlType.CARRIAGE_RETURN,)])
    return control


CLEAR = _control("\r\x1b[J")
"""Clears the line of the cursor and all lines below it."""


def is_live(console: Console) -> bool:
    """Return whether a region can be drawn on a console: it is a terminal that moves its cursor."""
    return console.is_terminal and not console.is_dumb_terminal


class LiveRegion(RenderHook):
    """A region below all lines that are printed to a console, drawn anew several times a second.

    After each drawing, the cursor returns to the start of the region's first line. A terminal that
    is resized keeps its cursor at the same character, even if it wraps the lines anew. To draw the
    region again, it is therefore enough to clear the terminal from the cursor on, whatever the
    lines of the last drawing have become. Rich's `Live` leaves the cursor at the end of its lines
    and moves it up by their former number, which leaves stale lines behind when the terminal was
    made narrower.

    console: A console for which `is_live` is true.

    draw: Returns what the region shows. A background thread calls it, too.

    pace: The seconds between two drawings.

    kept: Whether the last drawing stays on the terminal.
    """

    def __init__(
        self, console: Console, draw: Callable[[], RenderableType], *, pace: float, kept: bool
    ):
        self.console, self.draw, self.pace, self.kept = console, draw, pace, kept
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_drawing, daemon=True)
        self._context = ExitStack()

    def start(self) -> None:
        """Draw the region for the first time, and begin to draw it regularly."""
        self._context.enter_context(interrupts.drawing(self._abandon))
        self.console.show_cursor(False)
        self.console.push_render_hook(self)
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        """Draw the region for the last time, or clear it, and leave the cursor below it."""
        with self._lock:
            if self._ended.is_set():
                return
            self._ended.set()
            self._context.close()
            self.console.pop_render_hook()
            try:
                last = [_Lines(self.draw(), last=True)] if self.kept else []
                self.console.print(CLEAR, *last, end="")
            finally:
                self.console.show_cursor(True)

    def _abandon(self) -> None:
        """Draw nothing more, because the process ends at once. This may be a signal's handler."""
        self._ended.set()
        if self._lock.acquire(timeout=LAST_DRAWING_SECONDS):
            self._lock.release()

    def refresh(self) -> None:
        """Draw the region again."""
        with self._lock:
            if not self._ended.is_set():
                self.console.print(Control())

    def _keep_drawing(self) -> None:
        drawn, size = time.monotonic(), self.console.size
        while not self._ended.wait(min(self.pace, RESIZE_SECONDS)):
            now = time.monotonic()
            if now - drawn < self.pace and self.console.size == size:
                continue
            drawn, size = now, self.console.size
            try:
                self.refresh()
            except (OSError, ValueError):  # the terminal is gone, or the stream was closed
                return

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Return what is printed, with the region below it."""
        prints = not all(isinstance(each, Control) for each in renderables)
        return [*[CLEAR] * prints, *renderables, _Lines(self.draw(), last=False)]


class _Lines:
    """The lines of a region, cut to the size of the terminal.

    While they are written, the terminal doesn't wrap lines. So each of them takes one line, even if
    the terminal has become narrower in this moment.

    last: Whether the cursor stays below the lines. If not, it returns to the first one.
    """

    def __init__(self, content: RenderableType, *, last: bool):
        self.content, self.last = content, last

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.content, options.update(height=None), pad=False)
        lines = lines[: max(options.size.height - 1, 1)]
        yield _control("\r\x1b[?7l").segment
        for line in lines:
            yield _control("\x1b[2K").segment
            yield from line
            yield Segment.line()
        # These codes are on a line of their own: the console cuts what doesn't fit on a line.
        back = "" if self.last else f"\x1b[{len(lines)}A"
        yield _control(f"\x1b[J\x1b[?7h{back}").segment
