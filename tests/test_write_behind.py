"""Test that writes collected in memory leave the same study as Optuna's own storage."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from sabtune.errors import StoreError
from sabtune.storage.store import Store
from sabtune.study import optuna_private
from sabtune.study.record import StudyRecord
from sabtune.study.writer import StudyWriter

TIMES = {"datetime_start", "datetime_complete"}


@pytest.fixture
def study(tmp_path: Path) -> StudyWriter:
    return StudyWriter.create(Store(tmp_path).made(), "buffered", ["maximize"])


def stored(study: StudyWriter) -> list[FrozenTrial]:
    """Return the trials as Optuna reads them from the database."""
    url = str(study.internals.engine.url)
    return optuna.load_study(study_name=study.name, storage=url).get_trials()


def fields(trial: FrozenTrial) -> dict[str, Any]:
    """Return what a trial holds, without its ID and its times."""
    return {
        "number": trial.number,
        "state": trial.state,
        "values": trial.values,
        "params": list(trial.params.items()),
        "distributions": trial.distributions,
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "scores": {step: repr(score) for step, score in trial.intermediate_values.items()},
        "started": trial.datetime_start is not None,
        "ended": trial.datetime_complete is not None,
    }


@contextmanager
def commits(study: StudyWriter) -> Iterator[list[None]]:
    """Yield a list that gets an entry for each commit to the study's database."""
    seen: list[None] = []
    engine = study.internals.engine

    def count(connection: sqlalchemy.Connection) -> None:
        seen.append(None)

    sqlalchemy.event.listen(engine, "commit", count)
    try:
        yield seen
    finally:
        sqlalchemy.event.remove(engine, "commit", count)


def random_search(study: optuna.Study, seed: int) -> None:
    """Run trials at random that use everything that a search writes."""
    draws = random.Random(seed)
    study.enqueue_trial({"x": 0.5, "kind": "a"}, user_attrs={"fixed": True})
    running: list[optuna.Trial] = []
    for _ in range(40):
        if len(running) < 4:
            trial = study.ask()
            trial.suggest_float("x", 0, 1)
            if trial.suggest_categorical("kind", ["a", "b"]) == "b":
                trial.suggest_int("n", 1, 9, log=True)
            trial.set_user_attr("spec", {"number": trial.number, "lengths": (1, 2)})
            running.append(trial)
        trial = draws.choice(running)
        step = len(trial.study.trials[trial.number].intermediate_values)
        trial.report(draws.choice([0.25, float("nan"), float("inf"), -1.5]), step)
        trial.set_user_attr("progress", step)
        if draws.random() < 0.3:
            running.remove(trial)
            state = draws.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
            if state == TrialState.COMPLETE:
                trial.set_constraint("c", draws.random())
                study.tell(trial, draws.random())
            else:
                study.tell(trial, state=state)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_study_is_the_one_that_optuna_stores(
    study: StudyWriter, seed: int, sampler: str
) -> None:
    def made() -> optuna.samplers.BaseSampler:
        if sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=4)
        return optuna.samplers.RandomSampler(seed=seed)

    reference = optuna.create_study(storage="sqlite://", direction="maximize", sampler=made())
    random_search(reference, seed)
    study.optuna.sampler = made()
    with study.buffered():
        random_search(study.optuna, seed)
        in_memory = study.optuna.get_trials()
    expected = [fields(trial) for trial in reference.get_trials()]
    assert [fields(trial) for trial in in_memory] == expected
    assert [fields(trial) for trial in stored(study)] == expected
    times = [(trial.datetime_start, trial.datetime_complete) for trial in in_memory]
    assert [(trial.datetime_start, trial.datetime_complete) for trial in stored(study)] == times
    assert [fields(trial) for trial in study.read().frozen] == expected


def test_a_trial_takes_three_commits(study: StudyWriter) -> None:
    with study.buffered(), commits(study) as seen:
        for _ in range(5):
            trial = study.optuna.ask()
            for name in "abcde":
                trial.suggest_float(name, 0, 1)
            trial.set_user_attr("spec", {})
            study.flush()
            for step in range(5):
                trial.report(0.5, step)
            trial.set_user_attr("result", {})
            study.optuna.tell(trial, 0.5)
    assert len(seen) == 15


def test_scores_are_written_after_a_while_and_the_end_at_once(
    study: StudyWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("sabtune.study.write_behind.time.monotonic", lambda: now)
    with study.buffered():
        first, second = study.optuna.ask(), study.optuna.ask()
        first.report(0.1, 1)
        assert stored(study)[0].intermediate_values == {}
        now += 0.9
        study.flush(after=1.0)
        first.report(0.2, 2)
        assert stored(study)[0].intermediate_values == {}
        now += 0.2
        second.report(0.3, 1)
        assert [t.intermediate_values for t in stored(study)] == [{1: 0.1, 2: 0.2}, {1: 0.3}]
        second.report(0.4, 2)
        study.optuna.tell(first, 0.2)
        assert stored(study)[0].state == TrialState.COMPLETE
        assert stored(study)[1].intermediate_values == {1: 0.3, 2: 0.4}


def test_a_failed_write_is_repeated(study: StudyWriter) -> None:
    engine = study.internals.engine

    def fail(*arguments: Any) -> None:
        raise sqlalchemy.exc.OperationalError("INSERT", {}, Exception("disk I/O error"))

    with study.buffered():
        trial = study.optuna.ask()
        trial.report(0.5, 1)
        sqlalchemy.event.listen(engine, "commit", fail)
        with pytest.raises(StoreError):
            study.flush()
        sqlalchemy.event.remove(engine, "commit", fail)
        assert stored(study)[0].intermediate_values == {}
        study.flush()
        assert stored(study)[0].intermediate_values == {1: 0.5}


def test_changes_are_written_if_the_search_fails(study: StudyWriter) -> None:
    def fail() -> None:
        with study.buffered():
            study.optuna.ask().report(0.5, 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert stored(study)[0].intermediate_values == {1: 0.5}


def test_an_ended_trial_cannot_change(study: StudyWriter) -> None:
    with study.buffered():
        trial = study.optuna.ask()
        study.optuna.tell(trial, 0.5)
        with pytest.raises(UpdateFinishedTrialError):
            trial.set_user_attr("late", 1)
        with pytest.raises(UpdateFinishedTrialError):
            trial.report(0.7, 9)


def test_an_incompatible_parameter_is_refused(study: StudyWriter) -> None:
    first = study.optuna.ask()
    first.suggest_categorical("x", ["a"])
    with study.buffered():
        second = study.optuna.ask()
        with pytest.raises(ValueError, match="distribution kind"):
            second.suggest_float("x", 0, 1)


def test_a_record_that_was_read_keeps_its_content(study: StudyWriter) -> None:
    with study.buffered():
        trial = study.optuna.ask()
        before = study.read().frozen
        trial.report(0.5, 1)
        trial.set_user_attr("a", 1)
        assert before[0].intermediate_values == {}
        assert before[0].user_attrs == {}
        after = study.read().frozen[0]
        assert after.user_attrs == {"a": 1}
        assert StudyRecord(study.optuna).store == study.read().store


def test_trials_are_counted_without_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server is asked for the number before each new trial."""
    storage = optuna_private.BulkStorage(f"sqlite:///{tmp_path / 'counted.db'}")
    study = optuna.create_study(storage=storage)
    other = optuna.create_study(storage=storage)
    for _ in range(3):
        study.ask()
    other.ask()
    monkeypatch.setattr(optuna_private, "all_trials", None)
    assert storage.get_n_trials(study._study_id) == 3
    assert storage.get_n_trials(other._study_id) == 1
