"""Test that problems are one line with a remedy, and that bugs name their traceback's file."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
import torch

from sabtune import cli
from sabtune.cli import problems
from sabtune.errors import ConfigError
from sabtune.schema import check_seed


def raised(do: object) -> BaseException:
    try:
        do()  # type: ignore[operator]
    except BaseException as problem:
        return problem
    raise AssertionError("it raises nothing")


PROBLEMS = {
    "a tensor past memory": (lambda: torch.empty(2**55), "out of memory"),
    "a tensor past any address": (lambda: torch.empty(2**61, 2**10), "out of memory"),
    "a list past memory": (lambda: [0] * 2**60, "out of memory"),
    "a number past 64 bits": (lambda: torch.Generator().manual_seed(2**70), "too large"),
    "a path of 300 letters": (lambda: os.stat("x" * 300), "give a shorter path"),  # noqa: PTH116
    "a text in another encoding": (lambda: b"\xff".decode(), "UTF-8"),
    "nobody's home": (lambda: Path("~nosuchuser/x").expanduser(), "give the path in full"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_that_a_user_can_fix_is_one_line(name: str) -> None:
    do, words = PROBLEMS[name]
    line = problems.explained(raised(do))
    assert line is not None
    assert words in line
    assert len(line.splitlines()) == 1


def test_the_traceback_of_a_bug_is_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(**_: object) -> None:
        raise KeyError("postgresql://me:secret@host/x")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(cli, "app", broken)
    assert cli.run() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sabtune: KeyError: ")
    found = re.search(r"with (\S+),", line)
    assert found is not None
    kept = Path(found[1]).read_text()
    assert "in broken" in kept
    assert "secret" not in kept + line


def test_a_seed_is_valid_for_every_generator() -> None:
    check_seed("seed", 2**32 - 1)
    with pytest.raises(ConfigError, match="seed is 4294967296: give a whole number from 0 to 429"):
        check_seed("seed", 2**32)


def test_a_full_disk_is_named() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/there")
    assert problems.explained(full) == (
        "No space left on device: /there: make room on its disk, or give another path"
    )
