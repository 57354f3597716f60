"""Test which trials the searcher starts, in which order, with which numbers and seeds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from sabtune.config import TrialConfig
from sabtune.errors import StudyFileError
from sabtune.models import SAB
from sabtune.storage.folder import Folder
from sabtune.study.attributes import SPEC
from sabtune.study.configurations import Leaderboard, Seeds
from sabtune.study.events import Outcome
from sabtune.study.loading import load
from sabtune.study.objectives import directions
from sabtune.study.record import StudyRecord
from sabtune.study.samplers import sampler
from sabtune.study.study_file import StudyFile
from sabtune.study.trial_record import TrialRecord, counted
from sabtune.study.trial_specs import TrialSpecs, trial_seed
from sabtune.study.writer import StudyWriter
from sabtune.training.trial import TrialRun
from sabtune.tuning.budget import Budget
from sabtune.tuning.run import enqueue_best, enqueue_failed
from sabtune.tuning.searcher import StudySearcher
from sabtune.tuning.trainable import WorkerTask
from tests.studies import learnable


@pytest.fixture
def file(tmp_path: Path) -> StudyFile:
    return load(learnable(tmp_path))


def changed(file: StudyFile, **changes: Any) -> StudyFile:
    return dataclasses.replace(file, study=dataclasses.replace(file.study, **changes))


def opened(file: StudyFile) -> optuna.Study:
    study = optuna.create_study(directions=directions(file.study.objectives))
    study.sampler = sampler(file, 0)
    return study


def searcher(
    study: optuna.Study,
    file: StudyFile,
    trials: Path,
    budget: Budget | None = None,
    queue: Sequence[int] | None = None,
) -> StudySearcher:
    known = StudyRecord(study).trials
    leaderboard = Leaderboard(file.study.seeds).add(known)
    specs = TrialSpecs(file, known, Folder.at(trials) / "code")
    return StudySearcher(
        StudyWriter(study), specs, leaderboard, Folder.at(trials), budget or Budget(), queue=queue
    )


def order(searcher: StudySearcher) -> WorkerTask:
    config = searcher.suggest("any")
    assert isinstance(config, dict)
    return WorkerTask.from_config(config)


def end(study: optuna.Study, searcher: StudySearcher, number: int, *values: float) -> None:
    state = "COMPLETE" if values else "FAIL"
    outcome = Outcome(state=state)  # type: ignore[arg-type]
    StudyWriter(study).end(StudyWriter(study).reopen(number), outcome, values or None, None)
    searcher.leaderboard.end(TrialRecord.of(study.get_trials()[number]))


def test_known_points_are_tried_first(file: StudyFile, tmp_path: Path) -> None:
    points = ({"rate": "bad", "k_top": 3}, {"rate": "good"})
    study = opened(changed(file, points=points))
    for point in points:
        study.enqueue_trial(dict(point))
    asking = searcher(study, file, tmp_path)
    first, second = order(asking), order(asking)
    assert study.trials[0].params == {"rate": "bad", "k_top": 3}
    assert study.trials[1].params["rate"] == "good"
    assert first.spec.run.train.learning_rate == 1e-6
    assert second.spec.run.train.learning_rate == 0.02


def test_a_queue_decides_which_waiting_trials_start_and_in_which_order(
    file: StudyFile, tmp_path: Path
) -> None:
    study = opened(file)
    for k_top in (2, 3, 2, 2):
        study.enqueue_trial({"rate": "good", "k_top": k_top})
    asking = searcher(study, file, tmp_path, queue=(3, 1))
    assert [order(asking).spec.number for _ in range(2)] == [3, 1]
    assert [study.trials[number].params["k_top"] for number in (3, 1)] == [2, 3]
    assert StudyRecord(study).waiting == [0, 2]


def test_the_trial_number_decides_the_seed(file: StudyFile, tmp_path: Path) -> None:
    asking = searcher(opened(file), file, tmp_path)
    seeds = [order(asking).spec.run.seed for _ in range(4)]
    assert seeds == [trial_seed(0, number) for number in range(4)]


def test_an_unfinished_trial_resumes_first_from_its_newest_checkpoint(
    file: StudyFile, tmp_path: Path
) -> None:
    study = opened(file)
    before = order(searcher(study, file, tmp_path))
    run = TrialRun(before.spec)
    for i, _ in zip(range(2), run, strict=False):
        run.save(tmp_path / before.directory / f"checkpoint_{i:06d}")
    again = order(searcher(study, file, tmp_path))
    assert again.spec == before.spec
    assert again.directory == "0000.1"
    assert [Path(path).name for path in again.checkpoints] == [
        "checkpoint_000001",
        "checkpoint_000000",
    ]
    third = order(searcher(study, file, tmp_path))
    assert third.directory == "0000.2"
    assert len(study.trials) == 1


def test_a_trial_killed_before_it_had_a_spec_gets_the_same_spec(
    file: StudyFile, tmp_path: Path
) -> None:
    study = opened(file)
    study.enqueue_trial({"rate": "bad", "k_top": 2})
    study.ask()
    again = order(searcher(study, file, tmp_path))
    assert again.spec.number == 0
    assert again.spec.run.train.learning_rate == 1e-6


def test_promising_configurations_get_further_seeds(file: StudyFile, tmp_path: Path) -> None:
    file = changed(file, seeds=Seeds(most=2, reduction=2))
    study = opened(file)
    asking = searcher(study, file, tmp_path)
    for k_top, score in ((1, 0.3), (2, 0.9)):
        study.enqueue_trial({"rate": "good", "k_top": k_top})
        end(study, asking, order(asking).spec.number, score)
    further = order(asking).spec
    assert further.configuration == 1
    assert further.number == 2
    first = StudyRecord(study).trials[1].run
    assert first is not None
    assert further.run.trial == first.trial
    assert further.run.seed != first.seed
    assert study.trials[2].params == study.trials[1].params


def race_of(study: optuna.Study, file: StudyFile, folder: Path, trials: int) -> dict[int, int]:
    """Run `trials` trials, ten per search; return the number of trials per configuration."""
    for begun in range(0, trials, 10):
        asking = searcher(study, file, folder)
        for _ in range(begun, begun + 10):
            number = order(asking).spec.number
            k_top = study.trials[number].params["k_top"]
            end(study, asking, number, 0.9 if number < 4 else k_top % 80 / 100)
    return Counter(of.configuration for of in StudyRecord(study).trials)


def wide(file: StudyFile, updates: int = 120) -> StudyFile:
    """Return the study with a space so large that no configuration is drawn twice."""
    path = file.path.with_name(f"wide{updates}.py")
    text = file.path.read_text().replace("updates=120", f"updates={updates}")
    path.write_text(text.replace('"k_top", 1, 3', '"k_top", 1, 1_000_000'))
    return load(path)


@pytest.mark.parametrize("first", [1, 2])
def test_no_configuration_exceeds_its_seeds_after_an_edit_of_the_file(
    file: StudyFile, tmp_path: Path, first: int
) -> None:
    seeds = Seeds(first=first, most=4, reduction=2)
    study = opened(file)
    race_of(study, changed(wide(file), seeds=seeds), tmp_path, 10)
    before = {of.configuration: of.run for of in StudyRecord(study).trials}
    later = changed(wide(file, 60), seeds=seeds)
    got = race_of(study, later, tmp_path, 40)
    assert max(got.values()) <= 4
    assert max(got[of] for of in before) == 4  # recorded configurations still get seeds
    for trial in StudyRecord(study).trials:
        assert trial.run is not None
        known = before.get(trial.configuration)
        assert trial.run.train.updates == (120 if known else 60)
        assert known is None or trial.run.trial == known.trial


def test_no_configuration_exceeds_its_seeds_if_the_space_is_not_deterministic(
    file: StudyFile, tmp_path: Path
) -> None:
    asked = count(1)

    def space(trial: optuna.Trial) -> TrialConfig:
        config = file.space(trial)
        rate = config.train.learning_rate * (1 + next(asked) / 1000)
        return dataclasses.replace(
            config, train=dataclasses.replace(config.train, learning_rate=rate)
        )

    seeds = Seeds(first=2, most=4, reduction=2)
    moody = dataclasses.replace(changed(file, seeds=seeds), space=space)
    got = race_of(opened(file), moody, tmp_path, 40)
    assert max(got.values()) == 4
    assert min(got.values()) >= 1
    assert len(got) > 5


def test_a_configuration_whose_space_raised_gets_no_further_seeds(
    file: StudyFile, tmp_path: Path
) -> None:
    def raising(trial: optuna.Trial) -> TrialConfig:
        file.space(trial)
        raise ValueError("not now")

    two = changed(file, seeds=Seeds(first=2, most=2))
    study = opened(file)
    broken = searcher(study, dataclasses.replace(two, space=raising), tmp_path)
    assert broken.suggest("any") == Searcher.FINISHED
    asking = searcher(study, two, tmp_path)
    assert [order(asking).spec.configuration for _ in range(4)] == [1, 1, 3, 3]


def test_a_trial_killed_before_it_had_a_spec_counts_once(file: StudyFile, tmp_path: Path) -> None:
    two = changed(file, seeds=Seeds(first=2, most=2))
    study = opened(file)
    study.ask()
    asking = searcher(study, two, tmp_path)
    assert [order(asking).spec.configuration for _ in range(3)] == [0, 0, 2]


def test_a_further_seed_keeps_the_parameters_of_its_configuration(
    file: StudyFile, tmp_path: Path
) -> None:
    """Check two equal trials that an earlier version recorded as two configurations."""
    study = opened(file)
    first = searcher(study, file, tmp_path)
    for number in range(2):
        study.enqueue_trial({"rate": "good", "k_top": 2})
        made = order(first).spec
        apart = made.to_dict() | {"configuration": number}
        StudyWriter(study).reopen(number).set_user_attr(SPEC, apart)
        first.leaderboard.start(number)
        end(study, first, number, 0.9)
    asking = searcher(study, changed(file, seeds=Seeds(first=2, most=2)), tmp_path)
    assert [order(asking).spec.configuration for _ in range(2)] == [0, 1]


def test_a_configuration_drawn_again_is_recognized(file: StudyFile, tmp_path: Path) -> None:
    study = opened(file)
    for k_top in (1, 2, 1):
        study.enqueue_trial({"rate": "good", "k_top": k_top})
    asking = searcher(study, file, tmp_path)
    assert [order(asking).spec.configuration for _ in range(3)] == [0, 1, 0]
    study.enqueue_trial({"rate": "good", "k_top": 2})
    later = searcher(study, file, tmp_path)  # another search resumes after three unfinished trials
    assert [order(later).spec.configuration for _ in range(4)] == [0, 1, 0, 1]


def test_a_resumed_search_recognizes_its_configurations(file: StudyFile, tmp_path: Path) -> None:
    """Check a space that returns an integer for a real-valued parameter."""

    def space(trial: optuna.Trial) -> TrialConfig:
        forget_bias = trial.suggest_int("forget_bias", 2, 2)
        return TrialConfig(model=SAB.Config(hidden=4, forget_bias=forget_bias))

    whole = dataclasses.replace(changed(file, seeds=Seeds(most=2, reduction=1.01)), space=space)
    study = opened(whole)
    first = searcher(study, whole, tmp_path)
    assert order(first).spec.configuration == 0
    end(study, first, 0, 0.9)
    for number in (1, 2):  # two resumed searches, one after the other
        again = searcher(study, whole, tmp_path)
        assert order(again).spec.configuration == 0
        end(study, again, number, 0.8)


def test_no_trial_starts_after_the_budget_is_spent(file: StudyFile, tmp_path: Path) -> None:
    budget = Budget(gpu_hours=1.0, gpus=0.5)
    asking = searcher(opened(file), file, tmp_path, budget)
    order(asking)
    budget.count(0, 3600.0)
    assert not budget.stop_all()  # half a GPU used for an hour
    budget.count(1, 3600.0)
    assert budget.stop_all()
    assert asking.suggest("any") == Searcher.FINISHED


def test_a_resumed_trial_costs_only_its_time_since_the_resume() -> None:
    budget = Budget(gpu_hours=1.0, gpus=1.0)
    budget.resume(0, 36_000.0)
    budget.count(0, 36_000.0 + 1800.0)
    assert budget.used_gpu_hours == 0.5
    assert not budget.stop_all()


def test_a_retried_trial_has_its_seed_and_a_new_number(file: StudyFile, tmp_path: Path) -> None:
    study = opened(file)
    asking = searcher(study, file, tmp_path)
    failed, fine = order(asking).spec, order(asking).spec
    end(study, asking, failed.number)
    end(study, asking, fine.number, 0.5)
    assert StudyRecord(study).ended == 2
    for _ in range(2):  # a trial queued twice runs once
        enqueue_failed(StudyWriter(study))
    assert StudyRecord(study).ended == 1
    again = order(asking).spec
    assert again.number == 2
    assert again.run == failed.run
    assert study.trials[2].params == study.trials[0].params
    waiting = study.get_trials(states=(TrialState.WAITING,))
    assert not waiting
    end(study, asking, again.number, 0.95)
    scores = {trial.number: trial.score for trial in counted(StudyRecord(study).trials)}
    assert scores == {fine.number: 0.5, again.number: 0.95}


def test_the_best_of_an_earlier_study_come_first(file: StudyFile, tmp_path: Path) -> None:
    earlier = opened(file)
    asking = searcher(earlier, file, tmp_path)
    for k_top, score in ((1, 0.3), (2, 0.9), (3, 0.6)):
        earlier.enqueue_trial({"rate": "good", "k_top": k_top})
        end(earlier, asking, order(asking).spec.number, score)
    study = opened(file)
    enqueue_best(StudyWriter(study), StudyRecord(earlier))
    enqueue_best(StudyWriter(study), StudyRecord(earlier))  # a resumed search enqueues them again
    warm = searcher(study, file, tmp_path)
    for _ in range(3):
        order(warm)
    assert [trial.params["k_top"] for trial in study.trials] == [2, 3, 1]


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes", "random"])
def test_every_sampler_draws_from_the_space_and_repeats_by_its_seed(
    file: StudyFile, tmp_path: Path, name: str
) -> None:
    file = changed(file, sampler=name, startup=2)
    drawn = []
    for _ in range(2):
        study = opened(file)
        asking = searcher(study, file, tmp_path)
        for number in range(5):
            end(study, asking, order(asking).spec.number, 0.1 * number)
        drawn.append([trial.params for trial in study.trials])
    assert drawn[0] == drawn[1]
    other = opened(changed(file, seed=1))
    asking = searcher(other, file, tmp_path)
    for _ in range(5):
        end(other, asking, order(asking).spec.number, 0.1)
    assert [trial.params for trial in other.trials] != drawn[0]


def test_a_trial_that_breaks_a_constraint_is_never_the_best(
    file: StudyFile, tmp_path: Path
) -> None:
    def constraints(trial: TrialRecord) -> dict[str, float]:
        return {"k_top": trial.params["k_top"] - 2.5}

    file = dataclasses.replace(file, constraints=constraints)
    study = opened(file)
    asking = searcher(study, file, tmp_path)
    for k_top, score in ((2, 0.5), (3, 0.9)):
        study.enqueue_trial({"rate": "good", "k_top": k_top})
        number = order(asking).spec.number
        trial = StudyRecord(study).trial(number)
        for name, value in file.constrained(trial).items():
            StudyWriter(study).reopen(number).set_constraint(name, value)
        end(study, asking, number, score)
    assert study.best_trial.number == 0
    assert [c.number for c in asking.leaderboard.ranked()] == [0]


def test_constraints_that_fail_name_the_file(file: StudyFile) -> None:
    broken = dataclasses.replace(file, constraints=lambda trial: trial.nothing)  # type: ignore[attr-defined]
    study = opened(file)
    study.ask()
    with pytest.raises(StudyFileError, match=r"learnable\.py: AttributeError"):
        broken.constrained(StudyRecord(study).trial(0))


def test_all_objectives_are_recorded(file: StudyFile, tmp_path: Path) -> None:
    file = changed(file, objectives=("score", "seconds_per_update", "peak_memory"))
    study = opened(file)
    asking = searcher(study, file, tmp_path)
    spec = order(asking).spec
    progress = next(iter(TrialRun(spec)))
    StudyWriter(study).report(StudyWriter(study).reopen(0), progress)
    assert StudyRecord(study).trials[0].scores == {30: progress.score}
    end(study, asking, 0, 0.5, 0.01, 100.0)
    assert [trial.number for trial in study.best_trials] == [0]
