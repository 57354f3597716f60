"""Test the adding and recall tasks element by element."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.errors import ConfigError
from sabtune.models import SAB
from sabtune.seeding import Stream, generator
from sabtune.study.definition import Study
from sabtune.tasks import Adding, Copying, Language, Pixels, Recall, TaskConfig
from sabtune.training.evaluation import Ladder
from sabtune.training.loop import Training


def run(task: TaskConfig, shortest: int) -> RunConfig:
    trial = TrialConfig(model=SAB.Config(hidden=4), train=TrainConfig(shortest=shortest))
    return RunConfig.of(task=task, trial=trial, seed=0)


@pytest.mark.parametrize("length", [2, 3, 12])
def test_the_target_of_adding_is_the_sum_of_the_two_marked_numbers(length: int) -> None:
    task = Adding.Config(length=length).build()
    batch = task.batch(300, length, generator(0, Stream.TEST))
    numbers, marks = batch.x.unbind(dim=-1)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert marks[:, : length // 2].sum(dim=1).eq(1).all()
    assert marks[:, length // 2 :].sum(dim=1).eq(1).all()
    for i in range(300):
        one, two = numbers[i][marks[i].bool()].tolist()
        assert batch.targets[i, -1].item() == pytest.approx(one + two)
    assert batch.scored.tolist() == [False] * (length - 1) + [True]
    # Every position in a half is equally likely.
    assert marks.mean(dim=0)[: length // 2].max() < 1.5 / (length // 2)


def test_adding_is_scored_by_the_squared_error_of_the_last_step() -> None:
    task = Adding.Config(length=6).build()
    batch = task.batch(4, 6, generator(0, Stream.TEST))
    answers = torch.full((4, 6, 1), 1e6)
    answers[:, -1, 0] = batch.targets[:, -1] + torch.tensor([0.03, -0.03, 0.05, -0.05])
    tally = task.tally(answers, batch)
    assert (tally.correct, tally.scored, tally.steps) == (2, 4, 4)
    assert tally.mean_loss == pytest.approx((2 * 0.03**2 + 2 * 0.05**2) / 4, rel=1e-3)


def test_the_error_of_always_predicting_one() -> None:
    """The error is the variance of the sum of two uniform draws, 1/6."""
    task = Adding.Config(length=4).build()
    batch = task.batch(100_000, 4, generator(0, Stream.TEST))
    tally = task.tally(torch.ones(100_000, 4, 1), batch)
    assert tally.mean_loss == pytest.approx(1 / 6, rel=0.02)


def read(task: Recall, row: torch.Tensor) -> list[str]:
    """Return a sequence as words: k3 for a key, v1 for a value, _ for a blank."""
    keys, values = task.config.keys, task.config.values
    names = [f"k{i}" for i in range(keys)] + [f"v{i}" for i in range(values)] + ["_"]
    assert row.sum(dim=-1).eq(1).all()
    return [names[i] for i in row.argmax(dim=-1).tolist()]


def test_recall_queries_each_key_in_random_order() -> None:
    task = Recall.Config(length=5, pairs=3, keys=6, values=4).build()
    batch = task.batch(200, 5, generator(0, Stream.TEST))
    orders = set()
    for row, targets in zip(batch.x, batch.targets, strict=True):
        words = read(task, row)
        keys, values, asked = words[0:6:2], words[1:6:2], words[-3:]
        assert words[6:-3] == ["_"] * 4
        assert len(set(keys)) == 3
        value_of = dict(zip(keys, values, strict=True))
        assert [f"v{v}" for v in targets[-3:].tolist()] == [value_of[key] for key in asked]
        orders.add(tuple(keys.index(key) for key in asked))
        # The length is the distance from the last value to the first queried key.
        assert words.index(asked[0], 6) - 5 == 5
    assert len(orders) == 6
    assert batch.scored.tolist() == [False] * (task.steps(5) - 3) + [True] * 3


@pytest.mark.parametrize(
    ("grows", "distance", "pairs"), [("distance", 10, 2), ("pairs", 5, 4), ("both", 10, 4)]
)
def test_recall_grows_in_distance_or_pairs(grows: Any, distance: int, pairs: int) -> None:
    task = Recall.Config(length=5, pairs=2, keys=6, grows=grows).build()
    words = read(task, task.batch(1, 10, generator(0, Stream.TEST)).x[0])
    assert len(words) == task.steps(10) == 3 * pairs + distance - 1
    assert words.count("_") == distance - 1
    assert sum(word.startswith("v") for word in words) == pairs


@pytest.mark.parametrize("config", [Copying.Config, Adding.Config, Recall.Config])
def test_only_training_lengths_are_drawn_from_the_range(config: Any) -> None:
    task = config(length=9).build()
    source = task.varied(5, generator(0, Stream.TRAINING))
    steps = [source.batch(3).x.shape[1] for _ in range(200)]
    assert set(steps) == {task.steps(length) for length in (5, 6, 7, 8, 9)}
    assert max(steps.count(T) for T in set(steps)) < 70
    for length, stream in ((9, Stream.SELECTION), (20, Stream.TEST)):
        measured = task.batches(length, stream, generator(0, stream))
        assert all(measured.batch(3).x.shape[1] == task.steps(length) for _ in range(20))
    always = task.batches(9, Stream.TRAINING, generator(0, Stream.TRAINING))
    assert all(always.batch(3).x.shape[1] == task.steps(9) for _ in range(20))


def test_a_training_draws_lengths_from_its_range() -> None:
    training = Training(run(Copying.Config(length=9, symbols=2), 7))
    steps = {training.batches.batch(2).x.shape[1] for _ in range(50)}
    assert steps == {11, 12, 13}


def test_a_run_of_an_earlier_version_with_lengths_in_the_task_is_read() -> None:
    made = run(Copying.Config(length=9), 7)
    data = made.to_dict()
    data["task"]["shortest"] = data["trial"]["train"].pop("shortest")
    assert RunConfig.from_dict(data) == made


def test_a_ladder_with_too_few_keys_is_refused() -> None:
    task = Recall.Config(length=5, pairs=2, keys=6, grows="pairs")
    with pytest.raises(ConfigError, match="keys is 6: give at least 8, the pairs at length 20"):
        Study(name="s", task=task, ladder=Ladder(lengths=(5, 10, 20), select=(5,)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: Adding.Config(length=1), "length is 1"),
        (lambda: run(Adding.Config(), 1), "length is 1: give at least 2"),
        (lambda: run(Adding.Config(length=9), 10), "shortest is 10: give at most the task's"),
        (lambda: run(Copying.Config(), 0), "shortest is 0: give a whole number of at least 1"),
        (lambda: run(Pixels.Config(), 5), "shortest is 5: leave it out, this task's data has"),
        (lambda: run(Language.Config(), 5), "shortest is 5: leave it out, this task's data has"),
        (lambda: Recall.Config(length=0), "length is 0"),
        (lambda: Recall.Config(pairs=0), "pairs is 0"),
        (lambda: Recall.Config(pairs=5, keys=4), "keys is 4: give a whole number of at least 5"),
        (lambda: Recall.Config(values=1), "values is 1"),
    ],
)
def test_task_values_out_of_range_are_named(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config()
