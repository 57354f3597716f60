"""Test `sabtune status`, which describes a search from its study."""

from __future__ import annotations

import io
import re
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from sabtune.study.attributes import REASON, SECONDS, SPEC
from sabtune.study.record import StudyRecord
from sabtune.terminal.status import status
from tests.records import spec

LABEL = "k_top=2 k_att=2 k_trunc=3 constant rate=0.001"


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(study_name="copying", direction="maximize")


def add(
    study: optuna.Study,
    state: TrialState,
    scores: dict[int, float],
    *,
    configuration: int | None = None,
    began: float = 60.0,
    ended: float = 0.0,
    reason: str = "",
) -> None:
    """Add a trial that began and ended this many minutes ago."""
    number = len(study.trials)
    complete = state == TrialState.COMPLETE
    finished = state not in (TrialState.RUNNING, TrialState.WAITING)
    study.add_trial(
        FrozenTrial(
            number=number,
            trial_id=number,
            state=state,
            value=scores[max(scores)] if complete else None,
            values=None,
            datetime_start=datetime.now() - timedelta(minutes=began),
            datetime_complete=datetime.now() - timedelta(minutes=ended) if finished else None,
            params={},
            distributions={},
            user_attrs={
                SPEC: spec(number, configuration).to_dict(),
                REASON: reason,
                SECONDS: 90.0 * finished,
            },
            system_attrs={},
            intermediate_values=dict(scores),
        )
    )


def page(study: optuna.Study, *, alive: bool = True, width: int = 160) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(status(StudyRecord(study), alive))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def table(lines: list[str], title: str) -> list[list[str]]:
    """Return the cells of the table with this title, without its header."""
    rows = lines[lines.index(title) + 2 :]
    rows = rows[: rows.index("")] if "" in rows else rows
    return [re.split(r" {2,}", line.strip()) for line in rows]


def test_status_has_counts_the_best_trial_and_the_running_search(study: optuna.Study) -> None:
    assert page(study, alive=False) == [
        "Study copying: no trial yet",
        "No search is writing to it now.",
        "No trial has a score yet.",
    ]
    add(study, TrialState.COMPLETE, {10: 0.5, 20: 0.6})
    add(study, TrialState.PRUNED, {10: 0.55})
    add(study, TrialState.FAIL, {10: 0.99}, reason="lost")
    study.enqueue_trial({})
    lines = page(study)
    assert lines[:3] == [
        "Study copying: 1 complete, 1 pruned, 1 failed, 1 waiting",
        "A search is writing to it now.",
        f"Best so far: trial 0, 0.600, complete: {LABEL}",
    ]
    assert "Running" not in lines
    add(study, TrialState.RUNNING, {10: 0.7})
    assert f"Best so far: trial 4, 0.700, running: {LABEL}" in page(study)
    assert "Study copying: 1 complete, 1 pruned, 1 failed, 1 running, 1 waiting" in page(study)


def test_a_failed_trial_has_no_score(study: optuna.Study) -> None:
    add(study, TrialState.FAIL, {10: 0.99}, reason="lost")
    assert page(study)[2] == "No trial has a score yet."


def test_running_trials_have_their_progress(study: optuna.Study) -> None:
    add(study, TrialState.RUNNING, {5: 0.8, 10: 0.4}, began=45)
    add(study, TrialState.RUNNING, {}, configuration=0, began=125)
    assert table(page(study), "Running") == [
        ["0", LABEL, "10/20", "0.400", "45 min ago"],
        ["1", "as #0", LABEL, "0/20", "2 h 05 min ago"],
    ]


def test_running_trials_are_unfinished_if_no_search_runs(study: optuna.Study) -> None:
    add(study, TrialState.RUNNING, {10: 0.4})
    lines = page(study, alive=False)
    assert lines[0] == "Study copying: 1 unfinished"
    assert "Running" not in lines
    rows = table(lines, "Interrupted: the next search resumes these")
    assert [row[0] for row in rows] == ["0"]


def test_the_last_five_ended_trials_are_in_order(study: optuna.Study) -> None:
    for minutes in (1, 7, 6, 5, 4, 3):
        add(study, TrialState.COMPLETE, {20: 0.1 * minutes}, ended=minutes)
    add(study, TrialState.PRUNED, {10: 0.3}, configuration=1, ended=2, reason="score 0.300")
    add(study, TrialState.FAIL, {10: 0.3}, ended=0.5, reason="DivergedError: no finite gradient")
    rows = table(page(study), "Latest ended trials")
    assert [row[0] for row in rows] == ["4", "5", "6", "0", "7"]
    assert rows[2:] == [
        ["6", "as #1", LABEL, "pruned", "0.300", "2 min", "score 0.300"],
        ["0", LABEL, "complete", "0.100", "2 min"],
        ["7", LABEL, "failed", "2 min", "DivergedError: no finite gradient"],
    ]


def test_status_fits_a_narrow_terminal(study: optuna.Study) -> None:
    add(study, TrialState.RUNNING, {10: 0.4}, configuration=7)
    add(study, TrialState.FAIL, {10: 0.3}, reason="DivergedError: " + "no finite gradient " * 5)
    lines = page(study, width=80)
    assert max(map(len, lines)) <= 80
    [running] = table(lines, "Running")
    assert running[1] == "as #7"
    assert running[3:] == ["10/20", "0.400", "1 h 00 min ago"]
