"""Test that points and parameters of earlier studies are tried only inside the space."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from sabtune.errors import StudyFileError
from sabtune.study.loading import load
from sabtune.study.record import StudyRecord
from sabtune.study.writer import StudyWriter
from sabtune.tuning.run import enqueue_best
from tests.test_asking import end, opened, order, searcher
from tests.test_bad_study_files import DRAW, GOOD, RETURN, changed, written

DRAWS = {
    "int": ('trial.suggest_int("p", 2, 6)', "a whole number from 2 to 6"),
    "step": ('trial.suggest_int("p", 2, 6, step=2)', "a whole number from 2 to 6 in steps of 2"),
    "log": ('trial.suggest_int("p", 2, 6, log=True)', "a whole number from 2 to 6 on a log scale"),
    "float": ('trial.suggest_float("p", 0.5, 6)', "a number from 0.5 to 6.0"),
    "coarse": ('trial.suggest_float("p", 0.5, 6, step=0.5)', "from 0.5 to 6.0 in steps of 0.5"),
    "fine": ('trial.suggest_float("p", 1e-4, 6, log=True)', "from 0.0001 to 6.0 on a log scale"),
    "choice": ('trial.suggest_categorical("p", [2, "x", None])', r"one of \[2, 'x', None\]"),
    "whether": ('trial.suggest_categorical("p", [True, False])', r"one of \[True, False\]"),
    "one": ('trial.suggest_int("p", 3, 3)', "a whole number from 3 to 3"),
}


def with_point(draw: str, value: str) -> str:
    """Return a study file that draws p and tries this value first."""
    text = changed(RETURN, f"{DRAWS[draw][0]}; {RETURN}")
    return text.replace("select=(4,)))", f"select=(4,)), points=({{'p': {value}}},))")


@pytest.mark.parametrize(
    ("draw", "value"),
    [
        *((draw, v) for draw in ("int", "log") for v in ("1", "7", "99", "2.5", "3.0", "10**400")),
        *(("int", v) for v in ("'3'", "True", "None", "float('nan')", "float('inf')", "[3]", "3j")),
        ("step", "3"),
        ("step", "7"),
        ("log", "0"),
        ("log", "-3"),
        *(("float", v) for v in ("0.4", "6.1", "'1'", "True", "None", "float('nan')", "10**400")),
        ("coarse", "0.7"),
        ("fine", "0"),
        ("fine", "-1.0"),
        *(("choice", v) for v in ("3", "2.0", "'y'", "''", "[2]", "float('nan')", "'None'")),
        *(("whether", v) for v in ("1", "0", "'True'", "None")),
        ("one", "4"),
    ],
)
def test_a_point_outside_the_space_is_refused(tmp_path: Path, draw: str, value: str) -> None:
    message = (
        r"study.py:12: a point gives p=.*, which is outside the space: give a value inside, .*"
        + DRAWS[draw][1]
    )
    with pytest.raises(StudyFileError, match=message):
        load(written(tmp_path, with_point(draw, value)))


@pytest.mark.parametrize(
    ("draw", "value"),
    [
        ("int", "2"),
        ("int", "6"),
        ("int", "__import__('numpy').int64(3)"),
        ("step", "4"),
        ("log", "5"),
        ("float", "1"),
        ("float", "0.5"),
        ("float", "__import__('numpy').float32(0.5)"),
        ("coarse", "1.5"),
        ("fine", "1e-4"),
        ("choice", "None"),
        ("choice", "'x'"),
        ("whether", "False"),
        ("one", "3"),
    ],
)
def test_a_point_inside_the_space_is_tried_unchanged(tmp_path: Path, draw: str, value: str) -> None:
    file = load(written(tmp_path, with_point(draw, value)))
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'db'}")
    study.enqueue_trial(dict(file.study.points[0]))
    trial = study.ask()
    file.config(trial)
    assert trial.params["p"] == eval(value)
    assert type(trial.params["p"]) in (int, float, str, bool, type(None))


def test_parameters_of_an_earlier_study_outside_the_space_are_skipped_with_a_message(
    tmp_path: Path,
) -> None:
    wide = load(written(tmp_path, changed(DRAW, 'trial.suggest_int("k_top", 1, 9)'), "wide.py"))
    earlier = opened(wide)
    asking = searcher(earlier, wide, tmp_path)
    for k_top, score in ((4, 0.3), (9, 0.9), (3, 0.6)):
        earlier.enqueue_trial({"k_top": k_top})
        end(earlier, asking, order(asking).spec.number, score)
    file, said = load(written(tmp_path, GOOD)), list[str]()
    study = opened(file)
    enqueue_best(StudyWriter(study), StudyRecord(earlier), file, said.append)
    points = [trial.system_attrs["fixed_params"]["k_top"] for trial in study.trials]
    assert points == [3, 4]
    assert len(said) == 1
    assert "Trial 1 of " in said[0]
    assert "k_top=9, which is outside the space" in said[0]


def test_a_waiting_point_outside_a_narrower_space_is_pruned(tmp_path: Path) -> None:
    file = load(written(tmp_path, GOOD))
    study = opened(file)
    for k_top in (99, 3):
        study.enqueue_trial({"k_top": k_top})
    asking = searcher(study, file, tmp_path)
    assert order(asking).spec.run.model.k_top == 3  # type: ignore[attr-defined]
    first = StudyRecord(study).trials[0]
    assert (first.state.name, first.params) == ("PRUNED", {})
    assert "a point gives k_top=99, which is outside the space" in first.reason
