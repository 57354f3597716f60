"""A search from end to end: a study file and a store in, an Optuna study out."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import optuna
from optuna.trial import TrialState
from ray import tune

from sabtune import interrupts
from sabtune.cluster.ray_session import check_shared, some_ray
from sabtune.cluster.ray_watch import RayLostError
from sabtune.config import PARTS
from sabtune.errors import StoreError
from sabtune.schema import to_dict
from sabtune.search.asha import Halving, Scheduler
from sabtune.search.budget import Budget
from sabtune.search.guard import Guard
from sabtune.search.placement import Placement, placed
from sabtune.search.searcher import StudyCallback, StudySearcher
from sabtune.search.trainable import Trial
from sabtune.storage import server
from sabtune.storage.store import Store
from sabtune.study import record
from sabtune.study.backups import restore, snapshots
from sabtune.study.cautions import cautions
from sabtune.study.configurations import Leaderboard
from sabtune.study.database_lock import DatabaseLock
from sabtune.study.definition import StudyFile
from sabtune.study.events import Watcher
from sabtune.study.locks import locked
from sabtune.study.objectives import directions
from sabtune.study.parameters import branches
from sabtune.study.record import TrialRecord
from sabtune.study.recovery import identity, recover
from sabtune.study.resuming import check_same_question, with_recorded_ladder
from sabtune.study.samplers import sampler
from sabtune.study.trial_specs import TrialSpecs
from sabtune.tracking.mirror import Mirror, made_whole
from sabtune.wording import counted

WORKER_DEATHS = 3
"""How often a trial is taken up again from one and the same checkpoint after its worker died."""


Say = Callable[[str], None]


def silent(words: str) -> None:
    """Says nothing."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a search ended. `behind`: why MLflow doesn't hold everything; "" if it does. `lost`: what
    became of Ray, if that ended the search."""

    complete: bool
    out_of_budget: bool = False
    behind: str = ""
    lost: str = ""


def search(
    file: StudyFile,
    store: Store,
    watchers: Sequence[Watcher] = (),
    *,
    budget: Budget | None = None,
    retry_failed: bool = False,
    warm_start: str | None = None,
    system_metrics: bool = False,
    say: Say = silent,
) -> Ending:
    """Searches until the study's trials have ended, or the budget has.

    A study that the store knows is gone on with: trials that an earlier search left unfinished
    come first, from their last checkpoints and under their own numbers. retry_failed: failed
    trials are run again, from their start and under new numbers. warm_start: a study of the store
    whose best points are tried first. system_metrics: MLflow shows what the machine does. The
    models of complete trials are kept in MLflow, the best is registered. say: is told, a line each,
    which cluster it runs on, if it does on one, and what each trial is given, where that isn't
    plain. Raises StudyFileError if the space fails, ResourceError if no trial can ever be placed,
    StoreError if another search is writing to the study or if the study asks something else (see
    `check_same_question`), DataError if the task's data isn't there, ClusterError if the cluster
    doesn't let us in or doesn't see the store's files.
    """
    with locked(file.study.name, store) as lock:
        restore(store)
        wanted, file = file.study.ladder.phases or 1, with_recorded_ladder(file, store)
        check_resumable(file, store)
        if (phases := file.study.ladder.phases or 1) < wanted:
            say(
                f"The study measures each length over {counted(phases, 'phase')}, as it began, and "
                f"its k_att goes up to {wanted}: start another with --new to measure every phase"
            )
        for line in cautions(file):
            say(line)
        study = open_or_create(file, store)
        for point in file.study.points:
            study.enqueue_trial(dict(point), skip_if_exists=True)
        if warm_start is not None:
            enqueue_best(study, record.open_study(store, warm_start), file, say)
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
        )


def execute(
    study: optuna.Study,
    file: StudyFile,
    store: Store,
    watchers: Sequence[Watcher],
    *,
    trials: int,
    queue: Sequence[int] | None = None,
    budget: Budget | None = None,
    specs: TrialSpecs | None = None,
    system_metrics: bool = False,
    lock: DatabaseLock | None = None,
    say: Say = silent,
) -> Ending:
    """Runs trials of an open, locked study until `trials` of them have ended in all. queue: of
    `StudySearcher`. lock: the study's in a shared database, to be looked after.
    """
    missing = trials - record.ended(study)
    if missing <= 0:
        return Ending(complete=True, behind=made_whole(study, store))
    file.study.task.build().prepare(file.study.ladder.lengths)
    known = record.records(study)
    budget = budget or Budget()
    if lock is not None:
        lock.claim(study, budget.stop)
    for trial in known:
        budget.known(trial.number, trial.seconds)
    bounds = {"hours": budget.hours, "gpu_hours": budget.gpu_hours}
    set_bounds = {name: bound for name, bound in bounds.items() if bound is not None}
    record.set_plan(study, {**record.plan(study), **set_bounds})
    leaderboard = Leaderboard(file.study.seeds).add(known)
    mirror = Mirror(study, store, system_metrics=system_metrics)
    halving = Halving(file.study.pruning) if file.study.pruning else None
    if halving:
        for trial in record.counted(known):
            complete = trial.state == TrialState.COMPLETE
            halving.remember(trial.number, trial.scores, complete=complete)
    guard = Guard(budget.stop)
    with snapshots(store, budget.stop) as copying, guard.until_closed():
        told: list[Watcher] = [mirror, *copying, *watchers]
        searcher = StudySearcher(
            study,
            specs or TrialSpecs(file, known),
            leaderboard,
            store.trials / study.study_name,
            budget,
            identity(study) if store.snapshots else "",
            queue,
            most=missing,
            watchers=told,
        )
        callback = StudyCallback(study, leaderboard, budget, file, told)
        lost = ""
        try:
            with some_ray(store.ray_log(study.study_name)) as cluster:
                if cluster:
                    say(cluster)
                placement = placed(file, study)
                if placement.words:
                    say(placement.words)
                if cluster and store.trials.path:
                    check_shared(store.trials.path)
                budget.gpus = placement.gpus
                budget.start()
                with ended_by_signals():
                    tuner(
                        guard,
                        searcher,
                        callback,
                        Scheduler(halving),
                        budget,
                        placement,
                        store,
                        missing,
                    ).fit()
        except RayLostError as loss:
            interrupts.abandon()
            if interrupts.received() is None:  # or the signal ended Ray, too
                lost = str(loss)
        callback.close()
        if lock is not None:
            server.retried(lock.check)
        if isinstance(callback.problem, StoreError):
            raise callback.problem
        complete = record.ended(study) >= trials
        behind = mirror.finish(complete)
    problem = searcher.problem or callback.problem
    if problem is not None:
        raise problem
    return Ending(complete=complete, out_of_budget=budget.spent, behind=behind, lost=lost)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have Tune end cleanly, with its trials unfinished, when a signal asks for it.

    Tune has a handler for SIGUSR1 that does so; its own for SIGINT is turned off.
    """
    before = signal.getsignal(signal.SIGUSR1)

    def stop() -> bool:
        tunes = signal.getsignal(signal.SIGUSR1)
        if tunes is before or not callable(tunes):
            return False
        tunes(signal.SIGUSR1, None)
        return True

    try:
        with interrupts.ending_cleanly(stop):
            yield
    finally:
        if signal.getsignal(signal.SIGUSR1) is not before:
            signal.signal(signal.SIGUSR1, before)


def open_or_create(file: StudyFile, store: Store) -> optuna.Study:
    """The study in the store's database, made if need be."""
    study = optuna.create_study(
        study_name=file.study.name,
        storage=record.store_of(store, write=True),
        directions=directions(file.study.objectives),
        load_if_exists=True,
    )
    if store.snapshots:
        recover(study, store.trials / study.study_name)
    told = len(study.get_trials(deepcopy=False))  # or a search gone on with draws the same again
    study.sampler = sampler(file, told)
    kept = {key: of for key, of in record.plan(study).items() if key in record.KEPT}
    record.set_plan(
        study,
        kept
        | {
            "question": file.question,
            "study": to_dict(file.study, PARTS),
            "objectives": list(file.study.objectives),
            "seeds": asdict(file.study.seeds),
            "searched": list(file.study.ladder.select),
            "file": str(file.path.resolve()),
            "rival": file.baseline,
        },
    )
    return study


def failed(study: optuna.Study) -> list[TrialRecord]:
    """Failed trials that nobody has run again, or is about to."""
    again = record.run_again(study)
    return [
        trial
        for trial in record.records(study)
        if trial.state == TrialState.FAIL and trial.run is not None and trial.number not in again
    ]


def enqueue_failed(study: optuna.Study) -> None:
    """Failed trials again, each once, with the seed it had."""
    for trial in failed(study):
        assert trial.run is not None
        record.enqueue(
            study,
            trial.run,
            params=trial.params or None,
            label=trial.label,
            retry_of=trial.number,
        )


WARM_POINTS = 5
"""How many of an earlier study's configurations are tried first."""


def check_resumable(file: StudyFile, store: Store) -> None:
    """Check that a search can go on with the study of this name, if the store has it.

    Raises StoreError if that asks something else, and StudyFileError if it has drawn a parameter
    in a way that excludes the space's.
    """
    check_same_question(file, store)
    if file.study.name in record.names(store):
        file.try_space(branches(record.open_study(store, file.study.name)))


def enqueue_best(
    study: optuna.Study, earlier: optuna.Study, file: StudyFile | None = None, say: Say = silent
) -> None:
    """The parameters of the best configurations of `earlier`, unless they were tried, or, as is
    said then, lie outside the space of `file`."""
    for configuration in Leaderboard.of(earlier).ranked()[:WARM_POINTS]:
        point = configuration.best.params
        unfit = file.unfit(point) if file else ""
        if unfit:
            say(f"Trial {configuration.best.number} of {earlier.study_name} is left out: {unfit}")
        else:
            study.enqueue_trial(point, skip_if_exists=True)


def tuner(
    guard: Guard,
    searcher: StudySearcher,
    callback: StudyCallback,
    scheduler: Scheduler,
    budget: Budget,
    placement: Placement,
    store: Store,
    trials: int,
) -> tune.Tuner:
    """Tune, told to do nothing but run what it is given."""
    system, path = store.trials.storage()
    return tune.Tuner(
        tune.with_resources(Trial, {"cpu": placement.cpus, "gpu": placement.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=guard.over(searcher),
            scheduler=guard.over(scheduler),
            num_samples=trials,
            max_concurrent_trials=placement.at_once,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.config["directory"],
        ),
        run_config=tune.RunConfig(
            name=searcher.trials.name,
            storage_path=path,
            storage_filesystem=None if store.trials.path else system,
            callbacks=[guard.over(callback)],
            stop=guard.over(budget),
            failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            verbose=0,
        ),
    )
