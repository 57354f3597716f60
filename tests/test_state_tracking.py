"""Test parity and the composition of permutations against definitions by loops."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch

from sabtune.errors import ConfigError
from sabtune.seeding import Stream, generator
from sabtune.tasks import Parity, Permutations
from sabtune.tasks.state_tracking import StateTracking


def test_the_target_of_parity_is_the_parity_of_the_ones_so_far() -> None:
    batch = Parity.Config(length=9).build().batch(200, 9, generator(0, Stream.TEST))
    for x, targets in zip(batch.x.tolist(), batch.targets.tolist(), strict=True):
        ones = 0
        for (_, one), target in zip(x, targets, strict=True):
            ones += int(one)
            assert target == ones % 2
    assert batch.x.sum(dim=-1).eq(1).all()


@pytest.mark.parametrize("items", [2, 3, 4, 5])
def test_the_target_of_permutations_applies_them_one_after_the_other(items: int) -> None:
    task = Permutations.Config(length=7, items=items).build()
    names = list(itertools.permutations(range(items)))
    batch = task.batch(50, 7, generator(0, Stream.TEST))
    assert (task.inputs, task.outputs) == (len(names), len(names))
    assert batch.x.sum(dim=-1).eq(1).all()
    for shown, targets in zip(batch.x.argmax(dim=-1).tolist(), batch.targets.tolist(), strict=True):
        places = tuple(range(items))  # where each item is
        for index, target in zip(shown, targets, strict=True):
            places = tuple(names[index][place] for place in places)
            assert names[target] == places


@pytest.mark.parametrize("task", [Parity.Config().build(), Permutations.Config(items=3).build()])
def test_elements_are_uniform_and_independent(task: StateTracking) -> None:
    rows = task.batch(20_000, 3, generator(0, Stream.TEST)).x.argmax(dim=-1).tolist()
    counts = Counter(map(tuple, rows))
    expected = 20_000 / task.outputs**3
    assert len(counts) == task.outputs**3
    squares = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(counts) - 1
    assert squares < freedom + 4 * (2 * freedom) ** 0.5  # chi-squared


@pytest.mark.parametrize("task", [Parity.Config().build(), Permutations.Config(items=3).build()])
def test_no_function_of_the_present_input_beats_chance(task: StateTracking) -> None:
    """The best answer to each input is right as often as chance at every scored step."""
    batch = task.batch(20_000, 4, generator(0, Stream.TEST))
    assert batch.scored.tolist() == [False, True, True, True]
    shown = batch.x.argmax(dim=-1)
    for step in range(1, 4):
        pairs = Counter(zip(shown[:, step].tolist(), batch.targets[:, step].tolist(), strict=True))
        best = sum(max(pairs[i, o] for o in range(task.outputs)) for i in range(task.inputs))
        assert best / 20_000 == pytest.approx(task.chance, abs=0.02)


def test_the_output_decides_which_steps_count() -> None:
    every, last = (Parity.Config(length=5, output=output).build() for output in ("every", "last"))
    a, b = (task.batch(3, 5, generator(0, Stream.TEST)) for task in (every, last))
    assert torch.equal(a.x, b.x)
    assert a.scored.tolist() == [False] + 4 * [True]
    assert b.scored.tolist() == 4 * [False] + [True]
    assert (every.loss_everywhere, every.phased) == (True, False)
    assert (last.loss_everywhere, last.phased) == (False, True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: Parity.Config(length=1), "length is 1: give at least 2, since the first step is"),
        (lambda: Parity.Config(output="all"), "output is 'all'"),  # type: ignore[arg-type]
        (lambda: Permutations.Config(length=1), "length is 1: give at least 2"),
        (lambda: Permutations.Config(items=1), "items is 1: give a whole number of at least 2"),
        (lambda: Permutations.Config(items=6), "items is 6: give a whole number from 2 to 5"),
    ],
)
def test_values_out_of_range_are_named(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config()
