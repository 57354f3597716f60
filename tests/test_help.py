"""Test the help of each command: its groups, its examples, and how it looks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest
import typer
from rich.markup import render
from typer.testing import CliRunner

from sabtune.cli.app import PANELS, app

ROOT = typer.main.get_group(app)
Command = typer.core.TyperCommand | typer.core.TyperGroup


def every_command(group: typer.core.TyperGroup, words: str = "") -> Iterator[tuple[str, Command]]:
    """Yield the words that call each visible command below a group, and the command."""
    for name, command in group.commands.items():
        if not command.hidden:
            assert isinstance(command, Command)
            yield f"{words}{name}", command
            if isinstance(command, typer.core.TyperGroup):
                yield from every_command(command, f"{words}{name} ")


COMMANDS: dict[str, Command] = {"": ROOT, **dict(every_command(ROOT))}


def shown(words: str, width: int) -> list[str]:
    environment = {"COLUMNS": str(width), "TERMINAL_WIDTH": str(width), "NO_COLOR": "1"}
    done = CliRunner().invoke(app, [*words.split(), "--help"], env=environment)
    assert done.exit_code == 0
    return [line.rstrip() for line in done.output.splitlines()]


def examples(command: Command) -> list[str]:
    """Return the command lines in the examples of a command."""
    text = render(command.epilog or "").plain
    return [line.strip() for line in text.splitlines() if line.strip().startswith("sabtune ")]


@pytest.mark.parametrize("words", COMMANDS)
def test_each_example_parses_and_is_of_its_command(words: str) -> None:
    lines = examples(COMMANDS[words])
    assert lines
    for line in lines:
        assert line.startswith(f"sabtune {words}".strip())
        command: Command = ROOT
        name, *rest = shlex.split(line)
        while isinstance(command, typer.core.TyperGroup):
            name, *rest = rest
            found = command.commands[name]
            assert isinstance(found, Command)
            command = found
        command.make_context(name, rest).close()  # raises for what the parser refuses


@pytest.mark.parametrize("words", COMMANDS)
def test_the_help_fits_the_terminal(words: str) -> None:
    for width in (80, 120):
        lines = shown(words, width)
        assert max(map(len, lines)) <= width
        for example in examples(COMMANDS[words]):
            assert f"   {example}" in lines, "an example is wrapped"


def test_the_commands_are_in_groups() -> None:
    titles = [
        match[1] for line in shown("", 80) if (match := re.match(r"╭─ (.*?) ─+╮", line)) is not None
    ]
    assert titles == ["Options", *PANELS]
    listed = [line.split()[1] for line in shown("", 80) if re.match(r"│ [a-z]", line)]
    assert sorted(listed) == sorted(name for name in COMMANDS if name and " " not in name)


def test_the_options_of_search_are_in_groups() -> None:
    lines = "\n".join(shown("search", 80))
    titles = re.findall(r"╭─ (.*?) ─+╮", lines)
    assert titles == [
        "Arguments",
        "Options",
        "Study",
        "Budget",
        "Store",
        "Cluster",
        "Notifications",
    ]
    budget = lines.partition("─ Budget ─")[2].partition("╰")[0]
    assert re.findall(r"--[\w-]+", budget) == [
        "--trials",
        "--hours",
        "--gpu-hours",
        "--ignore-stop",
    ]


def test_the_help_has_no_color_that_is_unreadable_on_white() -> None:
    environment = {"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm-256color"}
    done = CliRunner().invoke(app, ["search", "--help"], env=environment, color=True)
    codes = {
        code for group in re.findall(r"\x1b\[([\d;]*)m", done.output) for code in group.split(";")
    }
    assert not codes & {"33", "93", "37", "97"}  # yellow and white
