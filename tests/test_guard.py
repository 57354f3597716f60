"""Test that a problem in the driver ends the search once, in one line, and can be resumed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from sqlalchemy.exc import OperationalError

from sabtune.errors import StoreError, UnexpectedError
from sabtune.storage.store import Store
from sabtune.study import locks
from sabtune.study.checkpoints import Attempts
from sabtune.study.events import Outcome
from sabtune.study.loading import load
from sabtune.study.record import StudyRecord
from sabtune.study.writer import StudyWriter
from sabtune.training.trial import Progress, TrialSpec
from sabtune.tuning import run, searcher
from sabtune.tuning.asha import Scheduler
from sabtune.tuning.budget import Budget
from sabtune.tuning.guard import Guard
from sabtune.tuning.release import release
from sabtune.tuning.searcher import StudyCallback, StudySearcher
from sabtune.tuning.trainable import WorkerResult
from tests import faults

CALLED = {
    StudySearcher: ["suggest", "on_trial_complete", "save", "restore"],
    StudyCallback: [
        "on_trial_start",
        "on_trial_result",
        "on_step_end",
        "on_checkpoint",
        "on_trial_complete",
        "on_trial_error",
        "on_trial_recover",
    ],
    Scheduler: ["choose_trial_to_run", "on_trial_result", "on_trial_complete"],
    Budget: ["stop_all"],
}
"""The methods of our classes that Tune calls."""


@pytest.mark.parametrize(
    ("part", "name"), [(part, name) for part, names in CALLED.items() for name in names]
)
def test_no_exception_reaches_tune(monkeypatch: pytest.MonkeyPatch, part: type, name: str) -> None:
    called: list[str] = []

    def fails(*_: object) -> None:
        called.append(name)
        raise ValueError(f"the {len(called)}. time")

    monkeypatch.setattr(part, name, fails)
    ended: list[str] = []
    guard = Guard(lambda: ended.append("stopped"))
    guarded: Any = guard.over(object.__new__(part))
    answers = {
        "suggest": Searcher.FINISHED,
        "stop_all": True,
        "on_trial_result": TrialScheduler.CONTINUE,
    }
    for _ in range(40):
        assert getattr(guarded, name)() == answers.get(name)
    assert called == [name]
    assert ended == ["stopped"]
    assert str(guard.problem) == "the 1. time"


def test_every_method_that_tune_may_call_is_tested() -> None:
    for part, names in CALLED.items():
        tunes = next(base for base in part.__mro__ if base.__module__.startswith("ray."))
        ours = {name for name in vars(part) if hasattr(tunes, name) and name[0] != "_"}
        assert ours == set(names)


def test_after_a_problem_no_guarded_object_runs() -> None:
    budget = Budget()
    guard = Guard(budget.stop)
    guard.over(budget)
    searcher = guard.over(object.__new__(StudySearcher))
    assert searcher.suggest("any") == Searcher.FINISHED  # the searcher has no study, so this raises
    assert isinstance(guard.problem, AttributeError)
    callback = guard.over(object.__new__(StudyCallback))
    callback.on_trial_error(0, [], None)  # type: ignore[arg-type]
    assert budget.stop_all()


def test_the_first_problem_is_raised_and_not_its_consequences() -> None:
    guard = Guard(lambda: None)
    guard.problem = KeyError("first")
    with pytest.raises(KeyError, match="first"), guard.until_closed():
        raise ValueError("second")
    with pytest.raises(ValueError, match="alone"), Guard(lambda: None).until_closed():
        raise ValueError("alone")


def test_an_unexpected_problem_is_one_line_with_its_traceback_in_a_file(tmp_path: Path) -> None:
    store = Store(tmp_path).made()
    for _ in range(2):
        with pytest.raises(UnexpectedError) as told, locks.locked("s", store):
            raise ZeroDivisionError("of\nnothing")
    (line,) = str(told.value).splitlines()
    assert "ZeroDivisionError: of nothing" in line
    assert str(store.error_log("s")) in line
    written = store.error_log("s").read_text()
    assert written.count("Traceback (most recent call last)") == 2
    assert __file__ in written


def test_a_traceback_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    store = Store(tmp_path).made()
    store.error_log("s").mkdir()
    with pytest.raises(UnexpectedError, match="can't be written to"), locks.locked("s", store):
        raise ZeroDivisionError


class Raising:
    """A callback that raises at one kind of event."""

    def __init__(self, at: str, problem: Exception):
        self.at, self.problem, self.raised = at, problem, 0

    def _told(self, of: str) -> None:
        if of == self.at:
            self.raised += 1
            raise self.problem

    def trial_started(self, spec: TrialSpec) -> None:
        self._told("started")

    def trial_reported(self, number: int, progress: Progress) -> None:
        self._told("reported")

    def trial_noted(self, number: int, words: str) -> None:
        self._told("noted")

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        self._told("ended")


def raises(problem: Exception) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise problem

    return call


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("one_ray")
def test_a_search_ended_by_a_problem_resumes_without_losing_a_trial(tmp_path: Path) -> None:
    file = load(faults.study(tmp_path, "guarded", ["plain"] * 3, updates=60))
    store = Store(tmp_path / "store").made()

    def search_with(*watchers: Raising, **patched: tuple[object, Exception]) -> Exception:
        with pytest.MonkeyPatch.context() as patch:
            for name, (where, problem) in patched.items():
                patch.setattr(where, name, raises(problem))
            with pytest.raises(Exception) as told:  # noqa: PT011  # the caller checks it
                run.search(file, store, watchers)
        assert "\n" not in str(told.value)
        return told.value

    nothing = KeyError("score")
    full = OSError(errno.ENOSPC, "No space left on device")
    database = OperationalError("UPDATE", {}, Exception("gone away"))
    watcher = Raising("reported", full)
    assert type(search_with(watcher)) is StoreError
    assert watcher.raised == 1
    assert type(search_with(report=(StudyWriter, database))) is StoreError
    for where, name in ((WorkerResult, "from_result"), (searcher, "values"), (Attempts, "next")):
        said = search_with(**{name: (where, nothing)})
        assert type(said) is UnexpectedError
        assert "KeyError: 'score'" in str(said)
    study = StudyRecord.open(store, "guarded")
    assert all(trial.state == TrialState.RUNNING for trial in study.trials)
    released: list[TuneTrial] = []

    def releases(trial: TuneTrial) -> None:
        assert trial.metric_analysis
        release(trial)
        released.append(trial)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searcher, "release", releases)
        assert run.search(file, store).complete
    assert len(released) == 3
    assert {trial.status for trial in released} == {TuneTrial.TERMINATED}
    assert not any(trial.metric_analysis for trial in released)
    trials = optuna.load_study(study_name="guarded", storage=store.optuna_url).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    for trial in faults.records(store, "guarded"):
        faults.assert_as_unbroken(trial)
