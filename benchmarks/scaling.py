"""Measure how many concurrent trials one driver handles, with trials that only sleep.

    python benchmarks/scaling.py [--places 64] [--trials 2000] [--seconds 20] [--reports 5]

The script runs the search of `sabtune search`, with an Optuna study on SQLite, ASHA, seeds and Ray
Tune: once with MLflow on SQLite and once without. --only on and --only off run one of the two. A
place has room for one trial; the script declares one CPU per place to Ray. A trial sleeps for
--seconds, plus or minus a tenth, and reports --reports times, each time with a checkpoint of a few
KB. The workers don't load torch, so many of them fit into the memory of one machine. At the end,
the script checks that the study, MLflow and the workers' own files agree.

CPU seconds are those of all threads of the driver and depend little on the load of the machine.
Only one thread runs Python at a time, so the driver is saturated at one CPU second per second.
`busy` is the share of the time of all places in which trials slept.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import sabtune.tuning  # noqa: F401  sets variables that Ray reads on import

# isort: split
import engine
import optuna
import ray
from cpu import processor
from mlflow import MlflowClient
from ray import tune

from sabtune.cluster.ray_session import left_in_peace
from sabtune.storage.store import Store
from sabtune.study.record import StudyRecord
from sabtune.study.states import ENDED
from sabtune.tracking import mlflow_client
from sabtune.tracking.runs import Runs
from sabtune.training.trial import Progress, TrialRun, TrialSpec
from sabtune.tuning import run
from sabtune.tuning.trainable import WorkerResult

JITTER = 0.1


class Clock(engine.Clock):
    """A clock that also records, at the end of each trial, the reports so far and the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.reports = 0
        self.reported: list[int] = []
        self.running: set[int] = set()
        self.at_once = 0

    def trial_started(self, spec: TrialSpec) -> None:
        self.running.add(spec.number)
        self.at_once = max(self.at_once, len(self.running))

    def trial_reported(self, number: int, progress: Progress) -> None:
        self.reports += 1

    def trial_noted(self, number: int, words: str) -> None: ...

    def trial_ended(self, number: int, outcome: Any) -> None:
        self.running.discard(number)
        self.reported.append(self.reports)
        self.note()


def sleeper(
    answers: list[dict[str, Any]], files: dict[str, bytes], ran: str, seconds: float
) -> Any:
    """Return a trainable that sleeps; it holds plain values, so its workers import only Ray.

    answers: the results it reports, in order. files: the content of a complete checkpoint, by
    name. ran: a folder that gets a file for each trial that ends. seconds: the time per report.
    """

    class Sleeper(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.number, self.made = new_config["assignment"]["number"], 0
            self.late = 1 + JITTER * ((self.number * 7919 % 1000) / 500 - 1)
            return True

        def step(self) -> dict[str, Any]:
            time.sleep(seconds * self.late)
            answer = copy.deepcopy(answers[self.made])
            self.made += 1
            if answer["done"]:
                answer["score"] = (self.number * 7919 % 1000) / 1000
                content = json.loads(answer["content"])
                content["progress"]["score"] = answer["score"]
                answer["content"] = json.dumps(content)
                with open(f"{ran}/{self.number}", "a") as file:  # noqa: PTH123
                    file.write(".")
            return answer

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            for name, content in files.items():
                with open(f"{checkpoint_dir}/{name}", "wb") as file:  # noqa: PTH123
                    file.write(content)

        def load_checkpoint(self, checkpoint: dict[str, Any] | str | None) -> None:
            raise RuntimeError("a worker died")

    return Sleeper


def search(root: Path, options: argparse.Namespace, mlflow: bool) -> Clock:
    """Run one search and check that no trial was lost."""
    engine.REPORTS = options.reports
    file = engine.made_up(options.trials, options.sampler, f"scaling-{options.reports}-{mlflow}")
    store, clock = Store(root).made(), Clock()
    spec = TrialSpec(
        number=0,
        configuration=0,
        run=engine.some_run(file),
        ladder=file.study.ladder,
        evaluation_seed=0,
        threads=1,
    )
    TrialRun(spec).save(root / "checkpoint")
    ran = root / f"ran-{file.study.name}"
    ran.mkdir()
    sleeping = sleeper(
        [WorkerResult(progress=progress).to_result() for progress in engine.progress_of(spec)],
        {path.name: path.read_bytes() for path in (root / "checkpoint").iterdir()},
        str(ran),
        options.seconds / options.reports,
    )

    @contextmanager
    def declared(*_: object) -> Iterator[None]:
        with left_in_peace():
            ray.init(
                address="local",
                num_cpus=options.places,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                object_store_memory=200 * 2**20,
            )
            yield

    with patch.object(run, "Trial", sleeping), patch.object(run, "some_ray", declared):
        if mlflow:
            ending = run.search(file, store, [clock])
        else:
            with patch.object(run, "Mirror", engine.Untracked):
                ending = run.search(file, store, [clock])
    assert ending.complete, ending
    agree(store, file.study.name, ran, options.trials, mlflow, ending.behind)
    return clock


def agree(store: Store, name: str, ran: Path, trials: int, mlflow: bool, behind: str) -> None:
    """Print the trials in the workers' files, the study and MLflow; fail unless they agree."""
    study = StudyRecord.open(store, name)
    ended = {trial.number for trial in study.trials if trial.state in ENDED}
    done = {int(path.name) for path in ran.iterdir() if path.read_text() == "."}
    print(f"\nran {len(done)}, in the study {len(ended)}", end="")
    assert done == ended == set(range(trials))
    if mlflow:
        runs = Runs(MlflowClient(store.mlflow_uri), name, None).all()
        shown = Counter(run.number for run in runs if run.status == "FINISHED")
        print(f", in MLflow {sum(number is not None for number in shown)}", end="")
        assert not behind, behind
        assert {n: k for n, k in shown.items() if n is not None} == dict.fromkeys(ended, 1)
    print(f": lost {trials - len(done)}", flush=True)


def table(name: str, clock: Clock, options: argparse.Namespace) -> None:
    """Print rows for the first hundred, the last hundred and all trials with all places taken."""
    ends = [*range(options.places, len(clock.wall) - options.places, engine.HUNDRED)]
    rows = [pair for pair in pairwise(ends) if pair[1] - pair[0] == engine.HUNDRED]
    picked = [rows[0], rows[-1], (rows[0][0], rows[-1][1])]
    print(f"\n| {name} | s a trial | CPU s a trial | CPU ms a report | CPU | busy | MiB | load |")
    print("|---|---|---|---|---|---|---|---|")
    for a, b in dict.fromkeys(picked):
        print(row(clock, a, b, options))
    a, b = picked[-1]
    cpu = (clock.driver[b] - clock.driver[a]) / (b - a)
    each = cpu / options.reports
    print(
        f"\nat most {clock.at_once} at once; saturates at {1 / each:.0f} reports/s, "
        f"{3600 / cpu:,.0f} trials/h of {options.reports} reports; "
        f"{clock.memory[0]:.0f} MiB at the first end, {clock.memory[-1]:.0f} at the last",
        flush=True,
    )


def row(clock: Clock, a: int, b: int, options: argparse.Namespace) -> str:
    wall, cpu = clock.wall[b] - clock.wall[a], clock.driver[b] - clock.driver[a]
    reports, ended = clock.reported[b] - clock.reported[a], b - a
    busy = options.seconds * ended / (wall * options.places)
    return (
        f"| {a + 1}–{b} | {wall / ended:.3f} | {cpu / ended:.3f} | {1000 * cpu / reports:.1f} | "
        f"{cpu / wall:.0%} | {busy:.0%} | {clock.memory[b]:.0f} | {clock.load[b]:.1f} |"
    )


def chosen(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--places", type=int, default=64)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--reports", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long a trial sleeps")
    parser.add_argument("--sampler", choices=("random", "tpe"), default="random")
    parser.add_argument(
        "--only", choices=("on", "off"), help="run only with MLflow, or only without"
    )
    return parser.parse_args(arguments)


def main() -> None:
    options = chosen()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow_client.quieten()
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    print(
        f"{processor()}, {os.cpu_count()} CPUs, ray {ray.__version__}, {options.places} places, "
        f"{options.trials} trials of {options.seconds:g} s and {options.reports} reports",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        for mlflow in (True, False):
            way = "on" if mlflow else "off"
            if options.only not in (None, way):
                continue
            load = os.getloadavg()[0]
            clock = search(Path(folder), options, mlflow)
            table(f"MLflow {way}, load {load:.1f} before", clock, options)


if __name__ == "__main__":
    main()
