"""Run a search of a study file, and record it as an Optuna study in a store."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from optuna.trial import TrialState
from ray import tune

from sabtune import interrupts
from sabtune.cluster.ray_session import check_shared, some_ray
from sabtune.cluster.ray_watch import RayLostError
from sabtune.errors import StoreError
from sabtune.ops.call import forced_backend
from sabtune.parts import local
from sabtune.storage import server
from sabtune.storage.store import Store
from sabtune.study.backups import restore, snapshots
from sabtune.study.cautions import cautions
from sabtune.study.configurations import Leaderboard
from sabtune.study.database_lock import DatabaseLock
from sabtune.study.definition import study_to_dict
from sabtune.study.events import Watcher
from sabtune.study.locks import locked
from sabtune.study.objectives import directions
from sabtune.study.parameters import branches
from sabtune.study.plan import Plan
from sabtune.study.record import StudyRecord
from sabtune.study.recovery import recover
from sabtune.study.resuming import check_same_data, check_same_question, with_recorded_ladder
from sabtune.study.samplers import sampler
from sabtune.study.stopping import Stopping
from sabtune.study.study_file import StudyFile
from sabtune.study.trial_specs import TrialSpecs
from sabtune.study.writer import StudyWriter
from sabtune.tracking.mirror import Mirror, made_whole
from sabtune.tuning.asha import Halving, Scheduler
from sabtune.tuning.budget import Budget
from sabtune.tuning.guard import Guard
from sabtune.tuning.placement import Placement, placed
from sabtune.tuning.searcher import StudyCallback, StudySearcher
from sabtune.tuning.trainable import Trial
from sabtune.wording import counted

WORKER_DEATHS = 3
"""The maximum number of times that a trial restarts from the same checkpoint when workers die."""

FIRST_STEP, LAST_STEP = "Opening the study and its data", "Writing the rest to MLflow"

Say = Callable[[str], None]


def silent(words: str) -> None:
    """Print nothing."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The result of a search.

    complete: whether all trials have ended. stopped: the stopping rule that made the study complete
    before its number of trials, in words; else "". out_of_budget: whether the budget was spent.
    behind: why MLflow lacks a part of the study; "" if it lacks nothing. lost: how Ray failed, if
    this ended the search; else "".
    """

    complete: bool
    stopped: str = ""
    out_of_budget: bool = False
    behind: str = ""
    lost: str = ""


@dataclass(frozen=True, kw_only=True)
class EnqueuedTrials:
    """Trials of a study that were enqueued earlier, and the source of their specifications.

    numbers: the trials' numbers, in the order in which they run. specs: creates the specifications.
    """

    numbers: Sequence[int]
    specs: TrialSpecs


def search(
    file: StudyFile,
    store: Store,
    watchers: Sequence[Watcher] = (),
    *,
    budget: Budget | None = None,
    retry_failed: bool = False,
    warm_start: str | None = None,
    accept_changed_code: bool = False,
    system_metrics: bool = False,
    say: Say = silent,
    step: Say = silent,
) -> Ending:
    """Search until all trials of the study have ended, a rule stops it, or the budget is spent.

    If the study exists, the search resumes it: trials that an earlier search left unfinished run
    first, from their last checkpoints and under their own numbers. The models of complete trials
    are stored in MLflow, and the best model is registered.

    watchers: notified when trials start, progress and end. budget: the time limits; None for no
    limit. retry_failed: whether to run failed trials again, from their start and under new numbers.
    warm_start: the name of a study in the store whose best configurations are tried first.
    accept_changed_code: whether to resume even if the code of own tasks, models or schedules has
    changed. system_metrics: whether to log the machine's metrics to MLflow. say: called with each
    message for the user, such as a warning or a description of the cluster. step: called when a
    step begins that may take seconds, such as starting Ray, with its words, and with "" at its end.

    Raises ConfigError if SABTUNE_BACKEND names no backend, StudyFileError if the space fails,
    ResourceError if no trial can ever be placed, StoreError if another search is writing to the
    study or if the study asks another question (see `check_same_question`), DataError if the task's
    data is missing, TrackingError if another version wrote the store's MLflow, and ClusterError if
    the cluster refuses access or can't read the store's files.
    """
    step(FIRST_STEP)
    with locked(file.study.name, store) as lock:
        restore(store)
        stored, wanted = StudyRecord.find(store, file.study.name), file.study.ladder.phase_count
        file = checked(file, stored, accept_changed_code=accept_changed_code)
        if warm_start is not None:
            check_warm_start(warm_start, store)
        if (phases := file.study.ladder.phase_count) < wanted:
            say(
                f"The study measures each length over {counted(phases, 'phase')}, as at its start, "
                f"but its k_att goes up to {wanted}: start a new study with --new to measure every "
                "phase"
            )
        for warning in cautions(file):
            say(warning)
        study = open_or_create(file, store)
        for point in file.study.points:
            study.enqueue_point(point)
        if warm_start is not None:
            enqueue_best(study, StudyRecord.open(store, warm_start), file, say)
        if retry_failed:
            enqueue_failed(study)
        return execute(
            study,
            file,
            store,
            watchers,
            budget=budget,
            trials=file.study.trials,
            system_metrics=system_metrics,
            lock=lock,
            say=say,
            step=step,
        )


def execute(
    study: StudyWriter,
    file: StudyFile,
    store: Store,
    watchers: Sequence[Watcher],
    *,
    trials: int,
    enqueued: EnqueuedTrials | None = None,
    budget: Budget | None = None,
    system_metrics: bool = False,
    lock: DatabaseLock | None = None,
    say: Say = silent,
    step: Say = silent,
) -> Ending:
    """Run trials of an open, locked study until `trials` of its trials have ended.

    trials: the number of ended trials to reach, including those of earlier searches. enqueued: the
    enqueued trials to run, whatever the stopping rules of the study are; None for all enqueued
    trials, and further ones until a rule is fulfilled. lock: the study's lock in a shared database,
    which the search claims and checks. The other parameters, and the errors, are those of `search`.
    """
    earlier = study.read()
    missing = trials - earlier.ended
    leaderboard = Leaderboard(file.study.seeds).add(earlier.trials)
    rules = () if enqueued else file.study.rules
    stopping = Stopping(rules, file.study.random_trials, leaderboard)
    if missing <= 0 or (stopping.reason and not earlier.running + earlier.waiting_repetitions):
        stopped = "" if missing <= 0 else _record_stop(study, stopping)
        step(LAST_STEP)
        return Ending(complete=True, stopped=stopped, behind=made_whole(study, store))
    task = file.study.task.build()
    task.prepare(file.study.ladder.lengths)
    check_same_data(earlier, file.study.task)
    study.change_plan(datasets=dict(task.datasets()))
    budget = budget or Budget()
    if lock is not None:
        lock.claim(study, budget.stop)
    _resume_budget(budget, study, earlier)
    mirror = Mirror(study, store, system_metrics=system_metrics)
    scheduler = Scheduler(_resumed_halving(file, earlier))
    guard = Guard(budget.stop)
    with study.buffered(), snapshots(store, budget.stop) as copiers, guard.until_closed():
        notified: list[Watcher] = [mirror, *copiers, *watchers]
        searcher = StudySearcher(
            study,
            enqueued.specs if enqueued else TrialSpecs(file, earlier.trials, store.code),
            leaderboard,
            store.trials / study.name,
            budget,
            study.identity() if store.snapshots else "",
            enqueued.numbers if enqueued else None,
            most=missing,
            watchers=notified,
            stopping=stopping,
            say=say,
        )
        callback = StudyCallback(study, leaderboard, budget, file, notified)
        parts = _TuneParts(
            guard=guard,
            searcher=searcher,
            callback=callback,
            scheduler=scheduler,
            budget=budget,
            trials=missing,
        )
        lost = _run_on_ray(parts, file, store, say, step)
        step(LAST_STEP)
        callback.close()
        if lock is not None:
            server.retried(lock.check)
        if isinstance(callback.problem, StoreError):
            raise callback.problem
        problem = searcher.problem or callback.problem
        record, stopped = study.read(), ""
        complete = record.ended >= trials
        if problem is None and not complete and not record.running:
            stopped = _record_stop(study, stopping)
            complete = bool(stopped)
        behind = mirror.finish(complete)
    if problem is not None:
        raise problem
    return Ending(
        complete=complete, stopped=stopped, out_of_budget=budget.spent, behind=behind, lost=lost
    )


def _record_stop(study: StudyWriter, stopping: Stopping) -> str:
    """Store in the study which stopping rule is fulfilled, and return it in words; "" if none."""
    label, reason = stopping.fulfilled
    if reason:
        study.change_plan(stopped={"label": label, "reason": reason})
    return reason


def _resume_budget(budget: Budget, study: StudyWriter, earlier: StudyRecord) -> None:
    """Exclude the seconds of earlier searches from a budget, and store its limits in the study."""
    for trial in earlier.trials:
        budget.resume(trial.number, trial.seconds)
    limits = {"hours": budget.hours, "gpu_hours": budget.gpu_hours}
    set_limits = {name: limit for name, limit in limits.items() if limit is not None}
    study.change_plan(**set_limits)


def _resumed_halving(file: StudyFile, earlier: StudyRecord) -> Halving | None:
    """Return ASHA with the scores of earlier searches, or None if the study prunes no trials."""
    if not file.study.pruning:
        return None
    halving = Halving(file.study.pruning)
    for trial in earlier.counted:
        complete = trial.state == TrialState.COMPLETE
        halving.remember(trial.number, trial.scores, complete=complete)
    return halving


@dataclass(frozen=True, kw_only=True)
class _TuneParts:
    """The parts of a search that Ray Tune calls, and the number of trials that it runs."""

    guard: Guard
    searcher: StudySearcher
    callback: StudyCallback
    scheduler: Scheduler
    budget: Budget
    trials: int


def _run_on_ray(parts: _TuneParts, file: StudyFile, store: Store, say: Say, step: Say) -> str:
    """Start Ray or connect to it, run the trials, and disconnect.

    Returns how Ray failed, if this ended the search, and else "". A failure after a signal doesn't
    count, because the signal may have ended Ray, too.
    """
    study, budget = parts.searcher.study, parts.budget
    try:
        with some_ray(store.ray_log(study.name), step) as cluster:
            if cluster:
                say(cluster)
            placement = placed(file, study, step=step)
            if placement.words:
                say(placement.words)
            if cluster and store.trials.path:
                check_shared(store.trials.path)
            budget.gpus = placement.gpus
            budget.start()
            step("Starting the workers")
            with ended_by_signals():
                _tuner(parts, placement, store).fit()
            step("Ending Ray")
    except RayLostError as loss:
        interrupts.abandon()
        if interrupts.received() is None:
            return str(loss)
    return ""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End Ray Tune cleanly if a signal arrives in the block, and leave its trials unfinished.

    The first signal calls Ray Tune's own handler for SIGUSR1, which does this. Ray Tune's handler
    for SIGINT is turned off.
    """
    before = signal.getsignal(signal.SIGUSR1)

    def stop() -> bool:
        tune_handler = signal.getsignal(signal.SIGUSR1)
        if tune_handler is before or not callable(tune_handler):
            return False
        tune_handler(signal.SIGUSR1, None)
        return True

    try:
        with interrupts.ending_cleanly(stop):
            yield
    finally:
        if signal.getsignal(signal.SIGUSR1) is not before:
            signal.signal(signal.SIGUSR1, before)


def open_or_create(file: StudyFile, store: Store) -> StudyWriter:
    """Open the study in the store's database, or create it, and store the plan of the study file.

    Trials that started after the backup that the study was restored from are recovered.
    """
    study = StudyWriter.create(store, file.study.name, directions(file.study.objectives))
    if store.snapshots:
        recover(study, store.trials / study.name)
    earlier = study.read()
    count = len(earlier.frozen)  # so that a resumed search draws new samples
    study.optuna.sampler = sampler(file, count)
    local.write_bundles(file.own_code.values(), store.code)
    study.set_plan(
        Plan(
            question=file.question,
            study=study_to_dict(file.study),
            objectives=file.study.objectives,
            seeds=asdict(file.study.seeds),
            searched=file.study.ladder.select,
            file=str(file.path.resolve()) if file.in_file else "",
            source=file.source,
            code=file.own_code,
            baseline=file.baseline,
            placement=earlier.plan.placement,
            placed=earlier.plan.placed,
            comparison=earlier.plan.comparison,
            datasets=earlier.plan.datasets,
        )
    )
    return study


def enqueue_failed(study: StudyWriter) -> None:
    """Enqueue each failed trial once more, with its own seed."""
    for trial in study.read().failed:
        assert trial.run is not None
        study.enqueue(
            trial.run, params=trial.params or None, label=trial.label, retry_of=trial.number
        )


WARM_START_CONFIGURATIONS = 5
"""The number of configurations that a warm start takes from another study."""


def checked(
    file: StudyFile, stored: StudyRecord | None, *, accept_changed_code: bool = False
) -> StudyFile:
    """Return a study file with the ladder of the stored study of its name, after checking it.

    Raises ConfigError if SABTUNE_BACKEND names no backend, and StoreError if the stored study asks
    another question. Raises StudyFileError if the space fails, or if it gives a parameter a range
    that is incompatible with that of a stored trial.
    """
    forced_backend()  # raises for an unknown name, before any trial does
    file = with_recorded_ladder(file, stored)
    if stored is not None:
        check_same_question(file, stored, accept_changed_code=accept_changed_code)
        file.try_space(branches(stored.frozen))
    return file


def check_warm_start(name: str, store: Store) -> None:
    """Raise StoreError if the store has no study of this name."""
    if store.found:
        StudyRecord.open(store, name)
    else:
        raise StoreError(
            f"there is no study {name!r} to start from, because there is no store at "
            f"{store.shown}: give its folder with --store"
        )


def enqueue_best(
    study: StudyWriter, earlier: StudyRecord, file: StudyFile | None = None, say: Say = silent
) -> None:
    """Enqueue the parameters of the best configurations of `earlier`, unless they were tried.

    Configurations outside the space of `file` are left out, with a message to `say`.
    """
    for configuration in earlier.ranked[:WARM_START_CONFIGURATIONS]:
        point = configuration.best.params
        reason = file.unfit(point) if file else ""
        if reason:
            say(f"Trial {configuration.best.number} of {earlier.name} is left out: {reason}")
        else:
            study.enqueue_point(point)


def _tuner(parts: _TuneParts, placement: Placement, store: Store) -> tune.Tuner:
    """Return a Ray Tune tuner that runs the trials that the searcher suggests."""
    guard = parts.guard
    system, path = store.trials.storage()
    return tune.Tuner(
        tune.with_resources(Trial, {"cpu": placement.cpus, "gpu": placement.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=guard.over(parts.searcher),
            scheduler=guard.over(parts.scheduler),
            num_samples=parts.trials,
            max_concurrent_trials=placement.at_once,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.config["directory"],
        ),
        run_config=tune.RunConfig(
            name=parts.searcher.trials.name,
            storage_path=path,
            storage_filesystem=None if store.trials.path else system,
            callbacks=[guard.over(parts.callback)],
            stop=guard.over(parts.budget),
            failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            progress_reporter=tune.CLIReporter(),  # Tune's own for notebooks clears the output
            verbose=0,
        ),
    )
