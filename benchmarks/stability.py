"""Measure how ε, clipping, warm-up and the learning rate affect training SAB at length 100.

    python benchmarks/stability.py [--updates 3000] [--hidden 64] [--seeds 2] [--only NAME]

The task is copying with 10 one-hot symbols. The model has k_top 5 (decreasing from dense
attention), k_att 5 and k_trunc 5, and trains with Adam on one thread. Each row changes one default.
A row has, over all seeds,

- norm, largest: the median and the maximum of the gradient norms before clipping; of every 100
  updates, only the largest norm counts
- skipped: the updates skipped because their gradient was not finite
- rise: the greatest rise of the loss above its lowest value so far
- last loss: the loss over the last 100 updates
- at 100, at 200: the accuracy at these lengths
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import replace

import torch

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.schedule import Linear
from sabtune.seeding import Stream
from sabtune.tasks import Copying
from sabtune.training.evaluation import measure_ladder
from sabtune.training.loop import Training


def choices(hidden: int, updates: int) -> Iterator[tuple[str, TrialConfig]]:
    """Yield the default configuration, then each variation of it, with its name."""
    model = SAB.Config(hidden=hidden, k_top=5, k_att=5, k_trunc=5, schedule=Linear(start="all"))
    train = TrainConfig(updates=updates, batch_size=32, report_every=100)
    yield "defaults", TrialConfig(model=model, train=train)
    for clip in (0.1, 0.5):
        changed_train = replace(train, clip_norm=clip)
        yield f"clip_norm {clip:g}", TrialConfig(model=model, train=changed_train)
    yield "warmup 0.1", TrialConfig(model=model, train=replace(train, warmup=0.1))
    for rate in (2e-3, 4e-3):
        faster = replace(train, learning_rate=rate)
        yield f"learning_rate {rate:g}", TrialConfig(model=model, train=faster)
    for epsilon in (1e-3, 1e-1):
        changed = replace(model, epsilon=epsilon)
        yield f"epsilon {epsilon:g}", TrialConfig(model=changed, train=train)


def row(name: str, trial: TrialConfig, seeds: int) -> str:
    norms, skipped, rises, last, short, long = [], 0, [], [], [], []
    for seed in range(seeds):
        training = Training(RunConfig.of(task=Copying.Config(length=100), trial=trial, seed=seed))
        lowest, rise, loss = float("inf"), 0.0, 0.0
        for report in training:
            loss = report.loss
            rise, lowest = max(rise, loss - lowest), min(lowest, loss)
            norms.append(report.gradient_norm)
            skipped += report.skipped
        results = measure_ladder(
            training.model,
            training.task,
            (100, 200),
            sequences=128,
            seed=0,
            stream=Stream.SELECTION,
        )
        rises.append(rise)
        last.append(loss)
        short.append(results[0].accuracy)
        long.append(results[1].accuracy)
    return (
        f"{name:20} {statistics.median(norms):9.2g} {max(norms):9.2g} {skipped:7} "
        f"{max(rises):7.3f} {spread(last, '.3f'):>13} {spread(short, '.0%'):>11} "
        f"{spread(long, '.0%'):>11}"
    )


def spread(values: list[float], form: str) -> str:
    return "-".join(dict.fromkeys(format(value, form) for value in (min(values), max(values))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", default="", help="run only rows whose name starts with this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"hidden {options.hidden}, {options.updates} updates, {options.seeds} seeds")
    print(
        f"{'':20} {'norm':>9} {'largest':>9} {'skipped':>7} {'rise':>7} "
        f"{'last loss':>13} {'at 100':>11} {'at 200':>11}"
    )
    for name, trial in choices(options.hidden, options.updates):
        if name.startswith(options.only):
            print(row(name, trial, options.seeds), flush=True)


if __name__ == "__main__":
    main()
