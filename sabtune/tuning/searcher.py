"""Connect Optuna's study to Ray Tune.

`StudySearcher` suggests trials, and `StudyCallback` records their progress and their outcomes.

Both classes run in the driver, the only process that writes to the study. Ray Tune's own
OptunaSearch isn't used, because it marks trials as complete that the scheduler has stopped.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Sequence
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
from sabtune.storage.folder import Folder
from sabtune.study.attributes import ATTEMPTS, ENVIRONMENT, SPEC
from sabtune.study.checkpoints import Attempts, clear, directory, history
from sabtune.study.configurations import Leaderboard
from sabtune.study.events import Outcome, Watcher
from sabtune.study.objectives import values
from sabtune.study.recovery import entry
from sabtune.study.states import State
from sabtune.study.stopping import Stopping
from sabtune.study.study_file import REJECTED_IN_A_ROW, StudyFile
from sabtune.study.trial_specs import TrialSpecs
from sabtune.study.write_behind import MAX_DELAY_SECONDS
from sabtune.study.writer import StudyWriter
from sabtune.training.trial import Progress, TrialSpec
from sabtune.tuning import trainable
from sabtune.tuning.budget import Budget
from sabtune.tuning.release import release
from sabtune.tuning.trainable import WorkerResult, WorkerTask, place
from sabtune.wording import counted


class NotPickled:
    """A base class of objects that are pickled without their state.

    Ray Tune pickles its searcher and its callbacks, to restore a search from them. sabtune resumes
    a search from the study instead, whose database can't be pickled.
    """

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}


class StudySearcher(NotPickled, Searcher):
    """A Ray Tune searcher that suggests the trials of a study.

    It first suggests the trials that an earlier search left unfinished, which resume from their
    last checkpoints. Then it suggests the enqueued trials, and finally further seeds and new
    configurations.

    While a stopping rule is fulfilled, the searcher suggests only unfinished trials and repetitions
    of failed ones, and lets running trials end. If they change the judgment, it goes on; otherwise
    the search ends.

    specs: creates the specifications of trials. leaderboard: chooses the configurations that get
    further seeds. trials: the study's folder of checkpoints. budget: no trial is suggested once it
    is spent. identity: the study's identity, if checkpoints store the entries of their trials in
    the study; else "". queue: the numbers of the enqueued trials to run; None for all of them.
    most: the maximum number of trials; None for no limit. Trials that the space rejects count, and
    end as pruned before they start. watchers: notified when a trial ends before it starts.
    stopping: judges the stopping rules; None if there are none. say: called with a message for the
    user while trials run.

    When the space fails, or rejects REJECTED_IN_A_ROW configurations in a row, the searcher
    suggests no more trials and stores the error in `problem`.
    """

    def __init__(
        self,
        study: StudyWriter,
        specs: TrialSpecs,
        leaderboard: Leaderboard,
        trials: Folder,
        budget: Budget,
        identity: str = "",
        queue: Sequence[int] | None = None,
        *,
        most: int | None = None,
        watchers: Sequence[Watcher] = (),
        stopping: Stopping | None = None,
        say: Callable[[str], None] | None = None,
    ):
        super().__init__(metric="score", mode="max")
        self.study, self.specs, self.leaderboard = study, specs, leaderboard
        self.trials, self.budget, self.identity = trials, budget, identity
        self.attempts = Attempts(trials)
        record = study.read()
        self.unfinished = deque(record.running)
        self.waiting = deque(record.waiting if queue is None else queue)
        self.stopping = stopping or Stopping((), 0, leaderboard)
        self.say, self.is_stopping = say or (lambda words: None), False
        self.repetitions = set(record.waiting_repetitions)
        self.live: set[str] = set()  # Ray Tune's IDs of suggested trials that haven't ended
        self.problem: StudyFileError | None = None
        self.remaining, self.watchers = math.inf if most is None else most, watchers
        self.rejected_in_a_row = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the `config` of the next trial, or `FINISHED` if there is none.

        Returns None while a stopping rule is fulfilled but trials run that may change this.
        """
        while self.problem is None and not self.budget.spent and self.remaining > 0:
            if self._is_stopped():
                return None if self.live else Searcher.FINISHED
            self.remaining -= 1
            trial, resumed = self._next()
            is_counted = SPEC in trial.user_attrs  # the leaderboard already counts it
            try:
                spec = self.specs.spec(trial)
            except RejectedError as problem:
                self._reject(trial, problem)
            except StudyFileError as problem:
                self.problem = problem
                self._end_unstarted(trial, "FAIL", problem)
            else:
                self.rejected_in_a_row = 0
                if not is_counted:
                    self.leaderboard.start(spec.configuration)
                config = self._config(trial, spec, resumed=resumed)
                self.study.flush()  # the study has the trial before its worker does
                self.live.add(trial_id)
                return config
        return Searcher.FINISHED

    def _is_stopped(self) -> bool:
        """Return whether a stopping rule is fulfilled and nothing has to run in spite of it."""
        reason = self.stopping.reason
        running = len(self.live) + len(self.unfinished)
        if reason and not self.is_stopping and running:
            trials = counted(running, "trial")
            self.say(f"No new configurations: {reason}. {trials} will end first.")
        elif self.is_stopping and not reason:
            self.say("The search goes on: a trial that ran was an improvement.")
        self.is_stopping = bool(reason)
        return self.is_stopping and not self.unfinished and self._due_repetition() is None

    def _due_repetition(self) -> int | None:
        """Return the number of the next waiting trial that repeats a failed one, or None."""
        return next((number for number in self.waiting if number in self.repetitions), None)

    def _reject(self, trial: optuna.Trial, problem: RejectedError) -> None:
        """Prune a trial that the space rejects, and end the search after too many in a row."""
        self._end_unstarted(trial, "PRUNED", problem)
        self.rejected_in_a_row += 1
        if self.rejected_in_a_row == REJECTED_IN_A_ROW:
            self.problem = StudyFileError(
                f"{problem}; {self.rejected_in_a_row} trials in a row ended this way: "
                "narrow the ranges to what the space accepts"
            )

    def _end_unstarted(self, trial: optuna.Trial, state: State, problem: StudyFileError) -> None:
        outcome = Outcome(state=state, reason=str(problem))
        self.study.end(trial, outcome)
        for watcher in self.watchers:
            watcher.trial_ended(trial.number, outcome)

    def _config(self, trial: optuna.Trial, spec: TrialSpec, *, resumed: bool) -> dict[str, Any]:
        """Return a trial's `WorkerTask` as the `config` of a Ray Tune trial."""
        attempt, earlier = self.attempts.next(trial.number), list[Folder]()
        if resumed:
            attempt = max(attempt, trial.user_attrs.get(ATTEMPTS, 0) + 1)
            trial.set_user_attr(ATTEMPTS, attempt)
            earlier = self.attempts.checkpoints(trial.number)
        return WorkerTask(
            spec=spec,
            directory=directory(trial.number, attempt),
            trials=str(self.trials),
            checkpoints=tuple(map(str, earlier)),
            save_every=trainable.SAVE_SECONDS,
            entry=entry(trial, self.identity) if self.identity else "",
            code=str(self.specs.code),
        ).to_config()

    def _next(self) -> tuple[optuna.Trial, bool]:
        """Return the next trial, and whether it is resumed from an earlier search."""
        if self.unfinished:
            return self.study.reopen(self.unfinished.popleft()), True
        if self.waiting:
            repetition = self._due_repetition() if self.is_stopping else None
            number = self.waiting[0] if repetition is None else repetition
            self.waiting.remove(number)
            return self.study.begin(number), False
        promising = self.leaderboard.next()
        if promising is not None:
            return self.specs.another_seed(self.study, promising), False
        return self.study.optuna.ask(), False

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Note that a trial no longer runs. `StudyCallback` records its end, with the reason."""
        self.live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study's database holds the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study's database holds the state."""


class StudyCallback(NotPickled, tune.Callback):
    """A Ray Tune callback that writes the progress and the outcomes of trials to the study.

    It notifies the watchers after each write. Trials that run when a search is interrupted stay
    running in the study, and the next search resumes them.
    """

    def __init__(
        self,
        study: StudyWriter,
        leaderboard: Leaderboard,
        budget: Budget,
        file: StudyFile,
        watchers: Sequence[Watcher],
    ):
        self.study, self.leaderboard, self.budget = study, leaderboard, budget
        self.file, self.watchers = file, watchers
        self.running: dict[int, Running] = {}  # by the trial's number
        self.ended: list[TuneTrial] = []  # trials whose memory isn't released yet
        self.problem: SabtuneError | None = None  # a problem of the constraints or of the store
        self.cleaner = ThreadPoolExecutor(1, "cleaner")  # deletes files in an object store

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Notify the watchers, and record progress that an interrupted search did not record."""
        worker_task = WorkerTask.from_config(trial.config)
        if worker_task.spec.number in self.running:
            return  # restarted after its worker died
        running = self._start(worker_task.spec)
        for progress in history(map(Folder, worker_task.checkpoints), worker_task.spec):
            self._report(running, progress)

    def _start(self, spec: TrialSpec) -> Running:
        """Add a trial to the running trials, notify the watchers, and return it."""
        trial = self.study.reopen(spec.number)
        running = Running(spec, trial, self.study.last_step(trial))
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
        """Record a worker's result: its hardware, damaged checkpoints, seconds and progress."""
        worker_result = WorkerResult.from_result(result)
        running = self.running[trial.config["assignment"]["number"]]
        if worker_result.hardware is not None:
            environment = running.trial.user_attrs.get(ENVIRONMENT, {})
            running.trial.set_user_attr(
                ENVIRONMENT, environment | {"hardware": worker_result.hardware}
            )
        for words in worker_result.passed_over:
            for watcher in self.watchers:
                watcher.trial_noted(running.spec.number, words)
        if not worker_result.failed:
            self.budget.count(running.spec.number, worker_result.seconds)
        if worker_result.progress is not None:
            self._report(running, worker_result.progress)

    def _report(self, running: Running, progress: Progress) -> None:
        """Record progress, unless the trial has already made it.

        If a worker dies before it saves a checkpoint, the next worker yields the same progress
        again.
        """
        if running.history and progress.report.step <= running.history[-1].report.step:
            return
        running.history.append(progress)
        if progress.report.step > running.recorded_step:
            self.study.report(running.trial, progress)
        for watcher in self.watchers:
            watcher.trial_reported(running.spec.number, progress)

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Write scores that have waited long enough, and release the memory of ended trials."""
        self.study.flush(after=MAX_DELAY_SECONDS)
        for trial in self.ended:
            release(trial)
        self.ended.clear()

    def on_checkpoint(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        checkpoint: tune.Checkpoint,
        **info: Any,
    ) -> None:
        """Delete all but the last two checkpoints of an attempt, and reset its count of failures.

        Ray Tune's own `num_to_keep` isn't used, because it rewrites the state of every trial for
        each checkpoint.
        """
        trial.run_metadata.num_failures = 0
        newest = (checkpoint, trial.checkpoint)
        names = [Path(each.path).name for each in newest if each is not None]
        attempt = place(trial.config)
        if attempt.path is not None:
            clear(attempt, names)
        else:
            self.cleaner.submit(clear, attempt, names)

    def close(self) -> None:
        """Wait until the old checkpoints are deleted."""
        self.cleaner.shutdown()

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Record the end of a trial: complete, failed or pruned.

        A trial that stops because the budget is spent stays running in the study.
        """
        running = self.running[trial.config["assignment"]["number"]]
        last = trial.last_result or {}
        if last.get("failed"):
            self._end(trial, running, "FAIL", last["failed"])
        elif running.history and running.history[-1].finished:
            self._end(trial, running, "COMPLETE", "")
        elif self.budget.spent:
            return  # the next search resumes it
        elif running.history:
            progress = running.history[-1]
            reason = f"score {progress.score:.3f} at {counted(progress.report.step, 'update')}"
            if self.file.study.pruning is not None:
                reason += f", not of the best 1/{self.file.study.pruning.reduction:g}"
            self._end(trial, running, "PRUNED", reason)

    def on_trial_recover(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """End the search if the store refuses access to a worker: a retry would fail too."""
        problem = _store_error(trial)
        if isinstance(problem, RefusedError):
            self._give_up(problem)

    def _give_up(self, problem: StoreError) -> None:
        """End the search because the store has a problem; the next search resumes the trials."""
        self.problem = self.problem or problem
        self.budget.stop()

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Record a failed trial, or end the search if the store is at fault."""
        problem = _store_error(trial)
        if problem is not None:  # the next search resumes the trial
            self._give_up(problem)
            return
        number = trial.config["assignment"]["number"]
        running = self.running.get(number) or self._start(
            TrialSpec.from_dict(trial.config["assignment"])
        )
        self._end(trial, running, "FAIL", _error(trial))

    def _end(self, trial: TuneTrial, running: Running, state: State, reason: str) -> None:
        """Record the outcome of a trial, and notify the watchers."""
        del self.running[running.spec.number]
        self.ended.append(trial)
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
        objectives = (
            values(self.file.study.objectives, running.spec.run, running.history)
            if complete
            else None
        )
        if objectives is not None:
            for name, value in self._constraints(running, outcome, objectives).items():
                running.trial.set_constraint(name, value)
        self.leaderboard.end(self.study.end(running.trial, outcome, objectives, last))
        for watcher in self.watchers:
            watcher.trial_ended(running.spec.number, outcome)

    def _constraints(
        self, running: Running, outcome: Outcome, values: list[float]
    ) -> dict[str, float]:
        """Return the values of the study file's constraints for a trial that is about to complete.

        An error of the study file is stored in `problem`, and the trial counts as infeasible.
        """
        if self.file.constraints is None:
            return {}
        trial = dataclasses.replace(
            self.study.read().trial(running.spec.number),
            state=TrialState.COMPLETE,
            values=values,
            ladder=list(outcome.ladder),
            seconds=running.history[-1].seconds,
            memory=running.history[-1].memory,
            parameters=running.history[-1].parameters,
            multiply_adds=running.history[-1].multiply_adds,
        )
        try:
            constraints = self.file.constrained(trial)
            for name, value in constraints.items():
                if math.isnan(value):
                    raise StudyFileError(
                        f"{self.file.path}: the constraint {name!r} is {value}: give a number"
                    )
            return constraints
        except StudyFileError as problem:
            self.problem = problem
            return {"the study file's constraints failed": 1.0}


def _checkpoint(trial: TuneTrial) -> Folder | None:
    """Return the last checkpoint of a trial that Ray Tune received, or None."""
    if trial.checkpoint is None:
        return None
    return place(trial.config) / Path(trial.checkpoint.path).name


def _store_error(trial: TuneTrial) -> StoreError | None:
    """Return the last error of a trial's worker if the store is at fault, else None.

    The error is read from Ray Tune's local folder, because the store may be out of reach.
    """
    path = trial.pickled_error_file
    try:
        error = ray.cloudpickle.loads(Path(path).read_bytes()) if path else None
    except Exception:  # unpickling may fail with any exception
        return None
    cause = getattr(error, "cause", error)
    return cause if isinstance(cause, StoreError) else None


def _error(trial: TuneTrial) -> str:
    """Return why Ray Tune gave up a trial, in one line, and clear the error in Ray Tune.

    The error is read from Ray Tune's local folder. It is cleared because Ray Tune would read the
    copy in the store when it ends, and that copy is incomplete if the store's disk is full.
    """
    path, metadata = trial.error_file, trial.run_metadata
    metadata.error_filename = metadata.pickled_error_filename = None
    lines = Path(path).read_text().splitlines() if path else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "its worker died")


class Running:
    """A running trial: its spec, its entry in the study, and its progress.

    recorded_step: the number of updates at the last progress that an earlier search recorded.
    """

    def __init__(self, spec: TrialSpec, trial: optuna.Trial, recorded_step: int):
        self.spec, self.trial, self.recorded_step = spec, trial, recorded_step
        self.history: list[Progress] = []
