"""Test the steps that a command shows before and after its trials, and the colors of states."""

from __future__ import annotations

import io
from collections.abc import Callable

import pyte
import pytest
from rich.console import Console
from rich.text import Text

from sabtune.study.states import WORDS, WORDS_IN_A_SEARCH
from sabtune.terminal.live_table import FIRST_REPORT, Watch
from sabtune.terminal.steps import Steps
from sabtune.terminal.styles import STYLES, styled, with_colored_counts
from tests.test_progress import Clock, progress, shown, spec


def on_terminal(act: Callable[[Console, Callable[[], list[str]]], None]) -> None:
    """Call `act` with the console of a terminal, and a function that returns its lines."""
    output = io.StringIO()
    console = Console(
        file=output, force_terminal=True, force_interactive=True, width=80, height=12, _environ={}
    )

    def lines() -> list[str]:
        screen = pyte.Screen(80, 12)
        screen.set_mode(pyte.modes.LNM)  # a terminal starts a new line at its beginning
        pyte.Stream(screen).feed(output.getvalue())
        return [line.rstrip() for line in screen.display if line.strip()]

    act(console, lines)


def test_each_step_is_a_line_where_there_is_no_terminal() -> None:
    lines = io.StringIO()
    with Steps(Console(file=lines, width=20)) as steps:
        for words in ("Loading a file with a long name", "Starting Ray", "Starting Ray", ""):
            steps(words)
        with steps.shown_by(str):
            steps("Starting the workers")
    assert lines.getvalue().splitlines() == [
        "Loading a file with a long name …",
        "Starting Ray …",
        "Starting the workers …",
    ]


def test_the_present_step_is_below_all_output_on_a_terminal() -> None:
    def act(console: Console, lines: Callable[[], list[str]]) -> None:
        clock = Clock()
        with Steps(console, clock) as steps:
            steps("Starting Ray")
            assert lines()[0].endswith(" Starting Ray … 0 s")
            clock.now = 75.0
            steps("Starting the workers")
            console.print(Text("a message"))
            first, second = lines()
            assert first == "a message"
            assert second.endswith(" Starting the workers … 1 min")
        assert lines() == ["a message"]

    on_terminal(act)


def test_a_step_is_cleared_when_the_command_fails() -> None:
    def act(console: Console, lines: Callable[[], list[str]]) -> None:
        def fail() -> None:
            with Steps(console) as steps:
                steps("Starting Ray")
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert lines() == []

    on_terminal(act)


def test_the_table_shows_the_steps_of_its_search() -> None:
    def act(console: Console, lines: Callable[[], list[str]]) -> None:
        clock = Clock()
        with Steps(console, clock) as steps:
            steps("Starting Ray")
            clock.now = 9.0
            with Watch(console, 3, steps=steps, clock=clock) as watch:
                first, second = lines()
                assert first.endswith("0 of 3 trials · elapsed 9 s · left –")
                assert second.endswith(" Starting Ray … 9 s")
                watch.trial_started(spec(0))
                assert " ".join(FIRST_REPORT.split()[:5]) in "\n".join(shown(watch))
                watch.trial_reported(0, progress(10, 0.5))
                assert len(shown(watch)) == 4  # the bar, the counts, the header and the trial
                steps("Ending Ray")
                assert shown(watch)[2].endswith(" Ending Ray … 9 s")
            assert not any("Ending Ray" in line for line in lines()[:-1])
            assert lines()[-1].endswith(" Ending Ray … 9 s")  # after the table, which stays
        assert not any("Ending Ray" in line for line in lines())

    on_terminal(act)


def test_every_state_has_a_color_and_none_is_printed_to_a_file() -> None:
    words = {*WORDS.values(), *WORDS_IN_A_SEARCH.values()}
    assert words <= STYLES.keys()
    text = with_colored_counts("Study x: 7 trials (1,002 complete, 0 pruned, 2 failed)")
    spans = [(text.plain[span.start : span.end], span.style) for span in text.spans]
    assert spans == [("1,002 complete", STYLES["complete"]), ("2 failed", STYLES["failed"])]
    assert styled("failed, exit 2").style == "red"
    colored = {"force_terminal": True, "color_system": "standard"}
    for environment, options, codes in (
        ({}, colored, True),
        ({"NO_COLOR": "1"}, colored, False),
        ({}, {}, False),
    ):
        console = Console(file=io.StringIO(), _environ=environment, **options)  # type: ignore[arg-type]
        console.print(styled("failed"))
        assert ("\x1b[31m" in console.file.getvalue()) == codes  # type: ignore[attr-defined]
