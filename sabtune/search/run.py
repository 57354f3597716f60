"""A search from end to end: a study file and a store in, a finished Optuna study out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import filelock
import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from sabtune.errors import ResourceError, StoreError
from sabtune.search import record
from sabtune.search.searcher import INTERRUPTED, LOST, Asker, Teller
from sabtune.search.study import ASHA, Resources, Study, StudyFile
from sabtune.search.trainable import Trial
from sabtune.store import Store
from sabtune.tracking import Tracker
from sabtune.watcher import Watcher

WORKER_DEATHS = 3
"""How often a trial is taken up again from its checkpoint after its worker died."""


def search(file: StudyFile, store: Store, watchers: Sequence[Watcher] = ()) -> bool:
    """Searches until the study's trials have ended in a result; False if interrupted.

    A study that the store knows is gone on with. The best model is kept in MLflow. Raises
    StudyFileError if the space fails, ResourceError if no trial can ever be placed, StoreError if
    another search is writing to the study.
    """
    with _locked(file.study.name, store):
        study = _optuna_study(file.study, store)
        missing = file.study.trials - record.resulted(study)
        if missing <= 0:
            return True
        with _ray(store.log(file.study.name)):
            at_once = _places(file.study.resources)
            tracker = Tracker(store, file.study.name)
            asker, teller = Asker(file, study), Teller(study, [tracker, *watchers])
            teller.close_running(LOST)
            try:
                _tuner(asker, teller, file.study, store, missing, at_once).fit()
            finally:
                interrupted = teller.close_running(INTERRUPTED)
        _keep_best(study, tracker)
        best = record.best(record.records(study))
        complete = asker.handed_out == missing and not interrupted
        tracker.search_ended(complete, best.test if best else [])
    if asker.problem is not None:
        raise asker.problem
    return complete


@contextmanager
def _locked(name: str, store: Store) -> Iterator[None]:
    try:
        with filelock.FileLock(store.lock(name), timeout=0):
            yield
    except filelock.Timeout:
        raise StoreError(
            f"study {name!r} in {store.root} is being searched by another process: "
            "wait for it, or give another --store"
        ) from None


def _optuna_study(study: Study, store: Store) -> optuna.Study:
    """The study in the store's database, new or as an earlier search left it."""
    opened = optuna.create_study(
        study_name=study.name,
        storage=optuna.storages.RDBStorage(store.optuna_url),
        direction="maximize",
        load_if_exists=True,
    )
    told = len(opened.get_trials(deepcopy=False))  # or a search gone on with draws the same again
    opened.sampler = optuna.samplers.TPESampler(
        seed=study.seed + told, n_startup_trials=study.startup
    )
    return opened


def _tuner(
    asker: Asker, teller: Teller, study: Study, store: Store, trials: int, at_once: int
) -> tune.Tuner:
    return tune.Tuner(
        tune.with_resources(Trial, {"cpu": study.resources.cpus, "gpu": study.resources.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=asker,
            scheduler=_asha(study.pruning) if study.pruning else None,
            num_samples=trials,
            max_concurrent_trials=at_once,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}",
        ),
        run_config=tune.RunConfig(
            name=study.name,
            storage_path=str(store.trials),
            callbacks=[teller],
            failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=2),
            verbose=0,
        ),
    )


def _asha(pruning: ASHA) -> ASHAScheduler:
    return ASHAScheduler(
        time_attr="step",
        metric="score",
        mode="max",
        grace_period=pruning.grace,
        reduction_factor=pruning.reduction,
        max_t=10**9,  # a trial ends with its own last update
    )


def _places(resources: Resources) -> int:
    """How many trials fit at once. Raises ResourceError if not even one does."""
    have = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    for name, wanted, there in (("CPUs", resources.cpus, cpus), ("GPUs", resources.gpus, gpus)):
        if wanted > there:
            raise ResourceError(
                f"a trial asks for {wanted:g} {name} and there are {there:g}: "
                "lower resources in the STUDY, or search on a larger machine"
            )
    fit = cpus // resources.cpus
    return int(min(fit, gpus // resources.gpus) if resources.gpus else fit)


def _keep_best(study: optuna.Study, tracker: Tracker) -> None:
    """Sees to it that MLflow holds the model of the best trial, and that the study says where."""
    best = record.best(record.records(study))
    if best is None or best.checkpoint is None:
        return
    kept = record.model(study)
    if kept is None or kept.trial != best.number:
        uri = tracker.keep_model(best.number, best.checkpoint)
        record.set_model(study, record.KeptModel(trial=best.number, uri=uri))


@contextmanager
def _ray(log: Path) -> Iterator[None]:
    """A Ray of our own on this machine, on loopback, quiet: what it logs goes to the file `log`."""
    logger = logging.getLogger("ray")
    handler = logging.FileHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    logger.handlers = [handler]
    try:
        yield
    finally:
        ray.shutdown()
        logger.handlers = []
        handler.close()
