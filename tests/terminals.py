"""Emulated terminals: a command runs on a pseudo-terminal, and `pyte` interprets its output."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pyte
from pyte.screens import Char

SECONDS = 60
"""The seconds after which a test gives up waiting."""


class Cutting(pyte.Screen):
    """A screen that cuts lines which don't fit its new width, as xterm does."""

    def rows(self, columns: int) -> tuple[list[list[Char]], tuple[int, int]]:
        """Return the rows at a new width, and the line and column of the cursor among them."""
        rows = [self.row(y)[:columns] for y in range(self.lines)]
        return rows, (self.cursor.y, min(self.cursor.x, columns - 1))

    def row(self, y: int) -> list[Char]:
        """Return the characters of a line, without trailing spaces."""
        filled = [x for x, char in self.buffer[y].items() if char.data != " "]
        return [self.buffer[y][x] for x in range(max(filled, default=-1) + 1)]

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        """Resize the screen, and keep the line of the cursor on it.

        Lines at the top are lost only if the others don't fit.
        """
        lines, columns = lines or self.lines, columns or self.columns
        rows, (y, x) = self.rows(columns)
        while not rows[-1] and len(rows) > y + 1:
            rows.pop()
        lost = min(max(len(rows) - lines, 0), y)
        super().resize(lines, columns)
        self.buffer.clear()
        for line, row in enumerate(rows[lost : lost + lines]):
            self.buffer[line].update(enumerate(row))
        self.cursor.y, self.cursor.x = y - lost, x
        self.dirty.update(range(lines))


class Reflowing(Cutting):
    """A screen that wraps lines which don't fit its new width.

    The cursor stays at its character. VTE, kitty, iTerm2, Windows Terminal and others do this.
    """

    def rows(self, columns: int) -> tuple[list[list[Char]], tuple[int, int]]:
        rows: list[list[Char]] = []
        cursor = 0, 0
        for y in range(self.lines):
            if y == self.cursor.y:
                down, right = divmod(self.cursor.x, columns)
                cursor = len(rows) + down, right
            row = self.row(y)
            rows += [row[x : x + columns] for x in range(0, len(row), columns)] or [[]]
        return rows, cursor


class Terminal:
    """A command that runs on a terminal of this many columns and lines.

    kind: how the terminal resizes. echo: whether it shows what is typed. Use it as a context
    manager; at its end, the command is killed.
    """

    def __init__(
        self,
        command: Sequence[object],
        *,
        columns: int = 80,
        lines: int = 24,
        kind: type[pyte.Screen] = Cutting,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        echo: bool = False,
    ):
        self.screen = kind(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.output = b""
        self.master, own = pty.openpty()
        settings = termios.tcgetattr(own)
        if not echo:
            settings[3] &= ~termios.ECHO
        termios.tcsetattr(own, termios.TCSANOW, settings)
        self._set_size()
        known = {name: value for name, value in os.environ.items() if name not in HIDDEN}
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=own,
            stdout=own,
            stderr=own,
            cwd=cwd,
            env=known | {"TERM": "xterm-256color"} | dict(environment or {}),
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(own)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    @property
    def lines(self) -> list[str]:
        """The lines that the terminal shows, without trailing empty ones."""
        lines = [line.rstrip() for line in self.screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def shows_cursor(self) -> bool:
        """Return whether the terminal shows its cursor."""
        return not self.screen.cursor.hidden

    def color(self, word: str) -> str:
        """Return the color of the first line's part that is this word, or "default"."""
        for y, line in enumerate(self.screen.display):
            if word in line:
                return str(self.screen.buffer[y][line.index(word)].fg)
        raise AssertionError(f"{word} isn't shown")

    def wait_until(self, shown: Callable[[list[str]], object]) -> None:
        """Read the command's output until `shown` is true of the lines."""
        limit = time.monotonic() + SECONDS
        while not shown(self.lines):
            assert time.monotonic() < limit, "\n".join(self.lines)
            self._read()

    def wait(self) -> int:
        """Read the command's output to its end, and return the exit code."""
        limit = time.monotonic() + SECONDS
        while self._read() or self.process.poll() is None:
            assert time.monotonic() < limit, "\n".join(self.lines)
        return self.process.wait()

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size, which sends SIGWINCH to the command.

        The terminal first shows what the command has written at once.
        """
        while self._read():
            pass
        self.screen.resize(lines, columns)
        self._set_size()

    def interrupt(self) -> None:
        """Send SIGINT, as Ctrl-C does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def type(self, text: str) -> None:
        """Send text to the command as if it were typed."""
        os.write(self.master, text.encode())

    def _set_size(self) -> None:
        size = struct.pack("HHHH", self.screen.lines, self.screen.columns, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def _read(self) -> bool:
        """Feed the terminal what the command has written, and return whether that was anything."""
        ready, _, _ = select.select([self.master], [], [], 0.05)
        try:
            data = os.read(self.master, 2**16) if ready else b""
        except OSError:  # the command has ended
            data = b""
        self.output += data
        self.stream.feed(data)
        return bool(data)


HIDDEN = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM", "TTY_COMPATIBLE")
"""The environment variables that change what a terminal shows."""


def _take_terminal() -> None:
    """Make the terminal that stdin is the controlling one, so that signals reach this process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
