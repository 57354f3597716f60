"""Decide the CPUs and GPUs of each trial, and how many trials share a GPU."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from sabtune import schema
from sabtune.cluster.capacity import PARTS_PER_GPU, Capacity, settled
from sabtune.config import RunConfig
from sabtune.errors import ResourceError
from sabtune.parts import local
from sabtune.parts.bundle import Bundle
from sabtune.study.definition import AUTO, Resources, words
from sabtune.study.study_file import StudyFile
from sabtune.study.writer import StudyWriter
from sabtune.training.trial import TrialSpec
from sabtune.tuning.probe import Reading, read_gpu

MEMORY_SHARE = 0.8
"""The maximum share of a GPU's memory that its trials may take if each takes as much as the probe.

The rest is a reserve, because other configurations may take more memory."""

MOST_TRIALS_PER_GPU = 8
"""The largest number of trials that share one GPU."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The CPUs and GPUs that each trial asks Ray for, and how many trials run at once.

    gpus: a fraction if trials share a GPU. words: an explanation for the user; "" if it needs none.
    """

    cpus: int
    gpus: float
    at_once: int
    words: str = ""


Read = Callable[[TrialSpec], Reading]


def placed(
    file: StudyFile,
    study: StudyWriter,
    *,
    look: Callable[[Resources], Capacity] = settled,
    read: Read | None = None,
    step: Callable[[str], object] = str,
) -> Placement:
    """Return the placement of a search's trials, and store it in the study.

    If the STUDY has `gpus="auto"`, a probe of one trial decides how many trials share a GPU. The
    reading is stored in the study, and later searches reuse it.

    look: a function that returns the capacity for the requested resources. read: the function that
    probes a trial; None for `on_a_gpu`. step: a function that is called when the probe begins.
    Raises ResourceError if no trial can ever be placed.
    """
    requested = file.study.resources
    capacity = look(requested)
    capacity.check_asked(requested)
    reading = None
    if requested.gpus == AUTO and capacity.has_gpus:
        stored = study.read().plan.placement
        if not stored:
            step("Probing the memory of a trial on a GPU")
        reading = Reading(**stored) if stored else (read or on_a_gpu)(first(file))
    placement = shared(requested, capacity, reading)
    study.change_plan(placed=placement.words, **({"placement": asdict(reading)} if reading else {}))
    return placement


def shared(requested: Resources, capacity: Capacity, reading: Reading | None) -> Placement:
    """Return the placement of trials that request these resources.

    reading: the memory of a probed trial, which decides what "auto" means; None if no trial was
    probed. Raises ResourceError if no trial fits.
    """
    cpus = words(requested.cpus, 0)
    if requested.gpus and not capacity.has_gpus and not capacity.unknown:
        explanation = f"No GPU here: each trial runs on {cpus}."
        gpus = 0.0
    elif requested.gpus != AUTO:
        explanation, gpus = "", requested.gpus
    elif reading is None or not reading.total:
        explanation = (
            "The memory of a trial can't be read because torch finds no GPU: "
            f"each trial gets 1 GPU and {cpus}."
        )
        gpus = 1.0
    else:
        count = trials_a_gpu(reading, capacity.most_by_cpus(requested.cpus))
        each = "1 trial has a GPU to itself" if count == 1 else f"{count} trials share one"
        explanation = (
            f"A trial took {reading.peak / 1024:.2f} GiB at its peak, of the "
            f"{reading.total / 1024:.1f} GiB of {reading.name}: {each}, each with {cpus}."
        )
        gpus = fraction(count)
    resources = dataclasses.replace(requested, gpus=gpus)
    capacity.check(resources)
    at_once = capacity.places(resources)
    return Placement(cpus=requested.cpus, gpus=gpus, at_once=at_once, words=explanation)


def trials_a_gpu(reading: Reading, by_cpus: int | None) -> int:
    """Return how many trials share one GPU: as many as the memory and the CPUs allow.

    The number is at least 1 and at most MOST_TRIALS_PER_GPU. by_cpus: the number of trials per GPU
    that the CPUs allow; None if no node with a GPU is known.
    """
    count = math.floor(MEMORY_SHARE * reading.total / reading.peak)
    return max(
        1, min(count, MOST_TRIALS_PER_GPU, MOST_TRIALS_PER_GPU if by_cpus is None else by_cpus)
    )


def fraction(count: int) -> float:
    """Return the fraction of a GPU to ask for so that `count` trials fit on one GPU."""
    return PARTS_PER_GPU // count / PARTS_PER_GPU


def first(file: StudyFile) -> TrialSpec:
    """Return the specification of a trial of the study's first configuration.

    The trial is not recorded in the study.
    """
    study = file.study
    return TrialSpec(
        number=0,
        configuration=0,
        run=RunConfig.of(task=study.task, trial=file.try_space(), seed=0),
        ladder=study.ladder,
        evaluation_seed=study.seed,
        threads=study.resources.cpus,
    )


def on_a_gpu(spec: TrialSpec) -> Reading:
    """Probe a trial on a GPU of the connected Ray, and return the memory that it takes.

    No other trial uses the GPU meanwhile. Raises ResourceError if the probe fails.
    """
    probe = ray.remote(num_cpus=spec.threads, num_gpus=1)(_reading)
    content = spec.to_dict()
    bundles = [local.find_bundle(digest) for digest in schema.codes(content).values()]
    try:
        reading: dict[str, Any] = ray.get(probe.remote(content, bundles))
    except RayError as problem:
        cause = getattr(problem, "cause", None) or problem
        line = next((line for line in str(cause).splitlines() if line.strip()), "")
        raise ResourceError(
            f"the probe of a trial on a GPU failed ({type(cause).__name__}: {line.strip()}): "
            "lower batch_size or the ladder's lengths, or set gpus to a number"
        ) from None
    return Reading(**reading)


def _reading(spec: dict[str, Any], bundles: Iterable[Bundle]) -> dict[str, Any]:
    for bundle in bundles:
        local.add_bundle(bundle)
    return asdict(read_gpu(TrialSpec.from_dict(spec)))
