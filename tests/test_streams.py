"""Test that output never ends a command: other encodings, full streams and closed streams."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOWS = """
import sys
import sabtune.cli
def show(**_):
    print("one – two", flush=True)
    print("further", file=sys.stderr)
    if "kept" in sys.argv:
        open(sys.argv[-1], "w").write("done")
sabtune.cli.app = show
sabtune.cli.main()
"""


def shown(shell: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = f"\"{sys.executable}\" -c '{SHOWS}' {shell}"
    return subprocess.run(
        ["bash", "-c", command], env=os.environ | environment, capture_output=True, check=False
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_characters_outside_the_encoding_are_replaced(encoding: str) -> None:
    done = shown("", PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert done.stdout == "one – two\n".encode(encoding, errors="replace")
    assert done.stderr == b"further\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_streams_are_ignored(closed: str) -> None:
    assert shown(closed).returncode == 0


def test_output_that_cannot_be_written_is_an_error_at_the_end(tmp_path: Path) -> None:
    done = shown(f"kept {tmp_path}/file > /dev/full")
    assert done.returncode == 1
    assert b"can't be written (No space left on device)" in done.stderr
    assert (tmp_path / "file").read_text() == "done"


def test_a_closed_pipe_is_ignored() -> None:
    done = shown("| true; exit ${PIPESTATUS[0]}")
    assert b"Traceback" not in done.stderr
    assert b"rror" not in done.stderr
