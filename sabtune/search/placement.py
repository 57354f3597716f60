"""What each trial is given: CPUs, and how many trials share one GPU where that is left open."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import optuna
import ray
from ray.exceptions import RayError

from sabtune.cluster.capacity import UNIT, Capacity, settled
from sabtune.config import RunConfig
from sabtune.errors import ResourceError
from sabtune.search.probe import Reading, read_gpu
from sabtune.study import record
from sabtune.study.definition import AUTO, Resources, StudyFile, words
from sabtune.training.trial import TrialSpec

MAY_USE = 0.8
"""The share of a GPU's memory that its trials may take, by what one of them took at its peak:
another configuration takes more."""

MOST = 8
"""The most trials that share one GPU."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What each trial asks Ray for; how many run at once; why, in words, where that isn't plain."""

    cpus: int
    gpus: float
    at_once: int
    words: str = ""


Read = Callable[[TrialSpec], Reading]


def placed(
    file: StudyFile,
    study: optuna.Study,
    *,
    look: Callable[[Resources], Capacity] = settled,
    read: Read | None = None,
) -> Placement:
    """What the trials of a search are given here; the study keeps it.

    Where the STUDY leaves to a probe how many share a GPU, one is made, unless an earlier search
    of the study has made it. Raises ResourceError if no trial can ever be placed.
    """
    asked = file.study.resources
    have = look(asked)
    have.check_asked(asked)
    reading = None
    if asked.gpus == AUTO and have.has_gpus:
        kept = record.plan(study).get(record.PLACEMENT)
        reading = Reading(**kept) if kept else (read or on_a_gpu)(first(file))
    found = shared(asked, have, reading)
    plan = {**record.plan(study), record.PLACED: found.words}
    record.set_plan(study, plan | ({record.PLACEMENT: asdict(reading)} if reading else {}))
    return found


def shared(asked: Resources, have: Capacity, reading: Reading | None) -> Placement:
    """What is asked for, in numbers; "auto" by the reading. Raises ResourceError if it can't be."""
    cpus = words(asked.cpus, 0)
    if asked.gpus and not have.has_gpus and not have.unknown:
        told = f"No GPU here: each trial runs on {cpus}."
        gpus = 0.0
    elif asked.gpus != AUTO:
        told, gpus = "", asked.gpus
    elif reading is None or not reading.total:
        told = f"No trial's memory could be read, as torch finds no GPU: 1 GPU and {cpus} a trial."
        gpus = 1.0
    else:
        count = trials_a_gpu(reading, have.most_by_cpus(asked.cpus))
        each = "1 trial has a GPU to itself" if count == 1 else f"{count} trials share one"
        told = (
            f"A trial took {reading.peak / 1024:.2f} GiB at its peak, of the "
            f"{reading.total / 1024:.1f} GiB of {reading.name}: {each}, each with {cpus}."
        )
        gpus = fraction(count)
    given = dataclasses.replace(asked, gpus=gpus)
    have.check(given)
    at_once = have.places(given)
    return Placement(cpus=asked.cpus, gpus=gpus, at_once=at_once, words=told)


def trials_a_gpu(reading: Reading, by_cpus: int | None) -> int:
    """How many share one GPU: as many as its memory and the CPUs beside it bear, at least one.

    by_cpus: None where the CPUs of no node that has a GPU are known.
    """
    count = math.floor(MAY_USE * reading.total / reading.peak)
    return max(1, min(count, MOST, MOST if by_cpus is None else by_cpus))


def fraction(count: int) -> float:
    """The part of a GPU that one of `count` trials asks for, such that all of them fit."""
    return UNIT // count / UNIT


def first(file: StudyFile) -> TrialSpec:
    """The study's first configuration, as a trial that no study knows."""
    study = file.study
    return TrialSpec(
        number=0,
        configuration=0,
        run=RunConfig(task=study.task, trial=file.try_space(), seed=0),
        ladder=study.ladder,
        evaluation_seed=study.seed,
        threads=study.resources.cpus,
    )


def on_a_gpu(spec: TrialSpec) -> Reading:
    """What a trial holds of a GPU of this Ray that it has to itself. Raises ResourceError if it
    can't be trained there."""
    probe = ray.remote(num_cpus=spec.threads, num_gpus=1)(_reading)
    try:
        read: dict[str, Any] = ray.get(probe.remote(spec.to_dict()))
    except RayError as problem:
        cause = getattr(problem, "cause", None) or problem
        line = next((line for line in str(cause).splitlines() if line.strip()), "")
        raise ResourceError(
            f"a trial couldn't be tried on a GPU ({type(cause).__name__}: {line.strip()}): "
            "lower batch_size or the ladder's lengths, or give gpus a number"
        ) from None
    return Reading(**read)


def _reading(spec: dict[str, Any]) -> dict[str, Any]:
    return asdict(read_gpu(TrialSpec.from_dict(spec)))
