"""Connect Optuna's study to Ray Tune.

`StudySearcher` suggests trials, and `StudyCallback` records what became of them.

Both run in the driver, which alone writes to the study. Tune's own OptunaSearch isn't used: it
tells Optuna that a trial which the scheduler stopped is complete.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import ray.cloudpickle
from optuna.trial import TrialState
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from sabtune.errors import (
    RefusedError,
    RejectedError,
    SabtuneError,
    StoreError,
    StudyFileError,
)
from sabtune.search import trainable
from sabtune.search.budget import Budget
from sabtune.search.trainable import WorkerResult, WorkerTask, place
from sabtune.storage.folder import Folder
from sabtune.study import record
from sabtune.study.checkpoints import Attempts, clear, directory, history
from sabtune.study.configurations import Leaderboard
from sabtune.study.definition import REJECTED_IN_A_ROW, StudyFile
from sabtune.study.events import Outcome, State, Watcher
from sabtune.study.objectives import values
from sabtune.study.record import TrialRecord
from sabtune.study.recovery import entry
from sabtune.study.trial_specs import TrialSpecs
from sabtune.training.trial import Progress, TrialSpec
from sabtune.wording import counted


class NotPickled:
    """Pickles as nothing. Tune writes its searcher and callbacks beside its own state, to restore a
    search from; ours is gone on with from the study instead, and its database can't be pickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudySearcher(NotPickled, Searcher):
    """Hands out trials: first those that an earlier search left unfinished, from their last
    checkpoint; then those that were enqueued; then further seeds and new configurations.

    trials: the study's folder. identity: the study's, where its trials' checkpoints are to hold
    what it holds of them. queue: which of the enqueued ones, by number; by default all. most: how
    many trials, those included that the space rejects: they end as pruned before they begin.
    watchers: are told of those.

    Once a space has failed, or rejected REJECTED_IN_A_ROW configurations in a row, no more trials
    are handed out and `problem` says what it was.
    """

    def __init__(
        self,
        study: optuna.Study,
        specs: TrialSpecs,
        leaderboard: Leaderboard,
        trials: Folder,
        budget: Budget,
        identity: str = "",
        queue: Sequence[int] | None = None,
        *,
        most: int | None = None,
        watchers: Sequence[Watcher] = (),
    ):
        super().__init__(metric="score", mode="max")
        self.study, self.specs, self.leaderboard = study, specs, leaderboard
        self.trials, self.budget, self.identity = trials, budget, identity
        self.attempts = Attempts(trials)
        self.unfinished = deque(
            trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        )
        self.waiting = deque(record.waiting(study) if queue is None else queue)
        self.problem: StudyFileError | None = None
        self.left, self.watchers = math.inf if most is None else most, watchers
        self.rejected = 0  # in a row

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        while self.problem is None and not self.budget.spent and self.left > 0:
            self.left -= 1
            trial, goes_on = self._next()
            known = record.SPEC in trial.user_attrs  # and therefore counted by the race
            try:
                spec = self.specs.spec(trial)
            except RejectedError as problem:
                self._reject(trial, problem)
            except StudyFileError as problem:
                self.problem = problem
                self._end(trial, "FAIL", problem)
            else:
                self.rejected = 0
                if not known:
                    self.leaderboard.start(spec.configuration)
                return self._order(trial, spec, goes_on=goes_on)
        return Searcher.FINISHED

    def _reject(self, trial: optuna.Trial, problem: RejectedError) -> None:
        """Ends a trial of which the space makes no configuration; the search, after too many."""
        self._end(trial, "PRUNED", problem)
        self.rejected += 1
        if self.rejected == REJECTED_IN_A_ROW:
            self.problem = StudyFileError(
                f"{problem}; so ended {self.rejected} trials in a row: "
                "narrow the ranges to what the space accepts"
            )

    def _end(self, trial: optuna.Trial, state: State, problem: StudyFileError) -> None:
        outcome = Outcome(state=state, reason=str(problem))
        record.end(trial, outcome, None, None)
        for watcher in self.watchers:
            watcher.trial_ended(trial.number, outcome)

    def _order(self, trial: optuna.Trial, spec: TrialSpec, *, goes_on: bool) -> dict[str, Any]:
        attempt, earlier = self.attempts.next(trial.number), list[Folder]()
        if goes_on:
            attempt = max(attempt, trial.user_attrs.get(record.ATTEMPTS, 0) + 1)
            trial.set_user_attr(record.ATTEMPTS, attempt)
            earlier = self.attempts.checkpoints(trial.number)
        return WorkerTask(
            spec=spec,
            directory=directory(trial.number, attempt),
            trials=str(self.trials),
            checkpoints=tuple(map(str, earlier)),
            save_every=trainable.SAVE_EVERY,
            entry=entry(trial, self.identity) if self.identity else "",
        ).to_config()

    def _next(self) -> tuple[optuna.Trial, bool]:
        """A trial, and whether it goes on: it was begun before."""
        if self.unfinished:
            return record.reopen(self.study, self.unfinished.popleft()), True
        if self.waiting:
            return record.begin(self.study, self.waiting.popleft()), False
        again = self.leaderboard.next()
        if again is not None:
            return self.specs.another_seed(self.study, again), False
        return self.study.ask(), False

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: `StudyCallback` has the trial at hand, and with it the reason."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study in its database is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""


class StudyCallback(NotPickled, tune.Callback):
    """Writes each report and each end of a trial to the study, then tells the watchers.

    What an interrupted search leaves running stays so in the study: the next takes it up.
    """

    def __init__(
        self,
        study: optuna.Study,
        leaderboard: Leaderboard,
        budget: Budget,
        file: StudyFile,
        watchers: Sequence[Watcher],
    ):
        self.study, self.leaderboard, self.budget = study, leaderboard, budget
        self.file, self.watchers = file, watchers
        self.running: dict[int, Running] = {}  # by number
        self.problem: SabtuneError | None = None  # of the constraints, or of the store
        self.cleaner = ThreadPoolExecutor(1, "cleaner")  # where taking files away takes its time

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        order = WorkerTask.from_config(trial.config)
        if order.spec.number in self.running:
            return  # taken up again after its worker died
        running = self._start(order.spec)
        for progress in history(map(Folder, order.checkpoints), order.spec):
            self._report(running, progress)  # what the search that was ended didn't come to tell

    def _start(self, spec: TrialSpec) -> Running:
        running = Running(spec, record.reopen(self.study, spec.number))
        self.running[spec.number] = running
        for watcher in self.watchers:
            watcher.trial_started(spec)
        return running

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        answer = WorkerResult.from_result(result)
        running = self.running[trial.config["assignment"]["number"]]
        if answer.hardware is not None:
            environment = running.trial.user_attrs.get(record.ENVIRONMENT, {})
            running.trial.set_user_attr(
                record.ENVIRONMENT, environment | {"hardware": answer.hardware}
            )
        for words in answer.passed_over:
            for watcher in self.watchers:
                watcher.trial_noted(running.spec.number, words)
        if not answer.failed:
            self.budget.count(running.spec.number, answer.seconds)
        if answer.progress is not None:
            self._report(running, answer.progress)

    def _report(self, running: Running, progress: Progress) -> None:
        """Unless it came before, from a worker that died between its report and its checkpoint."""
        if running.history and progress.report.step <= running.history[-1].report.step:
            return
        running.history.append(progress)
        if progress.report.step > running.told:
            record.report(running.trial, progress)
        for watcher in self.watchers:
            watcher.trial_reported(running.spec.number, progress)

    def on_checkpoint(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        checkpoint: tune.Checkpoint,
        **info: Any,
    ) -> None:
        """Leaves a trial its newest checkpoint and the one before, and lets it be taken up again as
        often as at first: it has come further.

        Not Tune's `num_to_keep`, with which it writes the state of every trial down each time.
        """
        trial.run_metadata.num_failures = 0
        kept = [Path(one.path).name for one in (checkpoint, trial.checkpoint) if one is not None]
        attempt = place(trial.config)
        if attempt.path is not None:
            clear(attempt, kept)
        else:
            self.cleaner.submit(clear, attempt, kept)

    def close(self) -> None:
        """Waits until all that was to be taken away is."""
        self.cleaner.shutdown()

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        running = self.running[trial.config["assignment"]["number"]]
        last = trial.last_result or {}
        if last.get("failed"):
            self._end(trial, running, "FAIL", last["failed"])
        elif last.get("progress") and last["progress"]["finished"]:
            self._end(trial, running, "COMPLETE", "")
        elif self.budget.spent:
            return  # stopped with all others; the next search goes on with it
        elif running.history:
            progress = running.history[-1]
            reason = f"score {progress.score:.3f} at {counted(progress.report.step, 'update')}"
            if self.file.study.pruning is not None:
                reason += f", not of the best 1/{self.file.study.pruning.reduction:g}"
            self._end(trial, running, "PRUNED", reason)

    def on_trial_recover(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Ends the search where the store refuses what a worker asks: trying again is of no use."""
        problem = _of_store(trial)
        if isinstance(problem, RefusedError):
            self._give_up(problem)

    def _give_up(self, problem: StoreError) -> None:
        """Stops all trials, which aren't lost."""
        self.problem = self.problem or problem
        self.budget.stop()

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        problem = _of_store(trial)
        if problem is not None:  # no fault of the trial's: the next search goes on with it
            self._give_up(problem)
            return
        number = trial.config["assignment"]["number"]
        running = self.running.get(number) or self._start(
            TrialSpec.from_dict(trial.config["assignment"])
        )
        self._end(trial, running, "FAIL", _error(trial))

    def _end(self, trial: TuneTrial, running: Running, state: State, reason: str) -> None:
        del self.running[running.spec.number]
        last = running.history[-1] if running.history else None
        complete = state == "COMPLETE"
        outcome = Outcome(
            state=state,
            score=last.score if last and complete else None,
            reason=reason,
            ladder=last.ladder if last else (),
            test=last.test if last and complete else (),
            checkpoint=_checkpoint(trial),
        )
        made = (
            values(self.file.study.objectives, running.spec.run, running.history)
            if complete
            else None
        )
        if made is not None:
            for name, value in self._constraints(running, outcome, made).items():
                running.trial.set_constraint(name, value)
        self.leaderboard.end(record.end(running.trial, outcome, made, last))
        for watcher in self.watchers:
            watcher.trial_ended(running.spec.number, outcome)

    def _constraints(
        self, running: Running, outcome: Outcome, values: list[float]
    ) -> dict[str, float]:
        """What the study file says of a trial that is about to be complete."""
        if self.file.constraints is None:
            return {}
        frozen = self.study.get_trials(deepcopy=False)[running.spec.number]
        trial = dataclasses.replace(
            TrialRecord.of(frozen),
            state=TrialState.COMPLETE,
            values=values,
            ladder=list(outcome.ladder),
            seconds=running.history[-1].seconds,
            memory=running.history[-1].memory,
        )
        try:
            made = self.file.constrained(trial)
            for name, value in made.items():
                if math.isnan(value):
                    raise StudyFileError(
                        f"{self.file.path}: the constraint {name!r} is {value}: give a number"
                    )
            return made
        except StudyFileError as problem:
            self.problem = problem
            return {"the study file's constraints failed": 1.0}


def _checkpoint(trial: TuneTrial) -> Folder | None:
    """The last one that Tune knows of."""
    if trial.checkpoint is None:
        return None
    return place(trial.config) / Path(trial.checkpoint.path).name


def _of_store(trial: TuneTrial) -> StoreError | None:
    """What a trial's worker last failed for, if that is the store's fault.

    Taken from Tune's own folder: the copy in the store may be out of reach.
    """
    path = trial.pickled_error_file
    try:
        error = ray.cloudpickle.loads(Path(path).read_bytes()) if path else None
    except Exception:  # whatever a worker raises may fail to come back
        return None
    cause = getattr(error, "cause", error)
    return cause if isinstance(cause, StoreError) else None


def _error(trial: TuneTrial) -> str:
    """What Tune gave the trial up for, in one line.

    Taken from Tune's own folder and then forgotten by it: the copy in the store, which Tune would
    read at the end, is cut short if the store's disk is full.
    """
    kept, data = trial.error_file, trial.run_metadata
    data.error_filename = data.pickled_error_filename = None
    lines = Path(kept).read_text().splitlines() if kept else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "its worker died")


class Running:
    """A trial that runs: what it does, its entry in the study, what it reported."""

    def __init__(self, spec: TrialSpec, trial: optuna.Trial):
        self.spec, self.trial = spec, trial
        self.history: list[Progress] = []
        self.told = record.told(trial)
