"""Test a whole study with a task and a model of its own, down to loading the model elsewhere."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.faults import assert_as_unbroken, driver, records
from tests.forked import sabtune
from tests.studies import own

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_study_with_own_parts_loses_nothing_and_needs_no_folder(tmp_path: Path) -> None:
    file = own(tmp_path / "work", updates=2000)
    store = tmp_path / "store"
    place = ["--store", store]
    with driver("search", file, *place, cwd=tmp_path) as search:
        search.until("1000/2000 updates")
        search.process.send_signal(signal.SIGINT)
        assert search.end() == 130, search.errors
    done = sabtune("search", file, *place, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for trial in records(store, "own"):
        assert_as_unbroken(trial)
    text = file.read_text()
    file.write_text(text.replace("chance = 1, 2, 0.5", "chance = 1, 2, 0"))
    refused = sabtune("search", file, *place, "--trials", 3, cwd=tmp_path)
    assert refused.returncode == 2
    assert "the code of own:FirstBit.Config has changed" in refused.stderr

    again = sabtune("reproduce", "own", 0, *place, cwd=tmp_path)
    assert "metrics are the same, bit for bit." in again.stdout
    assert "It ran the code that it was trained with. Changed since then: own.py" in again.stdout

    shutil.rmtree(file.parent)
    for command in (["status"], ["report"], ["report", "--out", "report"]):
        shown = sabtune(command[0], "own", *command[1:], *place, cwd=tmp_path)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "gru hidden=" in shown.stdout or "report.html" in shown.stdout
