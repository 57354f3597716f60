"""Test that commands and options of earlier versions work and name their replacements."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sabtune.cli import app
from sabtune.cli.former import COMMANDS, present
from sabtune.study.loading import load
from tests.studies import learnable


@pytest.mark.parametrize(
    ("typed", "meant", "told"),
    [
        (["climb", "s", "--lengths", "9"], ["extrapolate", "s", "--lengths", "9"], "climb"),
        (["search", "f", "--rival", "lstm"], ["search", "f", "--baseline", "lstm"], "--rival"),
        (["search", "f", "--rival=lstm"], ["search", "f", "--baseline=lstm"], "--rival"),
        (["search", "--", "--rival"], ["search", "--", "--rival"], ""),
        (["report", "climb"], ["report", "climb"], ""),
        ([], [], ""),
    ],
)
def test_a_former_name_is_replaced(
    typed: list[str], meant: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert present(typed) == meant
    printed = capsys.readouterr().err
    assert printed.startswith(f"sabtune: {told} is now ") if told else printed == ""


def test_a_former_command_runs_and_says_so(tmp_path: Path) -> None:
    arguments = ["s", "--lengths", "9", "--store", str(tmp_path / "none")]
    before, now = (CliRunner().invoke(app, [name, *arguments]) for name in ("climb", "extrapolate"))
    assert before.exit_code == now.exit_code
    assert str(before.exception) == str(now.exception)
    assert before.stderr == "sabtune: climb is now extrapolate\n" + now.stderr


def test_no_help_shows_former_names() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "extrapolate" in shown
    assert not any(name in shown.split() for name in COMMANDS)
    assert "--rival" not in CliRunner().invoke(app, ["search", "--help"]).output


def test_a_study_file_can_define_rivals(tmp_path: Path) -> None:
    path = learnable(tmp_path)
    path.write_text(path.read_text() + "\n\nRIVALS = {'same': space}\n")
    assert load(path, "same").study.name == f"{load(path).study.name}.same"
