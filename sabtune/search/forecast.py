"""What a search would take, from a short probe of one trial."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from dataclasses import dataclass

import torch

from sabtune.config import RunConfig
from sabtune.evaluation import BATCH_STEPS, measure
from sabtune.search.study import StudyFile
from sabtune.seeding import Stream
from sabtune.training import Training
from sabtune.trial import forget_peak, peak

WARM = 3
"""Updates that are not timed."""

PROBE = 10.0
"""Seconds of training that are timed, at most."""


@dataclass(frozen=True, kw_only=True)
class RungCost:
    """Measuring one rung with all its sequences."""

    length: int
    seconds: float
    memory: float  # MiB, the process's most
    selects: bool


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Predicted from `updates` timed updates. hours: of the whole search, nothing pruned."""

    label: str
    updates: int
    seconds_per_update: float
    training_memory: float  # MiB
    rungs: list[RungCost]
    trial_seconds: float
    at_once: int
    hours: float


def forecast(file: StudyFile) -> Forecast:
    """Trains the study's first configuration for a moment and measures each rung once."""
    study = file.study
    config = file.try_space()
    torch.set_num_threads(study.resources.cpus)
    device = torch.device("cuda" if study.resources.gpus and torch.cuda.is_available() else "cpu")
    forget_peak(device)
    seconds, updates, training = _train(RunConfig(task=study.task, trial=config, seed=0), device)
    training_memory = peak(device)
    rungs = [_rung(file, training, length) for length in study.ladder.lengths]
    reports = math.ceil(config.train.updates / config.train.report_every)
    selecting = sum(rung.seconds for rung in rungs if rung.selects)
    everything = sum(rung.seconds for rung in rungs)
    trial = config.train.updates * seconds + (reports - 1) * selecting + 2 * everything
    at_once = max(1, (os.cpu_count() or 1) // study.resources.cpus)
    return Forecast(
        label=config.model.label(),
        updates=updates,
        seconds_per_update=seconds,
        training_memory=training_memory,
        rungs=rungs,
        trial_seconds=trial,
        at_once=at_once,
        hours=study.trials * trial / min(at_once, study.trials) / 3600,
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


def _rung(file: StudyFile, training: Training, length: int) -> RungCost:
    """One batch is measured; the others take as long."""
    ladder = file.study.ladder
    at_once = min(ladder.sequences, max(1, BATCH_STEPS // training.task.steps(length)))
    begun = time.perf_counter()
    measure(
        training.model,
        training.task,
        length,
        sequences=at_once,
        seed=file.study.seed,
        stream=Stream.SELECTION,
    )
    seconds = (time.perf_counter() - begun) * ladder.sequences / at_once
    return RungCost(
        length=length,
        seconds=seconds,
        memory=peak(training.model.device),
        selects=length in ladder.select,
    )
