"""How fast SAB trains and runs on this CPU, and in how much memory, beside torch.nn.LSTM.

    python benchmarks/cpu.py [--quick]

First the compiled pass and the eager one, which serves where that can't run, are compared with the
equations, values and every gradient, by every rule; if they differ no time is printed. Then, on
copying (10 symbols, one-hot, a linear readout): forward + loss + backward of nn.LSTM, of the two
passes and of the equations under plain autograd, in turn, again and again; the median of each, and
in brackets the least and greatest. Memory is the growth of the largest resident size of a process
that makes three updates. Minutes; --quick leaves out the equations' longest runs and takes fewer
rounds.
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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from sabtune.models import SAB
from sabtune.ops import eager, fused, reference
from sabtune.ops.reference import Normalizer, Scoring, State

SYMBOLS = 10
RECALLED = 10  # symbols at a copying sequence's start and end; blanks between


@dataclass(frozen=True)
class Case:
    """Sizes, sparsity and rule of one row; `noise`: on normal noise instead of copying."""

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
    """The models of a case, on the same input."""

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

    def by(self, sab: Callable[..., tuple[Tensor, Tensor, State]]) -> Tensor:
        case, p = self.case, self.sab.weights()
        state = reference.initial_state(case.B, p)
        hidden, summary, _ = sab(
            self.x,
            state,
            p,
            k_top=case.k_top,
            k_att=case.k_att,
            k_trunc=case.k_trunc,
            rule=self.sab.rule,
        )
        return self.sab.readout(hidden, summary)

    def logits(self, model: str) -> Tensor:
        if model == "nn.LSTM":
            logits: Tensor = self.head(self.lstm(self.x)[0])
            return logits
        passes = {"compiled": fused.sab, "eager": eager.sab, "equations": reference.sab}
        return self.by(passes[model])

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
    """Ends the program if the compiled pass or the eager one differs from the equations."""
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        sizes = (Case(5, 60), Case(7, 45, 64, 3, 2, 5), Case(3, 33, 17, 50, 1, 0))
        rules = itertools.product(get_args(Scoring), get_args(Normalizer))
        for size, (scoring, normalizer) in itertools.product(sizes, rules):
            case = replace(size, scoring=scoring, normalizer=normalizer)
            bench = Bench(case, dtype)
            bench.x += 0.3 * torch.randn(bench.x.shape, generator=torch.Generator().manual_seed(1))
            found = {}
            for model in ("compiled", "eager", "equations"):
                logits = bench.train(model)
                found[model] = [logits, *(weight.grad for weight in bench.weights)]
            pairs = (zip(found[name], found["equations"], strict=True) for name in found)
            for ours, truth in itertools.chain(*pairs):
                assert ours is not None
                assert truth is not None
                error = (ours - truth).abs().max() / truth.abs().max()
                if not error < tolerance:
                    sys.exit(f"{case} in {dtype}: off by {error:.1e}. No times for a wrong result.")


def measure(bench: Bench, way: str, models: list[str], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every round, the models in turn."""
    times: dict[str, list[float]] = {model: [] for model in models}
    for round_ in range(rounds + 1):
        for model in models:
            if round_ > 2 and model == "equations":
                continue  # slow enough to be steady
            start = time.perf_counter()
            getattr(bench, way)(model)
            if round_:  # the first warms up
                times[model].append(1e3 * (time.perf_counter() - start))
    return times


def table(way: str, case: Case, threads: int, models: list[str], rounds: int) -> str:
    torch.set_num_threads(threads)
    times = measure(Bench(case), way, models, rounds)
    middle = {model: statistics.median(values) for model, values in times.items()}
    cells = [f"{way} {case.label()}", str(threads)]
    for model in ("nn.LSTM", "compiled", "eager", "equations"):
        spread = times.get(model)
        cells.append(
            f"{middle[model]:.1f} ({min(spread):.1f}–{max(spread):.1f})" if spread else "–"
        )
    cells.append(f"{middle['compiled'] / middle['nn.LSTM']:.2f}×")
    slow = middle.get("equations")
    cells.append(f"{slow / middle['compiled']:.0f}×" if slow else "–")
    return "| " + " | ".join(cells) + " |"


def growth(model: str, case: Case) -> float:
    """MiB by which a fresh process grows."""
    command = [sys.executable, __file__, "--grow", model, str(case.B), str(case.T)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def grow(model: str, case: Case) -> float:
    torch.set_num_threads(1)
    Bench(Case(2, 5)).train(model)  # libraries and compiled code are no part of it
    bench = Bench(case)
    before = most_resident()
    for _ in range(3):
        bench.train(model)
    return most_resident() - before


def most_resident() -> float:
    """MiB that this process held at most; Linux (ru_maxrss would count its parent in)."""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM"))
    return float(line.split()[1]) / 1024


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--grow", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.grow:
        model, B, T = options.grow
        print(grow(model, Case(int(B), int(T))))
        return
    verify()
    malloc = {name: value for name, value in os.environ.items() if name.startswith("MALLOC")}
    print(f"{processor()}, {os.cpu_count()} CPUs, torch {torch.__version__},", end=" ")
    print(f"allocator: {malloc or 'as it comes'}, load {os.getloadavg()[0]:.1f}\n")
    print("| ms | threads | nn.LSTM | compiled | eager | equations | of nn.LSTM |", end="")
    print(" faster than equations |\n|---|---|---|---|---|---|---|---|")
    rounds = 5 if options.quick else 9
    for threads in (1, 2):
        for case in (*TRAINING, *SCORINGS * (threads == 1)):
            models = ["nn.LSTM", "compiled", "eager"]
            if not (options.quick and case.T > 100):
                models.append("equations")
            print(table("train", case, threads, models, rounds), flush=True)
    for case in EVALUATION:
        print(table("evaluate", case, 1, ["nn.LSTM", "compiled"], 5), flush=True)
    print("\n| MiB at the peak | nn.LSTM | compiled | eager | of nn.LSTM |")
    print("|---|---|---|---|---|")
    for case in MEMORY:
        lstm, ours, slow = (growth(model, case) for model in ("nn.LSTM", "compiled", "eager"))
        cells = f"B {case.B} T {case.T} | {lstm:.0f} | {ours:.0f} | {slow:.0f}"
        print(f"| {cells} | {ours / lstm:.2f}× |", flush=True)


if __name__ == "__main__":
    main()
