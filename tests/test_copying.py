"""Test the copying task symbol by symbol."""

from __future__ import annotations

import pytest
import torch

from sabtune.errors import ConfigError
from sabtune.seeding import Stream, generator
from sabtune.tasks import Copying


def test_a_sequence_is_symbols_blanks_marker_blanks() -> None:
    task = Copying.Config(length=4, symbols=3, input="scalar").build()
    batch = task.batch(50, 4, generator(0, Stream.TEST))
    shown = batch.x[..., 0]
    assert shown.shape == (50, 4 + 2 * 3)
    assert set(shown[:, :3].flatten().tolist()) == set(range(1, 9))
    assert shown[:, 3:6].eq(0).all()  # length - 1 blanks
    assert shown[:, 6].eq(9).all()  # the marker
    assert shown[:, 7:].eq(0).all()
    assert batch.targets[:, :7].eq(0).all()  # blank up to and including the marker
    assert batch.targets[:, 7:].equal(shown[:, :3].long())
    assert batch.scored.tolist() == [False] * 7 + [True] * 3


def test_only_the_symbols_are_drawn() -> None:
    """Check the draws, so that trainings that earlier versions started keep their sequences."""
    task = Copying.Config(length=4, symbols=3, alphabet=5).build()
    source = task.batches(4, Stream.TRAINING, generator(7, Stream.TRAINING))
    plain = generator(7, Stream.TRAINING)
    for _ in range(3):
        symbols = torch.randint(1, 6, (8, 3), generator=plain)
        assert source.batch(8).targets[:, -3:].equal(symbols)


def test_targets_are_the_symbols_at_their_sources() -> None:
    task = Copying.Config(length=4, symbols=3, input="scalar").build()
    batch = task.batch(50, 4, generator(0, Stream.TEST))
    for x, targets in zip(batch.x, batch.targets, strict=True):
        asked, shown = task.sources(x).unbind(dim=1)
        assert asked.tolist() == [8, 9, 10]
        assert x[shown - 1, 0].long().equal(targets[asked - 1])


def test_one_hot_input_encodes_the_same_symbols_as_scalar() -> None:
    scalar = Copying.Config(length=6, symbols=2, alphabet=3, input="scalar").build()
    vector = Copying.Config(length=6, symbols=2, alphabet=3, input="one-hot").build()
    a = scalar.batch(9, 6, generator(0, Stream.TEST))
    b = vector.batch(9, 6, generator(0, Stream.TEST))
    assert vector.inputs == 5
    assert b.x.sum(dim=-1).eq(1).all()
    assert b.x.argmax(dim=-1).equal(a.x[..., 0].long())


@pytest.mark.parametrize(
    ("key", "value"),
    [("length", 0), ("symbols", 0), ("alphabet", 1)],
)
def test_a_copying_value_out_of_range_is_named(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{key} is {value}"):
        Copying.Config(**{key: value})  # type: ignore[arg-type]
