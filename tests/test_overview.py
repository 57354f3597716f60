"""Test the overview of a study (question, space, state) and its description in MLflow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sabtune.config import RunConfig
from sabtune.storage.store import Store
from sabtune.study.attributes import ENVIRONMENT, SPEC
from sabtune.study.events import Outcome, Overview, Version
from sabtune.study.loading import load
from sabtune.study.record import StudyRecord
from sabtune.study.summary import origin, overview
from sabtune.study.writer import StudyWriter
from sabtune.tasks import Copying
from sabtune.tracking.search_run import DESCRIPTION_CHARACTERS, description, points
from sabtune.tuning.run import open_or_create
from tests.experiments import COMPLETE, spec, state, views
from tests.studies import learnable


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """Return a study of a real file: two trials complete, one pruned, one failed, one running."""
    file = load(learnable(tmp_path))
    study = open_or_create(file, Store(tmp_path).made()).optuna
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE, None]
    for number, ending in enumerate(states):
        trial = study.ask()
        recorded = spec_of(number).run
        run = RunConfig.of(task=recorded.task, trial=file.config(trial), seed=recorded.seed)
        if number != 2:
            trial.suggest_float("rarely", 1e-4, 0.1, log=True)
        made = replace(spec_of(number), run=run)
        trial.set_user_attr(SPEC, made.to_dict())
        trial.set_user_attr(ENVIRONMENT, {"study": {"commit": "c0ffee", "dirty": number == 3}})
        if ending == TrialState.COMPLETE:
            StudyWriter(study).end(trial, replace(COMPLETE, score=number / 10), [number / 10], None)
        elif ending is not None:
            name = "PRUNED" if ending == TrialState.PRUNED else "FAIL"
            StudyWriter(study).end(trial, Outcome(state=name), None, None)  # type: ignore[arg-type]
    return study


def spec_of(number: int):  # type: ignore[no-untyped-def]
    from tests import conftest

    return spec(conftest.run.__wrapped__(), number)  # type: ignore[attr-defined]


def test_the_overview_has_the_question_the_space_and_the_state(study: optuna.Study) -> None:
    found = overview(StudyRecord(study), complete=False)
    assert (
        found.question == "One symbol of two, two steps later: learned in seconds, or not at all."
    )
    assert found.task == load(Path(StudyRecord(study).plan.file or "")).study.task
    assert found.ladder is not None
    assert found.ladder.lengths == (2, 4, 8)
    assert found.space == {
        "rate": "good, bad, mad",
        "k_top": "1 to 3 in whole numbers",
        "rarely": "0.0001 to 0.1 on a log scale (in 4 of 5 trials)",
    }
    assert found.trials == {"complete": 2, "pruned": 1, "failed": 1, "unfinished": 1}
    assert found.best is not None
    assert found.best.spec.number == 3
    told = "; ".join(found.budget)
    assert told == (
        "8 trials, drawn by tpe after 8 at random; seed 0; "
        "pruned by ASHA: from 30 updates on, the best 1/2 continue; 1 CPU a trial"
    )


def test_a_trial_has_its_file_and_commit(study: optuna.Study) -> None:
    first, changed = (
        origin(StudyRecord(study), StudyRecord(study).trial(number)) for number in (0, 3)
    )
    assert first.file == StudyRecord(study).plan.file
    assert (first.commit, first.changed) == ("c0ffee", False)
    assert (changed.commit, changed.changed) == ("c0ffee", True)


def test_the_overview_of_a_comparison_lists_its_configurations(study: optuna.Study) -> None:
    labels = {"#3 k_top=1": "k_top=1", "winner": "k_top=2"}
    study.set_user_attr("plan", study.user_attrs["plan"] | {"contest": labels})
    found = overview(StudyRecord(study), complete=True)
    assert found.question.splitlines()[-2:] == ["- #3 k_top=1", "- winner: k_top=2"]
    assert found.budget[0].startswith("2 configurations, each on the same fresh seeds")
    assert found.best is None  # a comparison has no best seed


def test_a_study_without_a_plan_has_an_overview() -> None:
    assert overview(StudyRecord(optuna.create_study()), complete=True).trials["complete"] == 0


def test_the_description_is_readable_markdown(study: optuna.Study) -> None:
    text = description(
        replace(overview(StudyRecord(study), complete=False), champion=Version(trial=3))
    )
    lines = text.splitlines()
    assert lines[0].startswith("One symbol of two")
    assert (
        "**Task:** copying, length 2, symbols 1, alphabet 2, input one-hot; chance 50.0%" in lines
    )
    assert "**Ladder:** 2, 4, 8, 64 sequences a length; selection lengths 2, 4" in lines
    assert any(line.startswith("**Budget:** 8 trials, drawn by tpe") for line in lines)
    table = lines.index("| parameter | drawn from |")
    assert lines[table + 1 : table + 3] == ["| --- | --- |", "| rate | good, bad, mad |"]
    assert lines[table - 1] == ""  # a Markdown table needs a blank line before it
    assert "**Trials:** 2 complete, 1 pruned, 1 failed, 1 unfinished; 0 trial hours" in lines
    (best,) = [line for line in lines if line.startswith("**Best") and "#3 k_top=" in line]
    assert "on fresh sequences 50.0% at 5, 50.0% at 10; length score" in best
    assert "**Champion:** trial 3, unconfirmed" in lines
    assert lines[-1].startswith("| rarely | ")  # MLflow shows no space below a table


def test_the_description_names_the_accuracy_from_which_the_task_is_solved(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Copying, "solved", 0.6)
    text = description(overview(StudyRecord(study), complete=False))
    assert "solved (60%) up to length " in text


def test_the_description_fits_into_mlflow() -> None:
    text = description(Overview(question="why? " * 2000))
    assert len(text) == DESCRIPTION_CHARACTERS
    assert text.endswith("…")
    assert description(Overview()) == ""
    concluded = description(Overview(conclusion="It solves it.", question="Does it?"))
    assert concluded == "It solves it.\n\n---\n\nDoes it?"
    assert r"| a\|b | 1 to 2 |" in description(Overview(space={"a|b": "1 to 2"}))


def test_the_numbers_of_a_search(run: RunConfig) -> None:
    shown = {(p.key, p.step): p.value for p in points(state(views(run)[0]), 0)}
    assert shown["search/trials_complete", 3] == 1  # at step 3: one of 4 trials is unfinished
    assert shown["search/trials_unfinished", 3] == 1
    assert shown["search/trial_hours", 3] == 0.5
    assert shown["search/best_score", 3] == 0.9
    assert shown["search/best_length_score", 3] == pytest.approx((0.5 - 0.125) / (1 - 0.125))
    assert shown["search/best_solve_length", 3] == 0
    assert shown["search/best_accuracy_at_0010", 3] == 0.5
