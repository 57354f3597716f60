"""One trial, tried for a moment: the time and the memory that it takes."""

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

WARM = 3
"""Updates that are not timed."""

PROBE = 10.0
"""Seconds of training that are timed, at most."""


@dataclass(frozen=True, kw_only=True)
class LengthCost:
    """Measuring one rung with all its sequences."""

    length: int
    seconds: float
    memory: float  # MiB, the process's most
    selects: bool


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Of a GPU: what one trial held at its peak and what there is, in MiB. total: 0 where torch
    found no GPU."""

    name: str
    peak: float
    total: float


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What came of trying one trial for a moment. reading: of the GPU, where there is one."""

    label: str
    updates: int  # that were timed
    seconds_per_update: float
    training_memory: float  # MiB
    results: list[LengthCost]
    trial_seconds: float
    reading: Reading | None


def probe(spec: TrialSpec, device: torch.device) -> Probe:
    """Trains for a moment and measures each rung once."""
    config, ladder = spec.run.trial, spec.ladder
    torch.set_num_threads(spec.threads)
    forget_peak(device)
    seconds, updates, training = _train(spec.run, device)
    training_memory = peak(device)
    results = [_length_result(spec, training, length) for length in ladder.lengths]
    reports = math.ceil(config.train.updates / config.train.report_every)
    selecting = sum(result.seconds for result in results if result.selects)
    everything = sum(result.seconds for result in results)
    return Probe(
        label=config.model.label(),
        updates=updates,
        seconds_per_update=seconds,
        training_memory=training_memory,
        results=results,
        trial_seconds=config.train.updates * seconds + (reports - 1) * selecting + 2 * everything,
        reading=held(device) if device.type == "cuda" else None,
    )


def read_gpu(spec: TrialSpec) -> Reading:
    """What a trial holds of this process's GPU, which no other process uses, while it trains and
    on the longest rung."""
    if not torch.cuda.is_available():
        return Reading(name="", peak=0, total=0)
    longest = max(spec.ladder.lengths)
    ladder = dataclasses.replace(spec.ladder, lengths=(longest,), select=(longest,))
    made = probe(dataclasses.replace(spec, ladder=ladder), torch.device("cuda"))
    assert made.reading is not None
    return made.reading


def held(device: torch.device) -> Reading:
    """The most that this process held of the GPU: what its allocator kept, and beside it CUDA's
    own, which is all else that the GPU has given away."""
    free, total = torch.cuda.mem_get_info(device)
    kept, most = torch.cuda.memory_reserved(device), torch.cuda.max_memory_reserved(device)
    return Reading(
        name=torch.cuda.get_device_name(device),
        peak=(total - free - kept + most) / 2**20,
        total=total / 2**20,
    )


def _train(run: RunConfig, device: torch.device) -> tuple[float, int, Training]:
    """Seconds an update, over how many, and what was trained."""
    every_update = dataclasses.replace(run.trial.train, report_every=1)
    trial = dataclasses.replace(run.trial, train=every_update)
    training = Training(dataclasses.replace(run, trial=trial), device)
    reports = iter(training)
    for _ in range(min(WARM, run.trial.train.updates - 1)):
        next(reports)
    begun, done = time.perf_counter(), 0
    for _ in reports:
        done += 1
        if time.perf_counter() - begun > PROBE:
            break
    return (time.perf_counter() - begun) / done, done, training


def _length_result(spec: TrialSpec, training: Training, length: int) -> LengthCost:
    """One batch is measured; the others take as long."""
    ladder = spec.ladder
    at_once = min(ladder.sequences, max(1, BATCH_STEPS // training.task.steps(length)))
    begun = time.perf_counter()
    measure(
        training.model,
        training.task,
        length,
        sequences=at_once,
        seed=spec.evaluation_seed,
        stream=Stream.SELECTION,
        phases=min(ladder.phases or 1, at_once),
    )
    seconds = (time.perf_counter() - begun) * ladder.sequences / at_once
    return LengthCost(
        length=length,
        seconds=seconds,
        memory=peak(training.model.device),
        selects=length in ladder.select,
    )
