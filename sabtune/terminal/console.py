"""Consoles: output without control characters, as wide as the terminal or a file allows."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from sabtune.escaping import terminal

MAX_COLUMNS = 1000
"""The maximum width in characters of a table that is printed to a file or pipe."""


class Screen(Console):
    """A console that removes control characters from text."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(terminal(segment.text), segment.style)


def make_console() -> Console:
    """Return a console as wide as the terminal; in a file or pipe, lines are not wrapped or cut."""
    if sys.stdout.isatty():
        return Screen(markup=False, emoji=False)
    width = None if "COLUMNS" in os.environ else MAX_COLUMNS
    return Screen(markup=False, emoji=False, soft_wrap=True, width=width)


def line_printer(console: Console) -> Callable[[str], None]:
    """Return a function that prints a line, above the live table if there is one."""
    return lambda line: console.print(Text(line))
