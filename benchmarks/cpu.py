"""Measure the time and memory of SAB on this CPU, compared with torch.nn.LSTM.

    python benchmarks/cpu.py [--quick]

First, the compiled pass and the eager pass (the fallback where the compiled pass can't run) are
compared with the reference equations: values and every gradient, for every scoring and normalizer.
If they differ, the script exits without printing times.

Then the script times forward, loss and backward on the copying task (10 symbols, one-hot, a linear
readout). nn.LSTM and the two passes take turns; each cell is the median, with the minimum and the
maximum in parentheses. A separate process compares both passes with the equations under plain
autograd. It runs with the default allocator, because the equations allocate new memory at every
step. Memory is the growth of the peak resident set size of a process that makes three updates.

--quick runs 5 rounds of training instead of 15.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from sabtune.models import SAB
from sabtune.ops import eager, reference
from sabtune.ops.call import Backend, Call
from sabtune.ops.dispatch import REFERENCE
from sabtune.ops.reference import Normalizer, Scoring

SYMBOLS = 10
RECALLED = 10  # the symbols at either end of a sequence; blanks lie between


@dataclass(frozen=True)
class Case:
    """The sizes, sparsity and rule of one row.

    noise: whether the input is normal noise instead of copying.
    """

    B: int
    T: int
    H: int = 128
    k_top: int = 10
    k_att: int = 2
    k_trunc: int = 10
    scoring: Scoring = "mlp"
    normalizer: Normalizer = "sum"
    noise: bool = False

    def label(self) -> str:
        words = [f"B {self.B} H {self.H} T {self.T}"]
        words += [self.scoring] * (self.scoring != "mlp")
        words += [self.normalizer] * (self.normalizer != "sum")
        words += ["noise"] * self.noise
        return " ".join(words)


TRAINING = (Case(64, 30, 64, 3, 2, 5), Case(64, 100), Case(64, 200), Case(64, 400))
SCORINGS = (Case(64, 100, scoring="dot"), Case(64, 100, scoring="separable"))  # on one thread
EVALUATION = (Case(16, 1000), Case(16, 5000), Case(16, 5000, noise=True))
MEMORY = (Case(64, 400), Case(64, 1000))


class Bench:
    """The models of a case, all with the same input."""

    def __init__(self, case: Case, dtype: torch.dtype = torch.float32):
        generator = torch.Generator().manual_seed(0)
        self.case = case
        B, T, H = case.B, case.T, case.H
        symbols = torch.randint(1, SYMBOLS - 1, (B, T), generator=generator)
        symbols[:, RECALLED : max(RECALLED, T - RECALLED)] = 0
        self.symbols = symbols
        self.x = one_hot(symbols, SYMBOLS).to(dtype)

        if case.noise:
            self.x = torch.randn(B, T, SYMBOLS, generator=generator).to(dtype)
        config = SAB.Config(
            hidden=H,
            k_top=case.k_top,
            k_att=case.k_att,
            k_trunc=case.k_trunc,
            scoring=case.scoring,
            normalizer=case.normalizer,
        )
        self.sab = config.build(SYMBOLS, SYMBOLS, steps=T, generator=generator).to(dtype)
        self.weights = list(self.sab.parameters())
        self.lstm = nn.LSTM(SYMBOLS, H, batch_first=True, dtype=dtype)
        self.head = nn.Linear(H, SYMBOLS, dtype=dtype)

    def by(self, backend: Backend) -> Tensor:
        p = self.sab.weights()
        state = reference.initial_state(self.case.B, p)
        call = Call(self.x, state, p, self.sab.sparsity, readout=(self.sab.V, self.sab.b))
        (logits,), _ = backend.run(call)
        return logits

    def logits(self, model: str) -> Tensor:
        if model in ("nn.LSTM", "compiled"):
            logits: Tensor = (
                self.sab(self.x)[0] if model == "compiled" else self.head(self.lstm(self.x)[0])
            )
            return logits
        return self.by(eager.BACKEND if model == "eager" else REFERENCE)

    def train(self, model: str) -> Tensor:
        for weight in (*self.weights, *self.lstm.parameters(), *self.head.parameters()):
            weight.grad = None
        logits = self.logits(model)
        cross_entropy(logits.flatten(0, 1), self.symbols.flatten()).backward()  # type: ignore[no-untyped-call]
        return logits.detach()

    def evaluate(self, model: str) -> Tensor:
        with torch.no_grad():
            return self.logits(model)


def verify() -> None:
    """Exit if the compiled pass or the eager pass differs from the equations."""
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        sizes = (Case(5, 60), Case(7, 45, 64, 3, 2, 5), Case(3, 33, 17, 50, 1, 0))
        rules = itertools.product(get_args(Scoring), get_args(Normalizer), (False, True))
        for size, (scoring, normalizer, noise) in itertools.product(sizes, rules):
            case = replace(size, scoring=scoring, normalizer=normalizer, noise=noise)
            bench = Bench(case, dtype)
            tensors = {}
            for model in ("compiled", "eager", "equations"):
                logits = bench.train(model)
                tensors[model] = [logits, *(weight.grad for weight in bench.weights)]
            pairs = (zip(tensors[name], tensors["equations"], strict=True) for name in tensors)
            for ours, truth in itertools.chain(*pairs):
                assert ours is not None
                assert truth is not None
                error = (ours - truth).abs().max() / truth.abs().max()
                if not error < tolerance:
                    sys.exit(f"{case} in {dtype}: off by {error:.1e}. No times for a wrong result.")


def measure(bench: Bench, way: str, models: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of every round by model; the models take turns."""
    times: dict[str, list[float]] = {model: [] for model in models}
    for round_ in range(rounds + 1):
        for model in models:
            if round_ > 4 and model in ("equations", "eager"):
                continue  # these are so slow that five rounds are enough
            start = time.perf_counter()
            getattr(bench, way)(model)
            if round_:  # the first round is a warm-up
                times[model].append(1e3 * (time.perf_counter() - start))
    return times


def table(way: str, case: Case, threads: int, models: Sequence[str], rounds: int) -> str:
    """Return a row with the models' times and the ratio of the second model's to the first's."""
    torch.set_num_threads(threads)
    times = measure(Bench(case), way, models, rounds)
    cells = [f"{way} {case.label()}", str(threads)]
    cells += [f"{statistics.median(t):.1f} ({min(t):.1f}–{max(t):.1f})" for t in times.values()]
    first, second = (statistics.median(times[model]) for model in models[:2])
    cells.append(f"{second / first:.2f}×")
    return "| " + " | ".join(cells) + " |"


def heading(models: Sequence[str], last: str) -> str:
    names = ["ms", "threads", *models, last]
    return "| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|"


def growth(model: str, case: Case) -> float:
    """Return the MiB by which the peak memory of a new process grows in three updates."""
    command = [sys.executable, __file__, "--grow", model, str(case.B), str(case.T)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def grow(model: str, case: Case) -> float:
    torch.set_num_threads(1)
    Bench(Case(2, 5)).train(model)  # load libraries and compile before measuring
    bench = Bench(case)
    before = most_resident()
    for _ in range(3):
        bench.train(model)
    return most_resident() - before


def most_resident() -> float:
    """Return the peak resident set size of this process in MiB.

    Works on Linux only; `ru_maxrss` would include the parent process.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM"))
    return float(line.split()[1]) / 1024


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def allocator() -> str:
    malloc = {name: value for name, value in os.environ.items() if name.startswith("MALLOC")}
    return str(malloc or "as it comes")


def against_equations(rounds: int) -> None:
    models = ("compiled", "equations", "eager")
    print(f"Beside the equations; allocator: {allocator()}\n")
    print(heading(models, "equations, of compiled"))
    for threads, T in itertools.product((1, 2), (100, 200, 400)):
        print(table("train", Case(64, T), threads, models, rounds), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--grow", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--equations", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds = 5 if options.quick else 15
    if options.grow:
        model, B, T = options.grow
        print(grow(model, Case(int(B), int(T))))
        return
    if options.equations:
        against_equations(rounds)
        return
    verify()
    print(
        f"{processor()}, {os.cpu_count()} CPUs, {torch.backends.cpu.get_cpu_capability()},", end=" "
    )
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}; allocator: {allocator()}\n")
    models = ("nn.LSTM", "compiled", "eager")
    print(heading(models, "compiled, of nn.LSTM"))
    for threads in (1, 2):
        for case in (*TRAINING, *SCORINGS * (threads == 1)):
            print(table("train", case, threads, models, rounds), flush=True)
    print("\n" + heading(models[:2], "compiled, of nn.LSTM"))
    for case in EVALUATION:
        print(table("evaluate", case, 1, models[:2], 5), flush=True)
    print(flush=True)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC")}
    command = [sys.executable, __file__, "--equations", *["--quick"] * options.quick]
    subprocess.run(command, check=True, env=plain)
    print("\n| MiB at the peak | nn.LSTM | compiled | eager | of nn.LSTM |")
    print("|---|---|---|---|---|")
    for case in MEMORY:
        lstm, ours, slow = (growth(model, case) for model in ("nn.LSTM", "compiled", "eager"))
        cells = f"B {case.B} T {case.T} | {lstm:.0f} | {ours:.0f} | {slow:.0f}"
        print(f"| {cells} | {ours / lstm:.2f}× |", flush=True)


if __name__ == "__main__":
    main()
