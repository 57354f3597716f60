"""Measure the cost of logging to MLflow, compared with Ray Tune's own MLflow callback.

    python benchmarks/tracking.py [--rounds 5] [--trials 10] [--reports 50] [--pause 0.01]

The loggers take turns and write the same stream of reports to the same SQLite store: trials with
the same parameters report the same ten metrics. A pause between two reports stands for the other
work of a search; the tracker's thread writes in it. The time per report is wall time in the
reporting thread. The CPU time is that of all threads of the process, from the first trial of a
round to its last write, including the starts and ends of trials. Neither logs models during a
round; the time to log a model is measured separately.
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

import sabtune.tuning  # noqa: F401  sets variables that Ray reads on import

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
from sabtune.tracking.trial_run import RunContent, report_points
from sabtune.training.evaluation import Ladder
from sabtune.training.loop import Report, Training
from sabtune.training.trial import Progress, TrialSpec

DRAIN_SECONDS = 600.0


def spec(number: int) -> TrialSpec:
    return TrialSpec(
        number=number,
        configuration=number,
        run=RunConfig.of(
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
    """The cost of one round."""

    report: float  # ms per report in the reporting thread
    cpu: float  # ms of CPU time per report, all threads
    drain: float  # s from the last report to the last write


@dataclass(frozen=True)
class Stream:
    """The stream of trials and reports that both loggers get."""

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
        specs = [spec(number) for number in range(self.trials)]
        for trial in specs:
            start(trial)
        for step in range(1, self.reports + 1):
            for trial in specs:
                made = progress(step)
                time.sleep(self.pause)
                began = time.perf_counter()
                report(trial, made)
                spent += time.perf_counter() - began
        last = time.perf_counter()
        for trial in specs:
            end(trial)
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
        assert tracker.close(DRAIN_SECONDS), tracker.behind

    return stream.run(
        start=tracker.trial_started,
        report=lambda trial, made: tracker.trial_reported(trial.number, made),
        end=lambda trial: tracker.trial_ended(trial.number, Outcome(state="PRUNED")),
        drain=drain,
    )


class TuneTrial:
    """The part of a Tune trial that the callback reads."""

    def __init__(self, spec: TrialSpec):
        self.config = flatten(spec.run.to_dict())
        self.number = spec.number

    def __str__(self) -> str:
        return f"trial_{self.number}"


def theirs(stream: Stream, root: Path, study: str) -> Cost:
    callback = MLflowLoggerCallback(f"sqlite:///{root / 'mlflow.db'}", experiment_name=study)
    callback.setup()  # type: ignore[no-untyped-call]
    trials: dict[int, Any] = {}

    def start(trial: TrialSpec) -> None:
        trials[trial.number] = TuneTrial(trial)
        callback.log_trial_start(trials[trial.number])

    def report(trial: TrialSpec, made: Progress) -> None:
        result = {point.key: point.value for point in report_points(made, None, 0)}
        result["training_iteration"] = made.report.step
        callback.log_trial_result(made.report.step, trials[trial.number], result)

    return stream.run(
        start=start,
        report=report,
        end=lambda trial: callback.log_trial_end(trials[trial.number]),
        drain=lambda: None,
    )


def models(root: Path, count: int) -> list[float]:
    """Return the seconds to log each of `count` models of the size in the copying study."""
    trial = replace(spec(0), run=replace(spec(0).run, task=Copying.Config()))
    directory = root / "checkpoint"
    Training(trial.run).save(directory)
    artifacts = (root / "artifacts").as_uri()
    experiment, took = Experiment(f"sqlite:///{root / 'mlflow.db'}", "models", artifacts), []
    for number in range(count):
        content = RunContent(replace(trial, number=number))
        run = experiment.runs.create(content.name(), content.tags())
        began = time.perf_counter()
        experiment.models.log(run.id, content, directory)
        took.append(time.perf_counter() - began)
    return took


def columns(costs: Sequence[Cost]) -> Iterator[str]:
    """Yield the median, minimum and maximum of each cost."""
    for name, digits in (("report", 3), ("cpu", 2), ("drain", 2)):
        yield between([getattr(cost, name) for cost in costs], digits)


def between(values: Sequence[float], digits: int) -> str:
    """Format the median, the minimum and the maximum of the values."""
    median = statistics.median(values)
    return f"{median:.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--reports", type=int, default=50)
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between two reports")
    parser.add_argument("--models", type=int, default=20, help="how many models to log")
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
            way(Stream(1, 2, 0.0), Path(folder), f"warm-up {name}")  # creates the database
        for number in range(options.rounds):
            for name, way in ways.items():
                costs[name].append(way(stream, Path(folder), f"{name} {number}"))
        took = models(Path(folder), options.models + 1)[1:]  # the first one also imports modules
    print(f"logging a model: {between(took, 2)} s, of {len(took)}")
    if not options.rounds:
        return
    print("| | ms a report, the search's thread | CPU ms a report, all threads | s to drain |")
    print("|---|---|---|---|")
    for name, rounds in costs.items():
        print(f"| {name} | {' | '.join(columns(rounds))} |")
    theirs_, ours_ = costs.values()
    ratios = [
        [getattr(a, name) / getattr(b, name) for a, b in zip(theirs_, ours_, strict=True)]
        for name in ("report", "cpu")
    ]
    shown = [between(ratios[0], 0), between(ratios[1], 1)]
    print(f"| times less, round by round | {' | '.join(shown)} | |")


if __name__ == "__main__":
    main()
