"""Test a search whose trials may end once they have solved their task."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.faults import records
from tests.forked import sabtune
from tests.studies import learnable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_solved_trial_ends_complete_and_counts_at_later_rungs(tmp_path: Path) -> None:
    file = learnable(tmp_path, updates=3000)
    text = file.read_text()
    for old, new in (
        ("sequences=64)", "sequences=64, solved_reports=2)"),
        ("ASHA(grace=30, reduction=2)", "ASHA(grace=1500, reduction=2)"),
        ("    trials=8,", '    trials=2,\n    points=({"rate": "good"}, {"rate": "bad"}),'),
        ("schedule=Linear(start=6)", "schedule=Constant()"),
        ("import Linear", "import Constant"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    file.write_text(text)
    done = sabtune("search", file, "--store", "store", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    solved, other = records(tmp_path / "store", "learnable")
    assert solved.state == TrialState.COMPLETE
    assert solved.solved
    assert [result.length for result in solved.test] == [2, 4, 8]
    assert max(solved.scores) < 1500
    # Only this trial reaches the rung. The solved trial ended earlier but counts there.
    assert other.state == TrialState.PRUNED
    assert max(other.scores) == 1500
    assert "at 1,500 updates, not of the best 1/2" in other.reason
