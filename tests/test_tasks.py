"""Test the contract of all tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sabtune import schema
from sabtune.config import PARTS, RunConfig, TrialConfig
from sabtune.models import SAB
from sabtune.seeding import Stream, generator
from sabtune.study.loading import load
from sabtune.tasks import (
    TASKS,
    Adding,
    Batch,
    Copying,
    Language,
    Pixels,
    Recall,
    Tally,
    Task,
    TaskConfig,
)
from sabtune.tasks.base import MEASURED
from sabtune.tasks.batch import one_hot
from sabtune.training.evaluation import measure_ladder, selection_score
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


EXAMPLES = {
    "copying": Example(Copying.Config(length=12), among(1), (20, 300)),
    "adding": Example(Adding.Config(length=12), one, (3, 300)),
    "recall": Example(Recall.Config(length=12), among(0), (1, 300)),
    "language": Example(Language.Config(length=60), among(0), (5, 300)),
    "pixels": Example(Pixels.Config(permutation=1), among(0), (100, 600)),
}

every_task = pytest.mark.parametrize("kind", TASKS)


def drawn(kind: str, size: int, *, seed: int = 0, stream: Stream = Stream.TEST) -> Batch:
    """Return a batch at the task's training length."""
    task = EXAMPLES[kind].config.build()
    return task.batches(task.length, stream, generator(seed, stream)).batch(size)


def test_every_task_has_an_example_here() -> None:
    assert EXAMPLES.keys() == TASKS.keys()


@every_task
def test_shapes_and_types(kind: str) -> None:
    task = EXAMPLES[kind].config.build()
    for length in (task.length, *EXAMPLES[kind].longer):
        batch = task.batches(length, Stream.TEST, generator(0, Stream.TEST)).batch(3)
        T = task.steps(length)
        assert batch.x.shape == (3, T, task.inputs)
        assert batch.x.dtype == torch.float32
        assert batch.targets.shape == (3, T)
        assert batch.scored.shape == (T,)
        assert batch.scored.dtype == torch.bool
        assert batch.scored.any()
        assert not batch.continues
        if task.outputs > 1:
            assert batch.targets.dtype == torch.int64
            assert 0 <= int(batch.targets.min()) <= int(batch.targets.max()) < task.outputs


@every_task
def test_only_the_generator_decides_the_batch(kind: str) -> None:
    torch.manual_seed(1)
    one = drawn(kind, 4, seed=1)
    torch.manual_seed(2)
    same, other = drawn(kind, 4, seed=1), drawn(kind, 4, seed=2)
    assert torch.equal(one.x, same.x)
    assert torch.equal(one.targets, same.targets)
    assert not torch.equal(one.x, other.x)
    task = EXAMPLES[kind].config.build()
    assert torch.equal(one.x, task.batch(4, task.length, generator(1, Stream.TEST)).x)


@every_task
def test_streams_share_no_sequences(kind: str) -> None:
    streams = (Stream.TRAINING, *MEASURED)
    seen = [
        {row.numpy().tobytes() for row in drawn(kind, 100, stream=stream).x} for stream in streams
    ]
    assert len(set.union(*seen)) == sum(map(len, seen))


@every_task
def test_a_source_continues_from_its_state(kind: str) -> None:
    task = EXAMPLES[kind].config.build()
    for stream in (Stream.TRAINING, Stream.TEST):
        source = task.batches(task.length, stream, generator(0, stream))
        for batches in range(4):
            for _ in range(batches):
                source.batch(6)
            again = task.batches(task.length, stream, generator(9, stream))
            again.restore(source.state())
            ours, theirs = source.batch(6), again.batch(6)
            assert torch.equal(ours.x, theirs.x)
            assert torch.equal(ours.targets, theirs.targets)
            assert ours.continues == theirs.continues


@every_task
def test_batches_are_made_without_reading_them(kind: str) -> None:
    """The meta device fails on any read, which would make a GPU synchronize."""
    task = EXAMPLES[kind].config.build()
    meta = torch.device("meta")
    for stream in (Stream.TRAINING, Stream.TEST):
        source = task.batches(task.length, stream, generator(0, stream), meta)
        for _ in range(3):
            batch = source.batch(5)
            assert batch.x.device == batch.targets.device == meta
            assert batch.scored.device.type == "cpu"
            logits = torch.zeros(5, task.steps(task.length), task.outputs, device=meta)
            assert task.loss(logits, batch).device == meta


@every_task
def test_a_guess_scores_chance(kind: str) -> None:
    task = EXAMPLES[kind].config.build()
    right = scored = 0
    for seed in range(20):
        batch = drawn(kind, 200, seed=seed)
        tally = task.tally(EXAMPLES[kind].guess(task, batch), batch)
        right, scored = right + tally.correct, scored + tally.scored
    error = (task.chance * (1 - task.chance) / scored) ** 0.5
    assert abs(right / scored - task.chance) < 4 * error
    assert task.normalized_score(task.chance, float("inf")) == 0


@every_task
def test_a_ladder_runs(kind: str) -> None:
    config = EXAMPLES[kind].config
    task = config.build()
    run = RunConfig(task=config, trial=TrialConfig(model=SAB.Config(hidden=4)), seed=0)
    lengths = (task.length, *(n for n in EXAMPLES[kind].longer if n > task.length))
    results = measure_ladder(
        run.build_model(task), task, lengths, sequences=7, seed=0, stream=Stream.SELECTION
    )
    assert [(result.length, result.sequences) for result in results] == [(n, 7) for n in lengths]
    assert all(0 <= result.accuracy <= 1 and result.loss > 0 for result in results)
    assert 0 <= selection_score(results, task) < 1


@every_task
def test_a_task_config_survives_a_round_trip(kind: str) -> None:
    config = EXAMPLES[kind].config
    plain = json.loads(json.dumps(schema.to_dict(config, PARTS)))
    assert schema.from_dict(TaskConfig, plain, PARTS) == config  # type: ignore[type-abstract]


@every_task
def test_a_study_of_the_task_loads(kind: str, tmp_path: Path) -> None:
    assert load(posed(EXAMPLES[kind].config, tmp_path)).study.task == EXAMPLES[kind].config


@every_task
def test_tallies_of_windows_add_up(kind: str) -> None:
    task = EXAMPLES[kind].config.build()
    batch = drawn(kind, 5)
    logits = torch.randn(*batch.x.shape[:2], task.outputs, generator=generator(1, Stream.TEST))
    total, seen = Tally(), 0
    for window in batch.windows(7):
        span = window.x.shape[1]
        total += task.tally(logits[:, seen : seen + span], window)
        assert window.continues == (seen > 0)
        seen += span
    whole = task.tally(logits, batch)
    assert (total.correct, total.scored, total.steps) == (whole.correct, whole.scored, whole.steps)
    assert total.loss == pytest.approx(whole.loss)


@every_task
def test_the_right_answer_scores_one(kind: str) -> None:
    task = EXAMPLES[kind].config.build()
    batch = drawn(kind, 5)
    if task.outputs > 1:
        sure = one_hot(batch.targets, task.outputs) * 50
    else:
        sure = batch.targets.unsqueeze(-1)
    tally = task.tally(sure, batch)
    assert tally.accuracy == 1.0
    assert tally.mean_loss < 1e-6
    assert task.normalized_score(tally.accuracy, tally.mean_loss) == pytest.approx(1.0)


@every_task
def test_sources_precede_the_steps_that_need_them(kind: str) -> None:
    task, batch = EXAMPLES[kind].config.build(), drawn(kind, 3)
    for x in batch.x:
        pairs = task.sources(x)
        if pairs is not None:
            asked, shown = pairs.unbind(dim=1)
            assert (shown >= 1).all()
            assert (shown < asked).all()
            assert (asked <= len(x)).all()
            assert batch.scored[asked - 1].all()
