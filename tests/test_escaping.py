"""Test that names and reasons are escaped in terminals, tables and spreadsheets."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest
from rich.text import Text

from sabtune import cli
from sabtune.analysis.table import ResultTable, csv_text
from sabtune.escaping import markdown, spreadsheet, terminal
from sabtune.terminal.console import make_console
from sabtune.terminal.trial_log import WIDTHS, _line

FORMULAS = ["=1+1", "+SUM(A1)", "-cmd|' /C calc'!A0", "@now", "\t=1", "\r=1", "＝1+1", "=", "-"]
PLAIN = ["-0.5", "+3", "-1e-3", "-.5", "1=1", "a@b", "'=1", "", "k_top=5"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_escaped(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text([{"reason": text}], ["reason"]), newline=""))
    assert row["reason"] == f"'{text}".replace("\r", "\n")
    header = next(csv.reader(io.StringIO(csv_text([], [text]), newline="")))
    assert header == [f"'{text}".replace("\r", "\n")]


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_are_unchanged(text: str) -> None:
    assert spreadsheet(text) == text


def test_numbers_stay_numbers() -> None:
    row = {"a": -0.5, "b": -7, "c": float("-inf"), "d": None, "e": True}
    assert csv_text([row], row) == "a,b,c,d,e\n-0.5,-7,-inf,,True\n"


ESCAPES = "a\x1b[31mred\x1b]0;title\x07\x9b2J\x08\u202egnp.exe\r[bold]x[/bold] :smile:"
SHOWN = "a[31mred]0;title2Jgnp.exe[bold]x[/bold] :smile:"


def test_control_sequences_are_removed(capsys: pytest.CaptureFixture[str]) -> None:
    console = make_console()
    console.print(ESCAPES)
    console.print(ResultTable(title=ESCAPES, header=("a", "b"), body=((ESCAPES, "1"),)).rich())
    shown = capsys.readouterr().out
    assert shown.startswith(f"{SHOWN}\n")
    assert shown.count(SHOWN) == 3
    assert not set(shown) & set("\x1b\x07\x08\x9b\r\u202e")
    assert _line(*[ESCAPES] * len(WIDTHS)).count(SHOWN) == len(WIDTHS)


def test_own_colors_are_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    make_console().print(Text("red\x1b[2J", style="red"))
    assert capsys.readouterr().out == "\x1b[31mred[2J\x1b[0m\n"


def test_error_messages_have_no_control_sequences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["sabtune", "status", "x", "--store", f"{tmp_path}/\x1b[2J"])
    with pytest.raises(SystemExit):
        sys.exit(cli.run())
    assert "\x1b" not in capsys.readouterr().err


def test_a_markdown_table_keeps_its_columns() -> None:
    hostile = "a|b\r\n<script>alert(1)</script> [x](y) ![i](j) `c` *d* _e_ ~~f~~ &lt;b&gt; k_top"
    text = ResultTable(title=hostile, header=("a", "b"), body=((hostile, "1"),)).markdown()
    *_, row = text.splitlines()
    assert row.replace(r"\|", "").count("|") == 3
    cell = markdown(hostile)
    assert row == f"| {cell} | 1 |"
    for sign in ("<script", "](", "`c", "*d", "_e", "~f", "&lt;", "</script"):
        assert f"\\{sign[-1]}" in cell if sign == "](" else f"\\{sign}" in cell, sign
    assert "k_top" in cell


def test_lines_and_letters_are_kept() -> None:
    assert terminal("θ × é\n\tok") == "θ × é\n\tok"
