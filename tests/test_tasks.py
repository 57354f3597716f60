"""What every task keeps to, and copying symbol by symbol."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import one_hot

from sabtune.errors import ConfigError
from sabtune.seeding import Stream, generator
from sabtune.tasks import TASKS, Copying, Tally, Task

EXAMPLES = {"copying": Copying.Config(length=12)}


def built(kind: str) -> Task:
    return EXAMPLES[kind].build()


every_task = pytest.mark.parametrize("kind", TASKS)


def test_every_task_has_an_example_here() -> None:
    assert EXAMPLES.keys() == TASKS.keys()


@every_task
def test_shapes_and_types(kind: str) -> None:
    task = built(kind)
    batch = task.batch(3, 12, generator(0, Stream.TEST))
    T = task.steps(12)
    assert batch.x.shape == (3, T, task.inputs)
    assert batch.x.dtype == torch.float32
    assert batch.targets.shape == (3, T)
    assert batch.scored.shape == (T,)
    assert batch.scored.any()
    assert 0 <= int(batch.targets.min()) <= int(batch.targets.max()) < task.outputs


@every_task
def test_the_generator_alone_decides_the_batch(kind: str) -> None:
    task = built(kind)
    one, same, other = (task.batch(4, 12, generator(seed, Stream.TEST)) for seed in (1, 1, 2))
    assert torch.equal(one.x, same.x)
    assert torch.equal(one.targets, same.targets)
    assert not torch.equal(one.x, other.x)


@every_task
def test_streams_give_other_sequences(kind: str) -> None:
    task = built(kind)
    train, selection, test = (
        task.batch(8, 12, generator(0, stream)).x
        for stream in (Stream.TRAINING, Stream.SELECTION, Stream.TEST)
    )
    assert not torch.equal(train, selection)
    assert not torch.equal(selection, test)
    assert not torch.equal(train, test)


@every_task
def test_a_constant_guess_scores_chance(kind: str) -> None:
    task = built(kind)
    batch = task.batch(4000, 12, generator(0, Stream.TEST))
    shares = []
    for guess in range(1, task.outputs):
        logits = one_hot(torch.tensor(guess), task.outputs).float().expand(*batch.x.shape[:2], -1)
        shares.append(task.tally(logits, batch).accuracy)
    n = 4000 * int(batch.scored.sum())
    assert max(abs(share - task.chance) for share in shares) < 5 * (0.25 / n) ** 0.5


@every_task
def test_windows_tally_to_the_whole(kind: str) -> None:
    task = built(kind)
    batch = task.batch(5, 12, generator(0, Stream.TEST))
    logits = torch.randn(*batch.x.shape[:2], task.outputs, generator=generator(1, Stream.TEST))
    total, seen = Tally(), 0
    for window in batch.windows(7):
        span = window.x.shape[1]
        total += task.tally(logits[:, seen : seen + span], window)
        seen += span
    whole = task.tally(logits, batch)
    assert (total.correct, total.scored, total.steps) == (whole.correct, whole.scored, whole.steps)
    assert total.loss == pytest.approx(whole.loss)


@every_task
def test_the_right_answer_scores_one(kind: str) -> None:
    task = built(kind)
    batch = task.batch(5, 12, generator(0, Stream.TEST))
    sure = one_hot(batch.targets, task.outputs).float() * 50
    tally = task.tally(sure, batch)
    assert tally.accuracy == 1.0
    assert tally.mean_loss < 1e-6


@every_task
def test_sources_are_steps_before_those_that_ask(kind: str) -> None:
    task = built(kind)
    batch = task.batch(3, 12, generator(0, Stream.TEST))
    for x in batch.x:
        pairs = task.sources(x)
        if pairs is not None:
            asked, shown = pairs.unbind(dim=1)
            assert (shown >= 1).all()
            assert (shown < asked).all()
            assert (asked <= task.steps(12)).all()
            assert batch.scored[asked - 1].all()


def test_copying_asks_for_what_its_sources_show() -> None:
    task = Copying.Config(length=4, symbols=3, input="scalar").build()
    batch = task.batch(50, 4, generator(0, Stream.TEST))
    for x, targets in zip(batch.x, batch.targets, strict=True):
        asked, shown = task.sources(x).unbind(dim=1)
        assert asked.tolist() == [8, 9, 10]
        assert x[shown - 1, 0].long().equal(targets[asked - 1])


def test_copying_shows_symbols_blanks_marker_blanks() -> None:
    task = Copying.Config(length=4, symbols=3, input="scalar").build()
    batch = task.batch(50, 4, generator(0, Stream.TEST))
    shown = batch.x[..., 0]
    assert shown.shape == (50, 4 + 2 * 3)
    assert set(shown[:, :3].flatten().tolist()) == set(range(1, 9))
    assert shown[:, 3:6].eq(0).all()  # length - 1 blanks
    assert shown[:, 6].eq(9).all()  # the marker
    assert shown[:, 7:].eq(0).all()
    assert batch.targets[:, :7].eq(0).all()  # blank up to and with the marker
    assert batch.targets[:, 7:].equal(shown[:, :3].long())
    assert batch.scored.tolist() == [False] * 7 + [True] * 3


def test_copying_one_hot_says_the_same_as_scalar() -> None:
    scalar = Copying.Config(length=6, symbols=2, alphabet=3, input="scalar").build()
    vector = Copying.Config(length=6, symbols=2, alphabet=3, input="one-hot").build()
    a = scalar.batch(9, 6, generator(0, Stream.TEST))
    b = vector.batch(9, 6, generator(0, Stream.TEST))
    assert vector.inputs == 5
    assert b.x.sum(dim=-1).eq(1).all()
    assert b.x.argmax(dim=-1).equal(a.x[..., 0].long())


@pytest.mark.parametrize(("key", "value"), [("length", 0), ("symbols", 0), ("alphabet", 1)])
def test_copying_names_a_value_out_of_range(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{key} is {value}"):
        Copying.Config(**{key: value})  # type: ignore[arg-type]
