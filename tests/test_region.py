"""Test regions that are drawn again and again, on emulated terminals that are resized."""

from __future__ import annotations

import sys
from functools import partial

import pyte
import pytest

from tests.terminals import Cutting, Reflowing, Terminal

SHOWN = """
import sys
from rich.text import Text
from sabtune import interrupts
from sabtune.terminal.console import make_console
from sabtune.terminal.region import LiveRegion

console = make_console()

def draw():
    width, height = console.size
    rows = [f"{width} x {height}"] + [f"row {n}" for n in range(1, 8)]
    return Text("\\n".join(f"{row:─<{width - 1}}┤" for row in rows), no_wrap=True)

console.print("before")
region = LiveRegion(console, draw, pace=0.2, kept=KEPT)
region.start()
for line in sys.stdin:
    if line == "end\\n":
        break
    if line == "end at once\\n":
        interrupts.at_once(3, "ended at once")
    console.print("printed " + line.strip())
region.stop()
print("after")
"""

SIZES = [(100, 30), (60, 30), (33, 20), (41, 12), (120, 24), (25, 5), (80, 3)]


def program(kept: bool = True) -> list[str]:
    return [sys.executable, "-c", SHOWN.replace("KEPT", str(kept))]


def region(lines: list[str]) -> list[str]:
    """Return the first words of the lines that belong to the region."""
    return [line.partition("─")[0] for line in lines if "─" in line]


def expected(columns: int, lines: int) -> list[str]:
    rows = [f"{columns} x {lines}", *(f"row {number}" for number in range(1, 8))]
    return rows[: lines - 1]


def is_drawn(columns: int, lines: int, shown: list[str]) -> bool:
    """Return whether each line of the region is there once, in full width, and no stale one."""
    own = [line for line in shown if "─" in line]
    return region(own) == expected(columns, lines) and {len(line) for line in own} == {columns}


@pytest.mark.parametrize("kind", [Cutting, Reflowing])
def test_a_resized_terminal_shows_each_line_once(kind: type[pyte.Screen]) -> None:
    columns, lines = SIZES[0]
    with Terminal(program(), columns=columns, lines=lines, kind=kind) as terminal:
        for size in SIZES:
            if size != (columns, lines):
                terminal.resize(*size)
            terminal.wait_until(partial(is_drawn, *size))


def test_lines_are_printed_above_the_region_which_stays_at_the_end() -> None:
    with Terminal(program(), columns=40, lines=30) as terminal:
        terminal.wait_until(partial(is_drawn, 40, 30))
        assert not terminal.shows_cursor()
        for word in ("one", "two"):
            terminal.type(f"{word}\n")
        terminal.wait_until(lambda shown: "printed two" in shown)
        terminal.wait_until(partial(is_drawn, 40, 30))
        terminal.type("end\n")
        assert terminal.wait() == 0
        assert terminal.shows_cursor()
        lines = terminal.lines
    assert region(lines) == expected(40, 30)
    assert [line for line in lines if line.startswith("printed")] == ["printed one", "printed two"]
    assert lines[-9].startswith("40 x 30")
    assert lines[-1] == "after"


def test_a_region_that_is_not_kept_leaves_nothing() -> None:
    with Terminal(program(kept=False), columns=40, lines=30) as terminal:
        terminal.wait_until(partial(is_drawn, 40, 30))
        terminal.type("end\n")
        assert terminal.wait() == 0
        assert region(terminal.lines) == []
        assert terminal.lines[-1] == "after"


def test_a_process_that_ends_at_once_clears_the_region_and_shows_the_cursor() -> None:
    with Terminal(program(), columns=40, lines=30) as terminal:
        terminal.wait_until(partial(is_drawn, 40, 30))
        terminal.type("end at once\n")
        assert terminal.wait() == 3
        assert terminal.lines == ["before", "sabtune: ended at once"]
        assert terminal.shows_cursor()
