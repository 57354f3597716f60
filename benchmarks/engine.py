"""Measure the overhead of the search per trial, with trials that compute nothing.

    python benchmarks/engine.py [--trials 1000] [--sampler random] [--plain]

Each trial yields metrics 5 times, each time with a checkpoint of a few KB. The Optuna study on
SQLite, ASHA, the seeds and MLflow (embedded, on SQLite) are those of `sabtune search`; only the
trainable is replaced. ASHA compares the trials but prunes none, because all scores except the last
are equal. Times are given per hundred trials, in the order in which they ended, with the driver's
memory at the last of them. CPU seconds are those of all threads of the driver and depend less on
the load of the machine than wall times.

--plain then runs the same trainable with Ray Tune alone, without a study, a searcher and MLflow. It
also runs 101 trials with Ray Tune and its own MLflow callback.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import sabtune.tuning  # noqa: F401  sets variables that Ray reads on import

# isort: split
import optuna
import ray
from cpu import processor
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback

from sabtune.cluster.ray_session import some_ray
from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.storage.store import Store
from sabtune.study.configurations import Seeds
from sabtune.study.definition import ASHA, Sampler, Study
from sabtune.study.events import Outcome
from sabtune.study.study_file import StudyFile
from sabtune.tasks import Copying
from sabtune.tracking import mlflow_client
from sabtune.training.evaluation import Ladder, LengthResult
from sabtune.training.loop import Report
from sabtune.training.trial import Progress, TrialRun, TrialSpec
from sabtune.tuning import run
from sabtune.tuning.trainable import Trial, WorkerResult, WorkerTask

REPORTS = 5
STEP = 10  # updates per report
HUNDRED = 100
SHOWN = 3  # rows of a table before and after those that are left out


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample five parameters of a very small model."""
    return TrialConfig(
        model=SAB.Config(
            hidden=4,
            k_top=trial.suggest_int("k_top", 1, 8),
            k_att=trial.suggest_int("k_att", 1, 5),
            k_trunc=trial.suggest_int("k_trunc", 1, 10),
        ),
        train=TrainConfig(
            updates=REPORTS * STEP,
            batch_size=trial.suggest_categorical("batch_size", [16, 32, 64]),
            learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
            report_every=STEP,
        ),
    )


def made_up(trials: int, sampler: Sampler, name: str) -> StudyFile:
    """Return a study in which promising configurations get up to three seeds."""
    study = Study(
        name=name,
        task=Copying.Config(length=2, symbols=1, alphabet=2),
        ladder=Ladder(lengths=(2, 4, 8), select=(2, 4), sequences=8),
        trials=trials,
        sampler=sampler,
        seeds=Seeds(most=3),
        pruning=ASHA(grace=STEP, reduction=2),
    )
    return StudyFile(Path(__file__), study, space)


class Idle(Trial):
    """A trial that yields metrics without training.

    Its last checkpoint is complete, so that its model can be logged. The others hold the files of
    an earlier trial.
    """

    written: Path | None = None  # the checkpoint that the first trial of the process writes

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        super().reset_config(new_config)
        self.spec = WorkerTask.from_config(new_config).spec
        self.stretches, self.finished = progress_of(self.spec), False
        return True

    def step(self) -> dict[str, Any]:
        progress = next(self.stretches)
        self.finished = progress is not None and progress.finished
        return WorkerResult(progress=progress).to_result()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if self.finished:
            TrialRun(self.spec).save(Path(checkpoint_dir))
            return
        if Idle.written is None:
            Idle.written = Path(tempfile.mkdtemp())
            TrialRun(self.spec).save(Idle.written)
        shutil.copytree(Idle.written, checkpoint_dir, dirs_exist_ok=True)


def progress_of(spec: TrialSpec) -> Iterator[Progress]:
    """Yield the progress of a made-up training; the last score depends on the trial number."""
    last = (spec.number * 7919 % 1000) / 1000
    for index in range(1, REPORTS + 1):
        finished = index == REPORTS
        lengths = spec.ladder.lengths if finished else spec.ladder.select
        score = last if finished else 0.5
        results = [LengthResult(length=T, accuracy=score, loss=0.7, sequences=8) for T in lengths]
        yield Progress(
            report=Report(
                step=index * STEP,
                loss=0.7,
                accuracy=score,
                gradient_norm=1.0,
                skipped=0,
                updates_per_second=100.0,
                in_force={"k_top": 2.0},
            ),
            ladder=results,
            test=results if finished else (),
            score=score,
            seconds=0.1 * index,
            memory=100.0,
            finished=finished,
        )


def resident() -> float:
    """Return the resident set size of the driver in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Clock:
    """A callback that records the end of each trial.

    wall, driver: The times, in wall seconds and in CPU seconds of the driver. memory: The resident
    set size of the driver in MiB. load: The load of the machine. closing: The seconds from the last
    end to the end of the search, in which MLflow gets what it lacks.
    """

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.driver: list[float] = []
        self.memory: list[float] = []
        self.load: list[float] = []
        self.closing = 0.0

    def trial_started(self, spec: TrialSpec) -> None: ...

    def trial_reported(self, number: int, progress: Progress) -> None: ...

    def trial_noted(self, number: int, words: str) -> None: ...

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        self.note()

    def note(self) -> None:
        self.wall.append(time.perf_counter())
        self.driver.append(time.process_time())
        self.memory.append(resident())
        self.load.append(os.getloadavg()[0])


class PlainClock(tune.Callback):
    """A Tune callback that records the same times for a search by Ray Tune alone."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_trial_complete(self, *args: Any, **info: Any) -> None:
        self.clock.note()


class Untracked:
    """A mirror that writes nothing to MLflow."""

    def __init__(self, study: optuna.Study, store: Store, *, system_metrics: bool): ...

    def trial_started(self, spec: TrialSpec) -> None: ...

    def trial_reported(self, number: int, progress: Progress) -> None: ...

    def trial_noted(self, number: int, words: str) -> None: ...

    def trial_ended(self, number: int, outcome: Outcome) -> None: ...

    def finish(self, complete: bool) -> str:
        return ""


def engine(store: Store, trials: int, sampler: Sampler, mlflow: bool) -> Clock:
    """Run a search by sabtune with idle trials."""
    file = made_up(trials, sampler, f"{sampler}-{mlflow}")
    clock = Clock()
    with patch.object(run, "Trial", Idle):
        if mlflow:
            ending = run.search(file, store.made(), [clock])
        else:
            with patch.object(run, "Mirror", Untracked):
                ending = run.search(file, store.made(), [clock])
    clock.closing = time.perf_counter() - clock.wall[-1]
    assert ending.complete, ending
    if ending.behind:
        print(f"MLflow fell behind: {ending.behind}")
    return clock


def plain(root: Path, trials: int, callbacks: Sequence[tune.Callback] = ()) -> Clock:
    """Run Tune's own random search with idle trials, without pruning or a study."""
    file = made_up(trials, "random", "plain")
    spec = TrialSpec(
        number=0,
        configuration=0,
        run=some_run(file),
        ladder=file.study.ladder,
        evaluation_seed=0,
        threads=1,
    )
    task = WorkerTask(spec=spec, directory="", trials=str(root), save_every=1e9)
    clock = Clock()
    with some_ray(root / "plain.log"):
        tune.Tuner(
            tune.with_resources(Idle, {"cpu": 1}),
            param_space=task.to_config() | {"draw": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True),
            run_config=tune.RunConfig(
                name=f"plain-{len(callbacks)}",
                storage_path=str(root),
                callbacks=[PlainClock(clock), *callbacks],
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=2),
                failure_config=tune.FailureConfig(max_failures=0),
                verbose=0,
            ),
        ).fit()
    assert len(clock.wall) == trials
    return clock


def some_run(file: StudyFile) -> RunConfig:
    return RunConfig.of(task=file.study.task, trial=file.try_space(), seed=0)


def hundreds(times: Sequence[float]) -> list[float]:
    """Return the seconds per trial of each hundred trials, without the very first trial."""
    ends = [*range(0, len(times) - 1, HUNDRED), len(times) - 1]
    return [(times[b] - times[a]) / (b - a) for a, b in itertools.pairwise(ends)]


def table(name: str, clock: Clock) -> None:
    """Print the first three and the last three hundreds of trials, and the mean of all."""
    wall, driver = hundreds(clock.wall), hundreds(clock.driver)
    gaps = [b - a for a, b in itertools.pairwise(clock.wall)]
    print(f"\n| {name} | s a trial | median between two ends | driver's CPU s | MiB | load |")
    print("|---|---|---|---|---|---|")
    for index, (a, b) in enumerate(zip(wall, driver, strict=True)):
        if SHOWN <= index < len(wall) - SHOWN:
            continue
        gap = statistics.median(gaps[index * HUNDRED : (index + 1) * HUNDRED])
        last = min((index + 1) * HUNDRED, len(clock.wall) - 1)
        row = f"| {index * HUNDRED + 1}–{last} | {a:.3f} | {gap:.3f} | {b:.3f} |"
        print(f"{row} {clock.memory[last]:.0f} | {clock.load[last]:.1f} |")
    if len(wall) > 1:
        print(f"| last ÷ first | {wall[-1] / wall[0]:.2f} | | {driver[-1] / driver[0]:.2f} | | |")
    if clock.closing:
        print(f"| after the last trial | {clock.closing:.1f} s in all | | | {resident():.0f} | |")
    print(
        f"| all | {statistics.fmean(wall):.3f} | | {statistics.fmean(driver):.3f} | | |", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", choices=("random", "tpe"), default="random")
    parser.add_argument(
        "--only", choices=("on", "off"), help="run only with MLflow, or only without"
    )
    parser.add_argument("--store", help="a PostgreSQL database instead of a folder with SQLite")
    parser.add_argument("--plain", action="store_true", help="also run Ray Tune alone")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow_client.quieten()
    print(
        f"{processor()}, {os.cpu_count()} CPUs, ray {ray.__version__}, {options.trials} trials",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for mlflow in (True, False):
            way = "on" if mlflow else "off"
            if options.only not in (None, way):
                continue
            load = os.getloadavg()[0]
            store = Store.at(options.store or str(root), root)
            clock = engine(store, options.trials, options.sampler, mlflow)
            table(f"{options.sampler}, MLflow {way}, load {load:.1f} before", clock)
        if options.plain:
            load = os.getloadavg()[0]
            table(f"Tune alone, load {load:.1f} before", plain(root, options.trials))
            theirs = MLflowLoggerCallback(f"sqlite:///{root / 'plain.db'}", experiment_name="plain")
            table("Tune, its MLflow callback", plain(root, HUNDRED + 1, [theirs]))


if __name__ == "__main__":
    main()
