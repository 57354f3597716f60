"""Test that a space may reject a configuration: its trial is pruned, and the search continues."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pytest
from ray.tune.search import Searcher

from sabtune.errors import StudyFileError
from sabtune.storage.folder import Folder
from sabtune.storage.store import Store
from sabtune.study.configurations import Leaderboard, Seeds
from sabtune.study.events import Outcome
from sabtune.study.loading import load
from sabtune.study.record import StudyRecord
from sabtune.study.study_file import REJECTED_IN_A_ROW, StudyFile
from sabtune.study.trial_specs import TrialSpecs
from sabtune.study.writer import StudyWriter
from sabtune.training.trial import Progress, TrialSpec
from sabtune.tuning.budget import Budget
from sabtune.tuning.run import checked, open_or_create
from sabtune.tuning.searcher import StudySearcher
from tests.test_asking import changed, end, opened, order, searcher
from tests.test_bad_study_files import RETURN, written
from tests.test_bad_study_files import changed as text_with


class Noting:
    """A callback that records the trials that ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[int, str, str]] = []

    def trial_started(self, spec: TrialSpec) -> None: ...

    def trial_reported(self, number: int, progress: Progress) -> None: ...

    def trial_noted(self, number: int, words: str) -> None: ...

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        self.ended.append((number, outcome.state, outcome.reason))


REFUSALS = {
    "pruned": (
        "raise optuna.TrialPruned('too big')",
        r"study\.py:12: pruned by the space: too big$",
    ),
    "without a word": ("raise optuna.TrialPruned", r"study\.py:12: pruned by the space$"),
    "invalid": ("k_top = -1; " + RETURN, r"study\.py:12: \S*k_top is -1: give a whole number"),
}


def refusing(folder: Path, refusal: str) -> StudyFile:
    """Return a study whose space rejects k_top of 4 and 5."""
    text = text_with(RETURN, f"if k_top > 3: {refusal}\n    {RETURN}")
    return load(written(folder, text))


@pytest.mark.parametrize("objectives", [("score",), ("score", "peak_memory")], ids=len)
@pytest.mark.parametrize(("refusal", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_a_rejected_configuration_is_pruned_and_counts(
    tmp_path: Path, refusal: str, reason: str, objectives: tuple[str, ...]
) -> None:
    file = changed(refusing(tmp_path, refusal), objectives=objectives, seeds=Seeds(first=2, most=2))
    study, noting = opened(file), Noting()
    for k_top in (5, 2, 4):
        study.enqueue_trial({"k_top": k_top})
    leaderboard = Leaderboard(file.study.seeds)
    asking = StudySearcher(
        StudyWriter(study),
        TrialSpecs(file, (), Folder.at(tmp_path)),
        leaderboard,
        Folder.at(tmp_path),
        Budget(),
        most=4,
        watchers=[noting],
    )
    first = order(asking).spec
    assert (first.number, first.run.model.k_top) == (1, 2)  # type: ignore[attr-defined]
    again = order(asking).spec
    assert (again.number, again.configuration) == (3, 1)
    assert asking.suggest("any") == Searcher.FINISHED
    assert asking.problem is None
    assert [(number, state) for number, state, _ in noting.ended] == [(0, "PRUNED"), (2, "PRUNED")]
    for trial in (StudyRecord(study).trial(0), StudyRecord(study).trial(2)):
        assert trial.state.name == "PRUNED"
        assert trial.params["k_top"] in (4, 5)
        assert trial.spec is None
        assert re.search(reason, trial.reason)
    assert StudyRecord(study).ended == 2
    assert not StudyRecord(study).failed
    values = [0.5] * len(objectives)
    end(study, asking, 1, *values)
    assert [
        c.number for c in Leaderboard(file.study.seeds).add(StudyRecord(study).trials).ranked()
    ] == [1]


def test_a_resumed_search_counts_rejected_trials(tmp_path: Path) -> None:
    file = refusing(tmp_path, "raise optuna.TrialPruned")
    study = opened(file)
    study.enqueue_trial({"k_top": 5})
    study.ask()  # by a search that died before it called the space
    study.enqueue_trial({"k_top": 2})
    asking = searcher(study, file, tmp_path)
    assert order(asking).spec.number == 1
    assert StudyRecord(study).trial(0).state.name == "PRUNED"
    assert StudyRecord(study).ended == 1


def test_a_space_that_rejects_everything_ends_the_search(tmp_path: Path) -> None:
    text = text_with(
        RETURN, f"if trial.study.study_name == 'real': raise optuna.TrialPruned\n    {RETURN}"
    )
    file = load(written(tmp_path, text))
    study = optuna.create_study(study_name="real")
    asking = searcher(study, file, tmp_path)
    assert asking.suggest("any") == Searcher.FINISHED
    assert "50 trials in a row ended this way" in str(asking.problem)
    assert len(study.trials) == REJECTED_IN_A_ROW
    assert asking.suggest("any") == Searcher.FINISHED
    assert len(study.trials) == REJECTED_IN_A_ROW


def test_an_error_in_a_space_ends_the_search(tmp_path: Path) -> None:
    text = text_with(RETURN, f"if trial.number == 300: nothing\n    {RETURN}")
    file = load(written(tmp_path, text.replace("300", "30")))
    study = opened(file)
    for _ in range(30):
        study.ask()
    asking = searcher(study, file, tmp_path, queue=())
    asking.unfinished.clear()
    assert asking.suggest("any") == Searcher.FINISHED
    assert "study.py:12: NameError: name 'nothing'" in str(asking.problem)
    assert StudyRecord(study).trial(30).state.name == "FAIL"


BATCH = 'trial.suggest_categorical("b", [8, 16])'
CHANGES = {
    "choices": (BATCH, 'trial.suggest_categorical("b", [8, 16, 32])'),
    "order": (BATCH, 'trial.suggest_categorical("b", [16, 8])'),
    "kind": ('trial.suggest_int("b", 1, 5)', 'trial.suggest_float("b", 1, 5)'),
    "categories": ('trial.suggest_int("b", 1, 5)', BATCH),
    "log": ('trial.suggest_int("b", 1, 5)', 'trial.suggest_int("b", 1, 5, log=True)'),
}


def with_batch(draw: str, condition: str = "") -> str:
    return text_with(RETURN, f"{condition}{draw}\n    {RETURN}")


@pytest.mark.parametrize("condition", ["", "if k_top == 2: "], ids=["always", "in a branch"])
@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES)
def test_a_changed_parameter_is_refused_before_a_trial_starts(
    tmp_path: Path, before: str, after: str, condition: str
) -> None:
    store = Store.at(str(tmp_path / "store"))
    store.root.mkdir()
    file = load(written(tmp_path, with_batch(before, condition)))
    study = open_or_create(file, store).optuna
    study.enqueue_trial({"k_top": 2})
    order(searcher(study, file, tmp_path))
    same = load(written(tmp_path, with_batch(before, condition)))
    checked(same, StudyRecord.open(store, file.study.name))
    other = load(written(tmp_path, with_batch(after, condition)))
    message = (
        r"study.py:12: b is .*, and was .* in the study: search with --new --warm-start s, "
        "or give the parameter another name"
    )
    with pytest.raises(StudyFileError, match=message):
        checked(other, StudyRecord.open(store, file.study.name))
    assert len(study.trials) == 1
    if condition:  # the check may miss a branch, so the search also checks
        study.enqueue_trial({"k_top": 2})
        asking = searcher(study, other, tmp_path)
        asking.unfinished.clear()
        assert asking.suggest("any") == Searcher.FINISHED
        assert "study.py:12: b is " in str(asking.problem)
        assert order(searcher(study, same, tmp_path)).spec.number == 0


@pytest.mark.parametrize(
    "after", ['trial.suggest_int("b", 2, 9)', 'trial.suggest_int("b", 1, 5, step=2)', "0"]
)
def test_a_range_may_change(tmp_path: Path, after: str) -> None:
    store = Store.at(str(tmp_path / "store"))
    store.root.mkdir()
    file = load(written(tmp_path, with_batch('trial.suggest_int("b", 1, 5)')))
    order(searcher(open_or_create(file, store).optuna, file, tmp_path))
    checked(load(written(tmp_path, with_batch(after))), StudyRecord.open(store, file.study.name))
