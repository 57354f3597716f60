"""What a report costs the search: our tracker beside Ray Tune's own MLflow callback.

    python benchmarks/tracking.py [--rounds 5] [--trials 10] [--reports 50] [--pause 0.01]

Both write the same stream to the same SQLite store, in turn: trials that start with the same
parameters and make the same reports of ten metrics, one after the other with a pause between, in
which the search would do its own work and our thread writes. A report's time is the wall's, in the
thread that reports; the processor's is the whole process's, all threads, from a round's first trial
to its last write, starts and ends of trials with it. Neither logs models there; what one takes is
measured after.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sabtune.search  # noqa: F401  before Ray, whose environment it sets

# isort: split
import mlflow
import ray
from cpu import processor
from ray.air.integrations.mlflow import MLflowLoggerCallback

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.schema import flatten
from sabtune.study.events import Outcome
from sabtune.tasks import Copying
from sabtune.tracking import Tracker
from sabtune.tracking.experiment import Experiment
from sabtune.tracking.trial_run import Page, report_points
from sabtune.training.evaluation import Ladder
from sabtune.training.loop import Report, Training
from sabtune.training.trial import Progress, TrialSpec

DRAIN = 600.0


def spec(number: int) -> TrialSpec:
    return TrialSpec(
        number=number,
        configuration=number,
        run=RunConfig(
            task=Copying.Config(length=2, symbols=1, alphabet=2),
            trial=TrialConfig(model=SAB.Config(), train=TrainConfig()),
            seed=number,
        ),
        ladder=Ladder(lengths=(2, 4), select=(2,)),
        evaluation_seed=0,
        threads=1,
    )


def progress(step: int) -> Progress:
    report = Report(
        step=step,
        loss=1 / step,
        accuracy=0.5,
        gradient_norm=1.0,
        skipped=0,
        updates_per_second=100.0,
        in_force={"k_top": 5.0},
    )
    return Progress(report=report, ladder=(), score=0.5, seconds=step / 10, memory=100.0)


@dataclass
class Cost:
    """Of one round, a report."""

    report: float  # ms of the thread that reports
    cpu: float  # ms of the processor, all threads
    drain: float  # s from the last report to the last write


@dataclass(frozen=True)
class Stream:
    """What both are told."""

    trials: int
    reports: int
    pause: float

    def run(
        self,
        start: Callable[[TrialSpec], None],
        report: Callable[[TrialSpec, Progress], None],
        end: Callable[[TrialSpec], None],
        drain: Callable[[], None],
    ) -> Cost:
        spent, cpu = 0.0, time.process_time()
        told = [spec(number) for number in range(self.trials)]
        for of in told:
            start(of)
        for step in range(1, self.reports + 1):
            for of in told:
                made = progress(step)
                time.sleep(self.pause)
                began = time.perf_counter()
                report(of, made)
                spent += time.perf_counter() - began
        last = time.perf_counter()
        for of in told:
            end(of)
        drain()
        n = self.trials * self.reports
        return Cost(
            report=1000 * spent / n,
            cpu=1000 * (time.process_time() - cpu) / n,
            drain=time.perf_counter() - last,
        )


def ours(stream: Stream, root: Path, study: str) -> Cost:
    tracker = Tracker(f"sqlite:///{root / 'mlflow.db'}", study, (root / "artifacts").as_uri())

    def drain() -> None:
        assert tracker.close(DRAIN), tracker.behind

    return stream.run(
        start=tracker.trial_started,
        report=lambda of, made: tracker.trial_reported(of.number, made),
        end=lambda of: tracker.trial_ended(of.number, Outcome(state="PRUNED")),
        drain=drain,
    )


class TuneTrial:
    """As much of Tune's trial as its callback looks at."""

    def __init__(self, of: TrialSpec):
        self.config = flatten(of.run.to_dict())
        self.number = of.number

    def __str__(self) -> str:
        return f"trial_{self.number}"


def theirs(stream: Stream, root: Path, study: str) -> Cost:
    callback = MLflowLoggerCallback(f"sqlite:///{root / 'mlflow.db'}", experiment_name=study)
    callback.setup()  # type: ignore[no-untyped-call]
    trials: dict[int, Any] = {}

    def start(of: TrialSpec) -> None:
        trials[of.number] = TuneTrial(of)
        callback.log_trial_start(trials[of.number])

    def report(of: TrialSpec, made: Progress) -> None:
        result = {point.key: point.value for point in report_points(made, 0)}
        result["training_iteration"] = made.report.step
        callback.log_trial_result(made.report.step, trials[of.number], result)

    return stream.run(
        start=start,
        report=report,
        end=lambda of: callback.log_trial_end(trials[of.number]),
        drain=lambda: None,
    )


def models(root: Path, count: int) -> list[float]:
    """Seconds that it takes to log a model of the headline study's size, of each."""
    told = replace(spec(0), run=replace(spec(0).run, task=Copying.Config()))
    directory = root / "checkpoint"
    Training(told.run).save(directory)
    artifacts = (root / "artifacts").as_uri()
    experiment, took = Experiment(f"sqlite:///{root / 'mlflow.db'}", "models", artifacts), []
    for number in range(count):
        page = Page(replace(told, number=number))
        run = experiment.runs.create(page.name(), page.tags())
        began = time.perf_counter()
        experiment.models.log(run.id, page, directory)
        took.append(time.perf_counter() - began)
    return took


def columns(costs: Sequence[Cost]) -> Iterator[str]:
    """The median of each number, its least and its greatest."""
    for name, digits in (("report", 3), ("cpu", 2), ("drain", 2)):
        yield between([getattr(cost, name) for cost in costs], digits)


def between(values: Sequence[float], digits: int) -> str:
    """The median, the least and the greatest."""
    median = statistics.median(values)
    return f"{median:.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--reports", type=int, default=50)
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between two reports")
    parser.add_argument("--models", type=int, default=20, help="how many are logged")
    options = parser.parse_args()
    stream = Stream(options.trials, options.reports, options.pause)
    ways = {"Tune's MLflowLoggerCallback": theirs, "sabtune": ours}
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    versions = f"ray {ray.__version__}, mlflow {mlflow.__version__}"
    print(
        f"{processor()}, {os.cpu_count()} CPUs, {versions}, "
        f"load {os.getloadavg()[0]:.1f} before; {options.rounds} rounds of {options.trials} trials "
        f"with {options.reports} reports, {1000 * options.pause:g} ms apart",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, way in ways.items():
            way(Stream(1, 2, 0.0), Path(folder), f"warm-up {name}")  # makes the database, once
        for number in range(options.rounds):
            for name, way in ways.items():
                costs[name].append(way(stream, Path(folder), f"{name} {number}"))
        took = models(Path(folder), options.models + 1)[1:]  # the first loads what it needs
    print(f"logging a model: {between(took, 2)} s, of {len(took)}")
    if not options.rounds:
        return
    print("| | ms a report, the search's thread | CPU ms a report, all threads | s to drain |")
    print("|---|---|---|---|")
    for name, of in costs.items():
        print(f"| {name} | {' | '.join(columns(of))} |")
    theirs_, ours_ = costs.values()
    ratios = [
        [getattr(a, name) / getattr(b, name) for a, b in zip(theirs_, ours_, strict=True)]
        for name in ("report", "cpu")
    ]
    shown = [between(ratios[0], 0), between(ratios[1], 1)]
    print(f"| times less, round by round | {' | '.join(shown)} | |")


if __name__ == "__main__":
    main()
