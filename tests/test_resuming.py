"""Test which edits of a study file allow a study to resume."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import optuna
import pytest

from sabtune.compare.confirm import name_of, study_file
from sabtune.errors import StoreError
from sabtune.models import SAB
from sabtune.storage.store import Store
from sabtune.study.configurations import Seeds
from sabtune.study.definition import ASHA, Resources
from sabtune.study.loading import load
from sabtune.study.objectives import Direction
from sabtune.study.record import StudyRecord
from sabtune.study.resuming import check_same_question
from sabtune.study.study_file import StudyFile
from sabtune.study.trial_specs import TrialSpecs
from sabtune.study.writer import StudyWriter
from sabtune.tasks import Adding, Copying
from sabtune.training.evaluation import Ladder, resolved
from sabtune.training.trial import Limits
from sabtune.tuning.run import open_or_create, search
from tests.records import spec
from tests.studies import learnable

LADDER = Ladder(lengths=(2, 4, 8), select=(2, 4), sequences=64)
"""The ladder of the study that `learnable` writes."""


@pytest.fixture
def file(tmp_path: Path) -> StudyFile:
    return load(learnable(tmp_path))


@pytest.fixture
def store(tmp_path: Path, file: StudyFile) -> Store:
    """Return a store with the empty study of the file."""
    store = Store(tmp_path / "store").made()
    open_or_create(file, store)
    return store


def stored(store: Store) -> StudyRecord:
    return StudyRecord.open(store, "learnable")


def changed(file: StudyFile, **changes: Any) -> StudyFile:
    return dataclasses.replace(file, study=dataclasses.replace(file.study, **changes))


LONGER = {
    "task": Copying.Config(length=3, symbols=1, alphabet=2),
    "ladder": Ladder(lengths=(3, 6), select=(3,), sequences=64),
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (LONGER, "task.length: 2 → 3, ladder.lengths: 2,4,8 → 3,6, ladder.select: 2,4 → 3"),
        ({"task": Copying.Config(length=2, symbols=1, alphabet=4)}, "task.alphabet: 2 → 4"),
        ({"task": Adding.Config(length=2)}, "task.kind: copying → adding"),
        ({"ladder": dataclasses.replace(LADDER, lengths=(2, 4))}, "ladder.lengths: 2,4,8 → 2,4"),
        ({"ladder": dataclasses.replace(LADDER, select=(2,))}, "ladder.select: 2,4 → 2"),
        ({"ladder": dataclasses.replace(LADDER, sequences=65)}, "ladder.sequences: 64 → 65"),
        (
            {"ladder": dataclasses.replace(LADDER, solved_reports=2)},
            "ladder.solved_reports: none → 2",
        ),
        (
            {"objectives": ("score", "peak_memory")},
            "objectives: score → score,peak_memory",
        ),
    ],
)
def test_changes_to_the_meaning_of_scores_are_refused(
    file: StudyFile, store: Store, changes: dict[str, Any], told: str
) -> None:
    before = (store.root / "optuna.db").read_bytes()
    with pytest.raises(StoreError, match=re.escape(f"({told}), so")) as refused:
        search(changed(file, **changes), store)
    (line,) = str(refused.value).splitlines()
    assert "--new" in line
    assert "--study" in line
    assert (store.root / "optuna.db").read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"trials": 30, "points": ({"k_top": 2},)},
        {"resources": Resources(cpus=2), "limits": Limits(hours=1.0)},
        {"pruning": None},
        {"pruning": ASHA(grace=60)},
        {"seed": 7, "startup": 2, "sampler": "random"},
        {"seeds": Seeds(first=2, most=4, objective="solve")},
    ],
)
def test_changes_to_budget_and_search_are_allowed(
    file: StudyFile, store: Store, changes: dict[str, Any]
) -> None:
    check_same_question(changed(file, **changes), stored(store))


def test_changes_to_the_space_are_allowed(file: StudyFile, store: Store) -> None:
    file.path.write_text(file.path.read_text().replace('"k_top", 1, 3', '"k_top", 1, 9'))
    check_same_question(load(file.path), stored(store))


def test_objectives_with_the_same_direction_are_distinguished(
    file: StudyFile, tmp_path: Path
) -> None:
    store = Store(tmp_path / "other").made()
    open_or_create(changed(file, objectives=("score", "seconds_per_update")), store)
    with pytest.raises(StoreError, match="score,seconds_per_update → score,peak_memory"):
        check_same_question(
            changed(file, objectives=("score", "peak_memory")), StudyRecord.open(store, "learnable")
        )


def test_a_baseline_has_its_own_study(file: StudyFile, store: Store) -> None:
    with pytest.raises(StoreError, match="baseline: none → lstm"):
        check_same_question(
            dataclasses.replace(file, baseline="lstm"), StudyRecord.open(store, "learnable")
        )


def test_a_comparison_cannot_be_searched(file: StudyFile, store: Store) -> None:
    study = StudyWriter.open(store, "learnable")
    study.change_plan(comparison={"a": "b"})
    with pytest.raises(StoreError, match="is a comparison"):
        check_same_question(file, stored(store))


@pytest.mark.parametrize("directions", [["maximize"], ["minimize"], ["maximize", "minimize"]])
def test_a_study_of_another_program_is_refused(
    file: StudyFile, tmp_path: Path, directions: list[Direction]
) -> None:
    store = Store(tmp_path / "foreign").made()
    foreign = optuna.create_study(
        study_name="learnable", storage=store.optuna_url, directions=directions
    )
    foreign.tell(foreign.ask(), [0.5] * len(directions))
    with pytest.raises(StoreError, match="wasn't made by sabtune") as refused:
        search(file, store)
    assert len(str(refused.value).splitlines()) == 1
    assert len(foreign.get_trials()) == 1


def test_a_study_interrupted_before_it_had_a_plan_resumes(file: StudyFile, tmp_path: Path) -> None:
    store = Store(tmp_path / "begun").made()
    optuna.create_study(study_name="learnable", storage=store.optuna_url, direction="maximize")
    check_same_question(file, stored(store))


def test_settings_missing_from_an_older_plan_have_their_defaults(
    file: StudyFile, store: Store
) -> None:
    study = StudyWriter.open(store, "learnable")
    plan = dict(study.optuna.user_attrs["plan"])
    plan["study"] = {
        "task": {key: of for key, of in plan["study"]["task"].items() if key != "input"}
        | {"shortest": None},
        "ladder": {k: of for k, of in plan["study"]["ladder"].items() if k != "solved_reports"},
    }
    plan.pop("rival", None)
    study.optuna.set_user_attr("plan", plan)
    check_same_question(file, stored(store))


def test_a_changed_seed_does_not_change_the_measured_sequences(
    file: StudyFile, store: Store
) -> None:
    study = optuna.create_study()
    first = TrialSpecs(file, [], store.code).spec(study.ask())
    known = StudyRecord(study).trials
    later = TrialSpecs(changed(file, seed=5), known, store.code).spec(study.ask())
    assert later.evaluation_seed == first.evaluation_seed == 0
    assert later.run.seed != first.run.seed


def test_a_comparison_uses_the_ladder_of_the_search(file: StudyFile, store: Store) -> None:
    text = file.path.read_text()
    file.path.write_text(text.replace("lengths=(2, 4, 8)", "lengths=(2, 4, 16)"))
    assert study_file(stored(store)).study.ladder == resolved(LADDER)


def test_runs_of_another_task_become_a_new_comparison(file: StudyFile, store: Store) -> None:
    run = spec().run
    model = SAB.Config(hidden=8, k_top=3, k_att=2)
    for name, task in (("s.confirm", run.task), ("s.confirm-2", Copying.Config(length=9))):
        runs = {f"#{name}": dataclasses.replace(run, model=model, task=task)}
        assert name_of("s.confirm", store, runs, None)[0] == name
        confirmation = open_or_create(file.renamed(name), store)
        confirmation.enqueue(runs[f"#{name}"], label=f"#{name}")
    TrialSpecs(file, [], store.code).spec(StudyWriter.open(store, "learnable").optuna.ask())
    assert name_of("learnable", store, runs, None)[0] == "learnable-2"
