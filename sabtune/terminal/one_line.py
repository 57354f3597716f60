"""Text on one line, shortened between words."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text


@dataclass(frozen=True)
class OneLine:
    """Text on one line, without its last words where it has no room for all of them.

    An ellipsis stands for the words that are left out, so that no number is shown in part. A first
    word that is too long by itself is cut.
    """

    text: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, Text(self.text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = " ".join(self.text.splitlines())
        words, shown = line.split(" "), line
        while cell_len(shown) > options.max_width and len(words) > 1:
            words.pop()
            shown = f"{' '.join(words).rstrip()} …"
        yield Text(shown, no_wrap=True, overflow="ellipsis")
