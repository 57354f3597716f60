"""Measure the time and memory of each baseline on this CPU, compared with the LSTM.

    python benchmarks/models.py [STUDY] [--rounds 15] [--only NAME ...]

The models are those of a study file, by default search_spaces/copying.py: the study's own model,
named "space", and its baselines, each with the first configuration of its space. They are measured
on one thread with the study's task, at its training length.

An update is forward, loss, backward and the optimizer's step, on a batch of 32 sequences. The
models take turns, and each cell is the median with the minimum and the maximum in parentheses.
Evaluation runs the model without gradients on 16 sequences of the given length. Memory is the
growth of the peak resident set size of a process that makes three updates, or that evaluates once
at the longest length.
"""

from __future__ import annotations

import argparse
import os
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from cpu import most_resident, processor

from sabtune.config import TrialConfig
from sabtune.models import Model
from sabtune.study.loading import load
from sabtune.tasks import Batch, Task
from sabtune.training.matching import count_parameters
from sabtune.training.optimizer import Adam

ROOT = Path(__file__).parent.parent
BATCH, EVALUATED = 32, 16
STEPS = (100, 1000, 5000)
REFERENCE = "lstm"
WARM = 2


class Bench:
    """A model of a study file, with its optimizer and a batch."""

    def __init__(self, path: Path, name: str):
        file = load(path, None if name == "space" else name)
        self.trial: TrialConfig = file.try_space()
        self.task: Task = file.study.task.build()
        generator = torch.Generator().manual_seed(0)
        length = file.study.task.length
        self.batch: Batch = self.task.batch(BATCH, length, generator)
        self.parameters = count_parameters(self.trial.model, file.study.task)
        self.model: Model = self.trial.model.build(
            self.task.inputs, self.task.outputs, steps=self.batch.x.shape[1], generator=generator
        )
        self.optimizer = Adam(self.model.parameters(), lr=self.trial.train.learning_rate)

    def forward(self) -> torch.Tensor:
        logits, _ = self.model(self.batch.x)
        return self.task.loss(logits, self.batch)

    def update(self) -> tuple[float, float]:
        """Make an update; return the milliseconds of forward, and of all of it."""
        start = time.perf_counter()
        loss = self.forward()
        forward = time.perf_counter() - start
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return 1e3 * forward, 1e3 * (time.perf_counter() - start)

    @torch.no_grad()
    def evaluate(self, steps: int) -> float:
        """Return the milliseconds per step of a sequence of `steps` steps."""
        self.model.eval()
        x = torch.randn(EVALUATED, steps, self.task.inputs)
        start = time.perf_counter()
        self.model(x)
        self.model.train()
        return 1e3 * (time.perf_counter() - start) / steps


def measured(benches: dict[str, Bench], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the milliseconds of forward and of the update, for every round; models take turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in benches}
    for number in range(WARM + rounds):
        for name, bench in benches.items():
            elapsed = bench.update()
            if number >= WARM:
                times[name].append(elapsed)
    return times


def cell(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def print_updates(benches: dict[str, Bench], rounds: int) -> None:
    """Print a row per model: size, forward, update, and the update in multiples of the LSTM's."""
    print("| model | hidden | parameters | ms forward | ms update | of the LSTM's |")
    print("|---|---|---|---|---|---|")
    times = measured(benches, rounds)
    whole = {name: statistics.median(update for _, update in times[name]) for name in times}
    for name, bench in benches.items():
        forward, update = (cell([pair[i] for pair in times[name]]) for i in (0, 1))
        ratio = f"{whole[name] / whole[REFERENCE]:.2f}×"
        cells = [name, f"{bench.trial.model.hidden}", f"{bench.parameters:,}"]
        print("| " + " | ".join([*cells, forward, update, ratio]) + " |", flush=True)


def print_evaluations(benches: dict[str, Bench]) -> None:
    """Print a row per model with the time per step at each length."""
    print("\n| ms per step of 16 sequences | " + " | ".join(f"T {n:,}" for n in STEPS) + " |")
    print("|---" * (1 + len(STEPS)) + "|")
    for name, bench in benches.items():
        bench.evaluate(STEPS[0])
        cells = []
        for steps in STEPS:
            times = [bench.evaluate(steps) for _ in range(1 if steps > 1000 else 3)]
            cells.append(f"{statistics.median(times):.3f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def growth(path: Path, name: str, action: str) -> str:
    """Return the MiB by which an action lets the peak memory of a new process grow."""
    command = [sys.executable, __file__, str(path), "--grow", name, action]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return f"{float(done.stdout):,.0f}"


def grow(bench: Bench, action: str) -> float:
    actions: dict[str, Callable[[], object]] = {
        "updates": lambda: [bench.update() for _ in range(3)],
        "evaluation": lambda: bench.evaluate(STEPS[-1]),
    }
    bench.evaluate(2)  # loads libraries and kernels
    before = most_resident()
    actions[action]()
    return most_resident() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", nargs="?", type=Path, default=ROOT / "search_spaces/copying.py")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="the LSTM is always measured")
    parser.add_argument("--grow", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.grow:
        name, action = options.grow
        print(grow(Bench(options.study, name), action))
        return
    names = ["space", *runpy.run_path(str(options.study))["BASELINES"]]
    if options.only:
        names = [name for name in names if name in {REFERENCE, *options.only}]
    benches = {name: Bench(options.study, name) for name in names}
    steps = benches[REFERENCE].batch.x.shape[1]
    print(
        f"{processor()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}; "
        f"B {BATCH}, T {steps}\n"
    )
    print_updates(benches, options.rounds)
    print_evaluations(benches)
    print(f"\n| MiB at the peak | three updates | evaluation at T {STEPS[-1]:,} |")
    print("|---|---|---|")
    for name in names:
        cells = [growth(options.study, name, action) for action in ("updates", "evaluation")]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
