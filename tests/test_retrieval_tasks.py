"""Test selective copying, passkey, flip-flop and MQAR against definitions by loops."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sabtune.errors import ConfigError
from sabtune.seeding import Stream, generator
from sabtune.tasks import MQAR, Batch, FlipFlop, Passkey, SelectiveCopying, Task
from sabtune.tasks.batch import distinct


def symbols(batch: Batch) -> list[list[int]]:
    """Return the symbols of one-hot sequences."""
    assert batch.x.sum(dim=-1).eq(1).all()
    rows: list[list[int]] = batch.x.argmax(dim=-1).tolist()
    return rows


def recalled(task: Task, batch: Batch) -> Tensor:
    """Return what the steps show that `sources` names, in order: a row for each sequence."""
    rows = []
    for x, scored in zip(batch.x, batch.scored_by_row, strict=True):
        pairs = task.sources(x)
        assert pairs is not None
        assert (pairs[:, 0] - 1).tolist() == scored.nonzero().flatten().tolist()
        rows.append(x[pairs[:, 1] - 1].argmax(dim=-1))
    return torch.cat(rows)


@pytest.mark.parametrize("length", [1, 9])
def test_selective_copying_repeats_the_symbols_in_order(length: int) -> None:
    task = SelectiveCopying.Config(length=length, symbols=3, alphabet=4).build()
    batch = task.batch(300, length, generator(0, Stream.TEST))
    places = Counter[int]()
    for row, targets in zip(symbols(batch), batch.targets.tolist(), strict=True):
        assert len(row) == length + 6
        assert [symbol for symbol in row if symbol < 4] == targets[-3:]
        assert (row.count(4), row[-3:]) == (length, [5, 5, 5])
        places.update(step for step, symbol in enumerate(row) if symbol < 4)
    assert batch.scored.tolist() == [False] * (length + 3) + 3 * [True]
    expected = 300 * 3 / (length + 3)  # all steps are equally likely
    assert all(abs(places[step] - expected) < 5 * expected**0.5 for step in range(length + 3))
    assert torch.equal(recalled(task, batch), batch.at_scored(batch.targets).flatten())


def test_passkey_asks_for_the_digits_after_the_marker() -> None:
    task = Passkey.Config(length=6, digits=2, alphabet=5).build()
    batch = task.batch(700, 6, generator(0, Stream.TEST))
    depths = Counter[int]()
    for row, targets in zip(symbols(batch), batch.targets.tolist(), strict=True):
        assert len(row) == 6 + 1 + 2 * 2
        assert (row.count(5), row[-2:]) == (1, [6, 6])
        depth = row.index(5)
        assert row[depth + 1 : depth + 3] == targets[-2:]
        noise = row[:depth] + row[depth + 3 : -2]
        assert len(noise) == 6
        assert max(noise) < 5
        depths[depth] += 1
    assert sorted(depths) == list(range(7))
    assert min(depths.values()) > 60  # 100 on average
    assert torch.equal(recalled(task, batch), batch.at_scored(batch.targets).flatten())


def test_a_read_of_flip_flop_has_the_bit_of_the_last_write() -> None:
    task = FlipFlop.Config(length=10, ignore=0.4).build()
    batch = task.batch(400, 10, generator(0, Stream.TEST))
    instructions, reads = Counter[str](), []
    for row, targets, scored in zip(
        symbols(batch), batch.targets.tolist(), batch.scored.tolist(), strict=True
    ):
        assert len(row) == 19
        words = ["wri"[symbol - 2] for symbol in row[::2]]
        assert (words[0], words[-1]) == ("w", "r")
        assert scored[1::2] == 9 * [False]
        assert [word == "r" for word in words] == scored[::2]
        instructions.update(words[1:-1])
        stored = None
        for number, word in enumerate(words):
            bit = row[2 * number + 1] if number < 9 else None
            if word == "w":
                stored = bit
            if word == "r":
                assert targets[2 * number] == stored
                assert bit in (stored, None)
                reads.append(stored)
    shares = {word: count / 3200 for word, count in instructions.items()}
    assert shares == pytest.approx({"w": 0.3, "r": 0.3, "i": 0.4}, abs=0.04)
    assert sum(map(bool, reads)) / len(reads) == pytest.approx(0.5, abs=0.06)
    assert torch.equal(recalled(task, batch), batch.at_scored(batch.targets).flatten())


def test_flip_flop_is_measured_at_its_own_share_of_ignored_instructions() -> None:
    plain = FlipFlop.Config(length=20, ignore=0.2).build()
    task = FlipFlop.Config(length=20, ignore=0.2, test_ignore=0.9).build()
    other = FlipFlop.Config(length=20, ignore=0.9).build()
    for stream in Stream:
        made, expected = (
            which.batches(20, stream, generator(0, stream)).batch(50)
            for which in (task, plain if stream == Stream.TRAINING else other)
        )
        assert torch.equal(made.x, expected.x)
    made, expected = (
        which.varied(5, generator(0, Stream.TRAINING)).batch(50) for which in (task, plain)
    )
    assert torch.equal(made.x, expected.x)


def test_mqar_asks_for_every_key_once_in_a_slot() -> None:
    task = MQAR.Config(length=21, pairs=3, keys=40, values=30, filler="blank", embedding=None)
    batch = task.build().batch(200, 21, generator(0, Stream.TEST))
    for row, targets, scored in zip(
        symbols(batch), batch.targets.tolist(), batch.scored.tolist(), strict=True
    ):
        keys, values = row[:6:2], [symbol - 40 for symbol in row[1:6:2]]
        assert len(set(keys)) == len(set(values)) == 3
        assert 0 <= min(keys) <= max(keys) < 40
        assert 0 <= min(values) <= max(values) < 30
        asked = [step for step, counts in enumerate(scored) if counts]
        assert sorted(row[step] for step in asked) == sorted(keys)
        value_of = dict(zip(keys, values, strict=True))
        assert [targets[step] for step in asked] == [value_of[row[step]] for step in asked]
        assert all(step >= 6 and step % 2 == 0 and step < 20 for step in asked)
        assert all(row[step] == 70 for step in range(6, 21) if step not in asked)


@pytest.mark.parametrize("power", [0.01, 1.0])
def test_the_slots_of_mqar_follow_the_power_law_in_the_order_of_the_keys(power: float) -> None:
    """Compare with NumPy's draws without replacement, key by key, as Zoology describes them."""
    task = MQAR.Config(length=16, pairs=3, keys=9, values=9, power=power).build()
    drawn = task._slots(4000, 3, 5, generator(0, Stream.TEST))
    law = np.arange(1, 6) ** (power - 1)
    random = np.random.default_rng(0)
    expected = np.array(
        [random.choice(5, 3, replace=False, p=law / law.sum()) for _ in range(4000)]
    )
    for key in range(3):
        ours = torch.bincount(drawn[:, key], minlength=5) / 4000
        theirs = np.bincount(expected[:, key], minlength=5) / 4000
        assert ours.tolist() == pytest.approx(theirs.tolist(), abs=0.04)
    assert (torch.bincount(drawn[:, 0]) / 4000).tolist() == pytest.approx(
        (law / law.sum()).tolist(), abs=0.035
    )


def test_the_filler_of_mqar_is_random_and_a_symbol_always_looks_the_same() -> None:
    config = MQAR.Config(length=32, pairs=2, keys=3000, values=2000)
    one, other = (config.build().batch(40, 32, generator(0, Stream.TEST)) for _ in range(2))
    assert torch.equal(one.x, other.x)
    assert set(one.x.flatten().tolist()) == {-1.0, 1.0}
    steps = [tuple(step) for row in one.x.tolist() for step in row]
    assert len(set(steps)) > 800  # of 1,280, of which 80 ask for a key that was shown
    keys = one.x[:, :4:2].flatten(0, 1)
    asked = one.x[one.scored]
    assert sorted(keys.tolist()) == sorted(asked.tolist())
    vectors = {tuple(v) for v in MQAR.Config().build()._encode(torch.arange(8193)).tolist()}
    assert len(vectors) == 8193


def test_mqar_grows_in_pairs() -> None:
    task = MQAR.Config(length=64, pairs=4, grows="pairs").build()
    assert [task.pairs(length) for length in (4, 64, 127, 512, 1024)] == [1, 4, 7, 32, 64]
    batch = task.batch(2, 1024, generator(0, Stream.TEST))
    assert batch.scored.sum(dim=1).tolist() == [64, 64]


@pytest.mark.parametrize(("count", "below"), [(3, 5), (3, 9), (64, 4096)])
def test_distinct_integers_are_uniform_and_in_random_order(count: int, below: int) -> None:
    drawn = distinct(3000, count, below, generator(0, Stream.TEST))
    assert drawn.shape == (3000, count)
    assert all(len(set(row)) == count for row in drawn.tolist())
    assert drawn.min() >= 0
    assert drawn.max() < below
    for column in (0, count - 1):
        mean = drawn[:, column].double().mean().item()
        error = ((below**2 - 1) / 12 / 3000) ** 0.5
        assert abs(mean - (below - 1) / 2) < 4 * error


@pytest.mark.parametrize(
    "task",
    [FlipFlop.Config(length=12).build(), MQAR.Config(length=12, pairs=2, keys=9, values=5).build()],
    ids=["flip_flop", "mqar"],
)
def test_answers_at_steps_of_their_own_are_counted_in_windows_too(task: Task) -> None:
    batch = task.batch(20, 12, generator(0, Stream.TEST))
    logits = torch.randn((*batch.targets.shape, task.outputs), generator=generator(1, Stream.TEST))
    right = (logits.argmax(dim=-1) == batch.targets) & batch.scored
    losses = -logits.log_softmax(dim=-1).gather(2, batch.targets[..., None])[..., 0]
    tally = task.tally(logits, batch)
    assert (tally.correct, tally.scored) == (int(right.sum()), int(batch.scored.sum()))
    assert tally.steps == tally.scored == batch.answers
    assert tally.mean_loss == pytest.approx(losses[batch.scored].mean().item(), rel=1e-5)
    begun, correct, scored = 0, 0, 0
    for window in batch.windows(5):
        part = task.tally(logits[:, begun : begun + 5], window)
        begun, correct, scored = begun + 5, correct + part.correct, scored + part.scored
    assert (correct, scored) == (tally.correct, tally.scored)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: SelectiveCopying.Config(length=0), "length is 0"),
        (lambda: SelectiveCopying.Config(symbols=0), "symbols is 0"),
        (lambda: SelectiveCopying.Config(alphabet=1), "alphabet is 1"),
        (lambda: Passkey.Config(length=0), "length is 0"),
        (lambda: Passkey.Config(digits=0), "digits is 0"),
        (lambda: Passkey.Config(alphabet=1), "alphabet is 1"),
        (lambda: FlipFlop.Config(length=1), "length is 1: give at least 2, for a write and a read"),
        (lambda: FlipFlop.Config(ignore=1.0), "ignore is 1.0: give a share of at least 0 and bel"),
        (lambda: FlipFlop.Config(test_ignore=-0.1), "test_ignore is -0.1: give a share"),
        (lambda: MQAR.Config(length=15), "length is 15: give at least 16, four times the pairs"),
        (lambda: MQAR.Config(pairs=0), "pairs is 0"),
        (lambda: MQAR.Config(keys=3), "keys is 3: give a whole number of at least 4"),
        (lambda: MQAR.Config(values=3), "values is 3: give a whole number of at least 4"),
        (lambda: MQAR.Config(power=1.5), "power is 1.5: give a number from 0 to 1"),
        (lambda: MQAR.Config(embedding=36), "embedding is 36: give a whole number of at least 37"),
        (
            lambda: MQAR.Config(keys=10, grows="pairs").build().steps(1024),
            "keys is 10: give at least 64, the pairs at length 1024",
        ),
    ],
)
def test_values_out_of_range_are_named(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config()
