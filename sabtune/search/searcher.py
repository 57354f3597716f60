"""Optuna's study and Ray Tune: `Asker` hands trials out, `Teller` takes down what became of them.

Both run in the driver, which alone writes to the study. Tune's own OptunaSearch isn't used: it
tells Optuna that a trial which the scheduler stopped is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import TrialState
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from sabtune.config import RunConfig
from sabtune.errors import StudyFileError
from sabtune.search import record
from sabtune.search.study import StudyFile
from sabtune.search.trainable import Assignment, Progress
from sabtune.watcher import Outcome, State, Watcher

LOST = "lost: the search that ran it ended before it did"
INTERRUPTED = "interrupted: the search was stopped"


class _Stays:
    """Pickles as nothing. Tune writes its searcher and callbacks beside its own state, to restore a
    search from; ours is gone on with from the study instead, and its database can't be pickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Asker(_Stays, Searcher):
    """Asks the study for a trial's parameters and turns them into what a worker is given.

    Once the space has raised, no more trials are handed out and `problem` says what it was.
    """

    def __init__(self, file: StudyFile, study: optuna.Study):
        super().__init__(metric="score", mode="max")
        self.file = file
        self.optuna_study = study
        self.problem: StudyFileError | None = None
        self.handed_out = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        if self.problem is not None:
            return Searcher.FINISHED
        study = self.file.study
        trial = self.optuna_study.ask()
        try:
            config = self.file.config(trial)
        except StudyFileError as problem:
            self.problem = problem
            trial.set_user_attr(record.REASON, str(problem))
            self.optuna_study.tell(trial, state=TrialState.FAIL)
            return Searcher.FINISHED
        run = RunConfig(task=study.task, trial=config, seed=trial_seed(study.seed, trial.number))
        trial.set_user_attr(record.RUN, run.to_dict())
        self.handed_out += 1
        return Assignment(
            number=trial.number,
            run=run,
            ladder=study.ladder,
            evaluation_seed=study.seed,
            threads=study.resources.cpus,
        ).to_dict()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: `Teller` has the trial at hand, and with it the reason."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study in its database is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""


class Teller(_Stays, tune.Callback):
    """Writes each report and each end of a trial to the study, then tells the watchers."""

    def __init__(self, study: optuna.Study, watchers: Sequence[Watcher]):
        self.optuna_study = study
        self.watchers = watchers
        self.started: dict[str, optuna.Trial] = {}  # by Tune's trial id
        self.reported: dict[str, int] = {}  # the last step that each has reported

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        if trial.trial_id in self.started:
            return  # taken up again after its worker died
        assignment = Assignment.from_dict(trial.config)
        self.started[trial.trial_id] = _reopen(self.optuna_study, assignment.number)
        for watcher in self.watchers:
            watcher.trial_started(assignment.number, assignment.run)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        progress = Progress.from_result(result)
        if progress.report is None or progress.report.step <= self.reported.get(trial.trial_id, 0):
            return  # it failed, or its worker died after this report and before its checkpoint
        self.reported[trial.trial_id] = progress.report.step
        open_trial = self.started[trial.trial_id]
        open_trial.report(progress.score, progress.report.step)
        for watcher in self.watchers:
            watcher.trial_reported(
                open_trial.number, progress.report, progress.ladder, progress.score
            )

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        progress = Progress.from_result(trial.last_result)
        if progress.failed:
            self._end(trial, "FAIL", progress, progress.failed)
        elif progress.finished:
            self._end(trial, "COMPLETE", progress, "")
        else:
            step = progress.report.step if progress.report else 0
            self._end(trial, "PRUNED", progress, f"score {progress.score:.3f} at {step} updates")

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        error = trial.get_error()
        text = str(error).strip().splitlines()[-1] if error else "its worker died"
        self._end(trial, "FAIL", None, text)

    def close_running(self, reason: str) -> bool:
        """Ends what the study holds as running while no Tune runs; True if there was anything."""
        running = self.optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for frozen in running:
            self._tell(_reopen(self.optuna_study, frozen.number), "FAIL", None, reason)
        self.started.clear()
        return bool(running)

    def _end(self, trial: TuneTrial, state: State, progress: Progress | None, reason: str) -> None:
        open_trial = self.started.pop(trial.trial_id, None)
        if open_trial is None:  # it failed before it started
            open_trial = _reopen(self.optuna_study, Assignment.from_dict(trial.config).number)
        if trial.checkpoint is not None:
            open_trial.set_user_attr(record.CHECKPOINT, trial.checkpoint.path)
        self._tell(open_trial, state, progress, reason)

    def _tell(
        self, trial: optuna.Trial, state: State, progress: Progress | None, reason: str
    ) -> None:
        outcome = Outcome(
            state=state,
            score=progress.score if progress and state == "COMPLETE" else None,
            reason=reason,
            ladder=progress.ladder if progress else (),
            test=progress.test if progress else (),
        )
        trial.set_user_attr(record.LADDER, record.plain(outcome.ladder))
        trial.set_user_attr(record.TEST, record.plain(outcome.test))
        trial.set_user_attr(record.REASON, reason)
        self.optuna_study.tell(trial, outcome.score, state=TrialState[state])
        for watcher in self.watchers:
            watcher.trial_ended(trial.number, outcome)


def trial_seed(study_seed: int, number: int) -> int:
    """The seed of trial `number`: another for each trial, the same whenever it is run again."""
    return study_seed * 1_000_003 + number


def _reopen(study: optuna.Study, number: int) -> optuna.Trial:
    frozen = study.get_trials(deepcopy=False)[number]
    return optuna.Trial(study, frozen._trial_id)
