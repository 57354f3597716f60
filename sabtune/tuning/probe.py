"""Train one trial briefly to measure the time and the memory that it takes."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass

import torch

from sabtune.config import RunConfig
from sabtune.seeding import Stream
from sabtune.training.evaluation import BATCH_STEPS, measure
from sabtune.training.loop import Training
from sabtune.training.memory import forget_peak, peak
from sabtune.training.trial import TrialSpec

WARM_UPDATES = 3
"""The number of updates before the timing starts."""

PROBE_SECONDS = 10.0
"""The seconds after which the timed training ends."""


@dataclass(frozen=True, kw_only=True)
class LengthCost:
    """The cost of measuring one length with all its sequences."""

    length: int
    seconds: float
    memory: float  # MiB, the peak of the process
    selects: bool  # whether it is one of the selection lengths


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The memory of a GPU, and how much of it one trial takes.

    name: the GPU's name. peak: the peak memory of the trial in MiB. total: the memory of the GPU in
    MiB; 0 if torch finds no GPU.
    """

    name: str
    peak: float
    total: float


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The result of training one trial briefly.

    label: a description of the model. results: the cost of each length. trial_seconds: the
    predicted duration of the whole trial. reading: the memory of the GPU; None on a CPU.
    """

    label: str
    updates: int  # the number of timed updates
    seconds_per_update: float
    training_memory: float  # MiB
    results: list[LengthCost]
    trial_seconds: float
    reading: Reading | None


def probe(spec: TrialSpec, device: torch.device) -> Probe:
    """Train a trial briefly, and measure one batch of each length, to predict its duration."""
    run, ladder = spec.run, spec.ladder
    torch.set_num_threads(spec.threads)
    forget_peak(device)
    seconds, updates, training = _train(spec.run, device)
    training_memory = peak(device)
    results = [_length_cost(spec, training, length) for length in ladder.lengths]
    reports = math.ceil(run.train.updates / run.train.report_every)
    selecting = sum(result.seconds for result in results if result.selects)
    everything = sum(result.seconds for result in results)
    return Probe(
        label=run.model.label(),
        updates=updates,
        seconds_per_update=seconds,
        training_memory=training_memory,
        results=results,
        trial_seconds=run.train.updates * seconds + (reports - 1) * selecting + 2 * everything,
        reading=held(device) if device.type == "cuda" else None,
    )


def read_gpu(spec: TrialSpec) -> Reading:
    """Probe a trial on this process's GPU, and return the memory that it takes.

    The peak covers the training and the longest length of the ladder. The result is valid only if
    no other process uses the GPU meanwhile.
    """
    if not torch.cuda.is_available():
        return Reading(name="", peak=0, total=0)
    longest = max(spec.ladder.lengths)
    ladder = dataclasses.replace(spec.ladder, lengths=(longest,), select=(longest,))
    measured = probe(dataclasses.replace(spec, ladder=ladder), torch.device("cuda"))
    assert measured.reading is not None
    return measured.reading


def held(device: torch.device) -> Reading:
    """Return the peak of this process's memory on the GPU, and the GPU's total memory.

    The peak is the sum of two parts: the peak of torch's allocator, and the memory in use on the
    GPU outside of it, which is CUDA's own if no other process uses the GPU.
    """
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    peak_reserved = torch.cuda.max_memory_reserved(device)
    return Reading(
        name=torch.cuda.get_device_name(device),
        peak=(total - free - reserved + peak_reserved) / 2**20,
        total=total / 2**20,
    )


def _train(run: RunConfig, device: torch.device) -> tuple[float, int, Training]:
    """Train briefly. Return the seconds per update, the number of timed updates, the training."""
    every_update = dataclasses.replace(run.train, report_every=1)
    training = Training(dataclasses.replace(run, train=every_update), device)
    reports = iter(training)
    for _ in range(min(WARM_UPDATES, run.train.updates - 1)):
        next(reports)
    start, updates = time.perf_counter(), 0
    for _ in reports:
        updates += 1
        if time.perf_counter() - start > PROBE_SECONDS:
            break
    return (time.perf_counter() - start) / updates, updates, training


def _length_cost(spec: TrialSpec, training: Training, length: int) -> LengthCost:
    """Measure one batch of a length, and extrapolate its time to all sequences."""
    ladder = spec.ladder
    at_once = min(ladder.sequences, max(1, BATCH_STEPS // training.task.steps(length)))
    start = time.perf_counter()
    measure(
        training.model,
        training.task,
        length,
        sequences=at_once,
        seed=spec.evaluation_seed,
        stream=Stream.SELECTION,
        phases=min(ladder.phase_count, at_once),
    )
    seconds = (time.perf_counter() - start) * ladder.sequences / at_once
    return LengthCost(
        length=length,
        seconds=seconds,
        memory=peak(training.model.device),
        selects=length in ladder.select,
    )
