"""Measure the training speed of the experimental GPU kernels, compared with torch.nn.LSTM.

    python benchmarks/gpu.py [--quick]

First, the kernels are compared with the reference equations in float64: values and every gradient,
for every scoring and normalizer. If they differ, the script exits without printing times.

Then it times forward, loss and backward on normal noise with 10 inputs and a linear readout to 10
symbols, by the clock of the GPU. nn.LSTM (cuDNN), the kernels and the eager pass take turns; each
cell is the median, with the minimum and the maximum in parentheses. In bf16, the weights, inputs
and outputs are bf16; the eager pass doesn't support it. "µs a step" is the kernels' median divided
by T. "MiB" is what an update allocates beyond the model and the batch. The last table has the
updates per second of trials that share the GPU, on streams of one process and as processes.

The roofline (`least_ms`) is the least time an update can take: the greater of FLOP / R and
bytes / W. R is the rate of torch.mm at 8192³ in the dtype without TF32, and W the rate of copying
1 GiB, both measured first. Per step and example, with M memories of which K = min(k_top + 1, M)
have a weight,

    FLOP  = 3 (8 H (I + H) + 2 H² + 2 H² / k_att) + 4 M H + 12 K H
    bytes = 2 (8 H + s H + s I + 8 K + 8 H / k_att) + 2 s H

where s is the size of the dtype in bytes. FLOP counts the matrix products once forward and twice
backward, all scores forward, and K scores backward. The bytes are those of the output gradients
and, once written and once read, of what the backward pass needs. Memories that are read again are
assumed to be cached.

--quick runs fewer rounds. Without a GPU the script exits with code 2.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch
from cpu import SYMBOLS, Case
from torch import Tensor, nn
from torch.cuda import Event, Stream
from torch.nn.functional import cross_entropy

from sabtune.models import SAB
from sabtune.ops import eager, reference, triton
from sabtune.ops.call import Call
from sabtune.ops.dispatch import REFERENCE
from sabtune.ops.reference import Normalizer, Scoring

TRAINING = (Case(64, 100), Case(64, 400), Case(64, 1000))
SHARED = Case(64, 100)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
WARM = 3
SECONDS = 5.0
BARRIER_SECONDS = 300.0
CUDA = torch.device("cuda")
barrier: Any = None  # where the processes that share the GPU wait for each other
BACKENDS = {"kernels": triton.BACKEND, "eager": eager.BACKEND, "equations": REFERENCE}


class Bench:
    """The models of a case, all with the same input."""

    def __init__(self, case: Case, dtype: torch.dtype, device: torch.device = CUDA):
        generator = torch.Generator().manual_seed(0)
        self.case = case
        B, T, H = case.B, case.T, case.H
        self.symbols = torch.randint(SYMBOLS, (B, T), generator=generator).to(device)
        self.x = torch.randn(B, T, SYMBOLS, generator=generator).to(device, dtype)
        config = SAB.Config(
            hidden=H,
            k_top=case.k_top,
            k_att=case.k_att,
            k_trunc=case.k_trunc,
            scoring=case.scoring,
            normalizer=case.normalizer,
        )
        self.sab = config.build(SYMBOLS, SYMBOLS, steps=T, generator=generator).to(device, dtype)
        self.lstm = nn.LSTM(SYMBOLS, H, batch_first=True, device=device, dtype=dtype)
        self.head = nn.Linear(H, SYMBOLS, device=device, dtype=dtype)
        self.weights = list(self.sab.parameters())

    def in_float64(self) -> Bench:
        """Return a bench with the same weights and inputs in float64, as ground truth."""
        exact = Bench(self.case, torch.float64, self.x.device)
        exact.x = self.x.double()
        exact.sab.load_state_dict(self.sab.state_dict())
        return exact

    def logits(self, model: str) -> Tensor:
        if model == "nn.LSTM":
            logits: Tensor = self.head(self.lstm(self.x)[0])
            return logits
        p = self.sab.weights()
        state = reference.initial_state(self.case.B, p)
        call = Call(self.x, state, p, self.sab.sparsity, readout=(self.sab.V, self.sab.b))
        assert BACKENDS[model].supports(call)
        (logits,), _ = BACKENDS[model].run(call)
        return logits

    def train(self, model: str) -> Tensor:
        for weight in (*self.weights, *self.lstm.parameters(), *self.head.parameters()):
            weight.grad = None
        logits = self.logits(model)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        loss = cross_entropy(wide.flatten(0, 1), self.symbols.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        return logits.detach()

    def results(self, model: str) -> list[Tensor]:
        """Return the logits and every gradient."""
        logits = self.train(model)
        return [logits, *(w.grad for w in self.weights if w.grad is not None)]


def verify(sizes: Sequence[Case], device: torch.device = CUDA) -> None:
    """Exit if the kernels differ from the equations in float64.

    Where the equations in float32 exceed the tolerance themselves, the kernels may have 8 times
    their error.
    """
    ways = itertools.product(sizes, TOLERANCE.items(), get_args(Scoring), get_args(Normalizer))
    for size, (dtype, tolerance), scoring, normalizer in ways:
        case = replace(size, scoring=scoring, normalizer=normalizer)
        bench = Bench(case, dtype, device)
        ours, truth = bench.results("kernels"), bench.in_float64().results("equations")
        plain = bench.results("equations") if dtype == torch.float32 else truth
        for mine, true, other in zip(ours, truth, plain, strict=True):
            largest = true.abs().max()
            error, its = ((given - true).abs().max() / largest for given in (mine, other))
            if not error < max(tolerance, 8 * float(its)):
                sys.exit(f"{case} in {dtype}: off by {error:.1e}. No times for a wrong result.")


def flop(case: Case) -> float:
    H, T, k_att = case.H, case.T, case.k_att
    products = 3 * T * (8 * H * (SYMBOLS + H) + 2 * H**2 + 2 * H**2 / k_att)
    M = [1 + t // k_att for t in range(T)]
    K = sum(min(case.k_top + 1, m) for m in M)
    return case.B * (products + 4 * sum(M) * H + 12 * K * H)


def moved(case: Case, dtype: torch.dtype) -> float:
    """Return the bytes that an update has to move."""
    H, T, size = case.H, case.T, dtype.itemsize
    K = sum(min(case.k_top + 1, 1 + t // case.k_att) for t in range(T))
    record = T * (8 * H + size * H + size * SYMBOLS + 8 * H / case.k_att) + 8 * K
    return case.B * (2 * record + 2 * T * size * H)


def least_ms(case: Case, dtype: torch.dtype, rate: float, width: float) -> float:
    """Return the roofline in milliseconds, for `rate` FLOP/s and `width` bytes/s."""
    return 1e3 * max(flop(case) / rate, moved(case, dtype) / width)


def timed(run: Callable[[], object]) -> float:
    """Return the milliseconds by the clock of the GPU, including waits for the host."""
    begun, ended = (Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begun.record()
    run()
    ended.record()
    ended.synchronize()
    return float(begun.elapsed_time(ended))


def measured_rates(dtype: torch.dtype) -> tuple[float, float]:
    """Return the FLOP/s and bytes/s that this GPU reaches."""
    n = 8192
    a, out = (torch.ones(n, n, dtype=dtype, device=CUDA) for _ in range(2))
    product = statistics.median([timed(lambda: torch.mm(a, a, out=out)) for _ in range(8)][3:])
    one, other = (torch.ones(2**28, device=CUDA) for _ in range(2))
    copy = statistics.median([timed(lambda: other.copy_(one)) for _ in range(8)][3:])
    return 2e3 * n**3 / product, 2e3 * one.nbytes / copy


def measure(bench: Bench, models: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of every round by model; the models take turns."""
    times: dict[str, list[float]] = {model: [] for model in models}
    for round_, model in itertools.product(range(-WARM, rounds), models):
        ms = timed(partial(bench.train, model))
        if round_ >= 0:
            times[model].append(ms)
    return times


def peak(bench: Bench, model: str) -> float:
    """Return the MiB that an update allocates beyond what is allocated before it."""
    bench.train(model)
    for weight in (*bench.weights, *bench.lstm.parameters(), *bench.head.parameters()):
        weight.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    bench.train(model)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def heading(columns: Sequence[str]) -> str:
    return "| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|"


def rows(dtype: torch.dtype, rounds: int) -> None:
    models = ["nn.LSTM", "kernels"] + ["eager"] * (dtype in eager.DTYPES)
    rate, width = measured_rates(dtype)
    print(f"\n{dtype}: torch.mm {rate / 1e12:.1f} TFLOP/s, copying {width / 1e9:.0f} GB/s\n")
    columns = ["ms", *models, "kernels, of nn.LSTM", "µs a step", "of the roofline"]
    print(heading([*columns, *(f"MiB, {model}" for model in models)]))
    for case in TRAINING:
        bench = Bench(case, dtype)
        times = measure(bench, models, rounds)
        cells = [f"{statistics.median(t):.2f} ({min(t):.2f}–{max(t):.2f})" for t in times.values()]
        lstm, ours = (statistics.median(times[model]) for model in models[:2])
        share = least_ms(case, dtype, rate, width) / ours
        cells += [f"{ours / lstm:.2f}×", f"{1e3 * ours / case.T:.2f}", f"{share:.1%}"]
        cells += [f"{peak(bench, model):.0f}" for model in models]
        print(f"| train {case.label()} | {' | '.join(cells)} |", flush=True)


def updates_a_second(benches: Sequence[Bench], model: str, seconds: float) -> float:
    """Return the total updates per second of the benches, each on its own stream."""
    streams = [Stream() for _ in benches]  # type: ignore[no-untyped-call]

    def round_() -> None:
        for bench, stream in zip(benches, streams, strict=True):
            with torch.cuda.stream(stream):
                bench.train(model)

    torch.cuda.synchronize()
    for _ in range(WARM):
        round_()
    torch.cuda.synchronize()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        round_()
        done += len(benches)
        torch.cuda.synchronize()
    return done / (time.perf_counter() - start)


def start_worker(shared: Any) -> None:
    """Initialize a worker process: store the barrier and enable the kernels."""
    global barrier
    barrier = shared
    os.environ[triton.SWITCH] = "1"


def alone(model: str, seconds: float) -> float:
    """Return the updates per second of this process while the other processes run."""
    bench = Bench(SHARED, torch.float32)
    bench.train(model)
    barrier.wait(BARRIER_SECONDS)
    return updates_a_second([bench], model, seconds)


def in_processes(count: int, model: str, seconds: float) -> float:
    context = multiprocessing.get_context("spawn")
    shared = context.Barrier(count)
    with ProcessPoolExecutor(count, context, start_worker, (shared,)) as pool:
        return sum(pool.map(alone, [model] * count, [seconds] * count))


def placement(seconds: float) -> None:
    models = ("nn.LSTM", "kernels", "eager")
    print(f"\nUpdates a second of all trials together, {SHARED.label()}, float32\n")
    ways = [f"{model}, {way}" for way in ("streams", "processes") for model in models]
    print(heading(["trials", *ways]))
    for count in (1, 2, 4, 8):
        benches = [Bench(SHARED, torch.float32) for _ in range(count)]
        rates = [updates_a_second(benches, model, seconds) for model in models]
        del benches
        torch.cuda.empty_cache()
        rates += [in_processes(count, model, seconds) for model in models]
        print(f"| {count} | " + " | ".join(f"{rate:.1f}" for rate in rates) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="run fewer and shorter rounds")
    options = parser.parse_args()
    os.environ[triton.SWITCH] = "1"
    if not torch.cuda.is_available() or triton.problem_on(CUDA):
        print("There is no GPU here on which the kernels run: nothing was measured.")
        sys.exit(2)
    verify((Case(5, 60), Case(7, 45, 64, 3, 2, 5), Case(3, 33, 17, 50, 2, 0)))
    name, load = torch.cuda.get_device_name(), os.getloadavg()[0]
    print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, load {load:.1f}")
    print("The kernels agree with the equations in float64.")
    for dtype in TOLERANCE:
        rows(dtype, 5 if options.quick else 15)
    placement(SECONDS / 5 if options.quick else SECONDS)


if __name__ == "__main__":
    main()
