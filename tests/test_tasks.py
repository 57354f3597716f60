"""Test the contract of all tasks."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sabtune.config import RunConfig, TrialConfig
from sabtune.models import SAB
from sabtune.seeding import Stream, generator
from sabtune.study.loading import load
from sabtune.tasks import (
    MQAR,
    TASKS,
    Adding,
    Batch,
    Copying,
    FlipFlop,
    Language,
    Parity,
    Passkey,
    Permutations,
    Pixels,
    Recall,
    SelectiveCopying,
    Sequences,
    Task,
    TaskConfig,
)
from sabtune.testing import check_task
from sabtune.training.evaluation import measure_ladder, selection_score
from tests.data_files import write_sequences
from tests.studies import posed

WorkerResult = Callable[[Task, Batch], Tensor]
"""A function from a task and a batch to logits of shape (B, T, O)."""


@dataclass(frozen=True)
class Example:
    """A task, a guess that knows all but what a model must remember, and further lengths."""

    config: TaskConfig
    guess: WorkerResult
    longer: tuple[int, ...]


def among(first: int) -> WorkerResult:
    """Return a guess that is uniform over the classes from `first`."""

    def guess(task: Task, batch: Batch) -> Tensor:
        drawn = torch.rand(*batch.x.shape[:2], task.outputs, generator=generator(5, Stream.TEST))
        drawn[..., :first] = -1
        return drawn

    return guess


def one(task: Task, batch: Batch) -> Tensor:
    """Always predict 1."""
    return torch.ones(*batch.x.shape[:2], 1)


def _sequences() -> Path:
    """Write sequences that exist until the tests end, and return the path."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_sequences(Path(folder) / "sequences.npz")


EXAMPLES = {
    "copying": Example(Copying.Config(length=12), among(1), (20, 300)),
    "adding": Example(Adding.Config(length=12), one, (3, 300)),
    "recall": Example(Recall.Config(length=12), among(0), (1, 300)),
    "mqar": Example(
        MQAR.Config(length=12, pairs=2, keys=50, values=20, grows="pairs"), among(0), (13, 96)
    ),
    "selective_copying": Example(SelectiveCopying.Config(length=12, symbols=4), among(0), (1, 300)),
    "flip_flop": Example(FlipFlop.Config(length=12, test_ignore=0.5), among(0), (2, 300)),
    "passkey": Example(Passkey.Config(length=12, digits=3), among(0), (1, 300)),
    "parity": Example(Parity.Config(length=12), among(0), (2, 300)),
    "permutations": Example(Permutations.Config(length=6, output="last"), among(0), (2, 300)),
    "language": Example(Language.Config(length=60), among(0), (5, 300)),
    "pixels": Example(Pixels.Config(permutation=1), among(0), (100, 600)),
    "sequences": Example(
        Sequences.Config(data=_sequences(), splits=(0.6, 0.2, 0.2)), among(0), (20, 300)
    ),
}

every_task = pytest.mark.parametrize("kind", TASKS)


def drawn(kind: str, size: int, *, seed: int = 0, stream: Stream = Stream.TEST) -> Batch:
    """Return a batch at the task's training length."""
    task = EXAMPLES[kind].config.build()
    return task.batches(task.length, stream, generator(seed, stream)).batch(size)


def test_every_task_has_an_example_here() -> None:
    assert EXAMPLES.keys() == TASKS.keys()


@every_task
def test_every_task_keeps_its_contract(kind: str) -> None:
    result = check_task(EXAMPLES[kind].config, guess=EXAMPLES[kind].guess)
    assert [note for note in result.notes if not note.startswith("devices: ")] == (
        ["varied lengths: the task has no batches of varied lengths"]
        if kind in ("language", "pixels", "sequences")
        else []
    )


@pytest.mark.parametrize(
    "config",
    [Adding.Config(), Language.Config(length=1), Recall.Config(length=1, pairs=1, keys=1)],
    ids=lambda config: type(config).__qualname__,
)
def test_answers_that_are_rarely_right_and_few_sequences_are_no_fault(config: TaskConfig) -> None:
    check_task(config)


@every_task
def test_shapes_at_further_lengths(kind: str) -> None:
    task = EXAMPLES[kind].config.build()
    for length in EXAMPLES[kind].longer:
        batch = task.batches(length, Stream.TEST, generator(0, Stream.TEST)).batch(3)
        assert batch.x.shape == (3, task.steps(length), task.inputs)
        assert batch.scored.any()


@every_task
def test_a_ladder_runs(kind: str) -> None:
    config = EXAMPLES[kind].config
    task = config.build()
    run = RunConfig.of(task=config, trial=TrialConfig(model=SAB.Config(hidden=4)), seed=0)
    lengths = (task.length, *(n for n in EXAMPLES[kind].longer if n > task.length))
    results = measure_ladder(
        run.build_model(task), task, lengths, sequences=7, seed=0, stream=Stream.SELECTION
    )
    assert [(result.length, result.sequences) for result in results] == [(n, 7) for n in lengths]
    assert all(0 <= result.accuracy <= 1 and result.loss > 0 for result in results)
    assert 0 <= selection_score(results, task) < 1


@every_task
def test_a_study_of_the_task_loads(kind: str, tmp_path: Path) -> None:
    assert load(posed(EXAMPLES[kind].config, tmp_path)).study.task == EXAMPLES[kind].config
