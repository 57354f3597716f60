"""Measurements of trained models at lengths that their trials did not test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sabtune.errors import StoreError
from sabtune.schema import check
from sabtune.study.record import StudyRecord
from sabtune.study.trial_record import TrialRecord
from sabtune.training.checkpoint import MODEL_FILES, load_model
from sabtune.training.evaluation import LengthResult, measure
from sabtune.training.memory import forget_peak, peak
from sabtune.training.trial import check_datasets


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """A length result, and the peak memory of its measurement in MiB."""

    result: LengthResult
    memory: float


def chosen(study: StudyRecord, numbers: Sequence[int] | None) -> list[TrialRecord]:
    """Return the trials with these numbers, or the best trial if none is given.

    Raises StoreError if the study has no such trial, or no complete one.
    """
    if numbers:
        return [study.trial(number) for number in numbers]
    if study.best is None:
        raise StoreError(f"study {study.name!r} has no complete trial yet: search it first")
    return [study.best]


def extrapolate(
    trial: TrialRecord, lengths: Sequence[int], sequences: int, phases: int = 1
) -> Iterator[Extrapolation]:
    """Measure the model of a trial at one length after the other, on its test sequences.

    If the trial was tested at a length with the same numbers of sequences and phases, the result
    equals the recorded one.

    phases: The number of consecutive lengths over which the sequences are spread.

    Raises StoreError if the trial isn't complete, DataError if the data is missing or has changed,
    CheckpointError if its model can't be read, and ConfigError if the task has no sequences of
    these lengths or there are more phases than sequences.
    """
    if not trial.test or trial.checkpoint is None or trial.spec is None:
        raise StoreError(f"trial {trial.number} isn't complete: give a complete trial")
    spec = trial.spec
    check_datasets(spec)
    with trial.checkpoint.here(MODEL_FILES) as folder:
        model = load_model(folder, trial.run)
    task = spec.run.task.build()
    check(phases <= sequences, "phases", phases, f"at most as many as sequences, {sequences}")
    for length in lengths:
        task.steps(length)
    torch.set_num_threads(spec.threads)
    stream = spec.test_stream
    for length in lengths:
        forget_peak(model.device)
        seed = spec.evaluation_seed
        result = measure(
            model,
            task,
            length,
            sequences=sequences,
            seed=seed,
            stream=stream,
            phases=phases,
        )
        yield Extrapolation(result=result, memory=peak(model.device))
