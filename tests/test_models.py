"""What every model keeps to, and SAB's own configuration."""

from __future__ import annotations

import pytest
import torch

from sabtune.errors import ConfigError
from sabtune.models import MODELS, SAB
from sabtune.schedule import Linear
from sabtune.seeding import Stream, generator

every_model = pytest.mark.parametrize("kind", MODELS)


@every_model
def test_shapes(kind: str) -> None:
    model = MODELS[kind](hidden=6).build(
        4, 3, steps=20, generator=generator(0, Stream.INITIALISATION)
    )
    logits, _ = model(torch.randn(2, 11, 4))
    assert logits.shape == (2, 11, 3)
    assert logits.dtype == torch.float32


@every_model
def test_the_generator_alone_decides_the_weights(kind: str) -> None:
    config = MODELS[kind](hidden=6)
    one, same, other = (
        config.build(4, 3, steps=20, generator=generator(seed, Stream.INITIALISATION)).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert all(not torch.equal(one[name], other[name]) for name in one)


@every_model
@pytest.mark.parametrize("stretch", [1, 4, 7])
def test_in_stretches_as_in_one(kind: str, stretch: int) -> None:
    model = (
        MODELS[kind](hidden=6)
        .build(4, 3, steps=20, generator=generator(0, Stream.INITIALISATION))
        .double()
    )
    x = torch.randn(2, 19, 4, dtype=torch.float64, generator=generator(0, Stream.TEST))
    whole, _ = model(x)
    parts, state = [], None
    for start in range(0, x.shape[1], stretch):
        logits, state = model(x[:, start : start + stretch], state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-12, atol=1e-12)


@every_model
def test_one_example_does_not_depend_on_its_batch(kind: str) -> None:
    model = (
        MODELS[kind](hidden=6)
        .build(4, 3, steps=20, generator=generator(0, Stream.INITIALISATION))
        .double()
    )
    x = torch.randn(5, 19, 4, dtype=torch.float64, generator=generator(0, Stream.TEST))
    torch.testing.assert_close(model(x)[0][2:3], model(x[2:3])[0], rtol=1e-12, atol=1e-12)


def test_sab_follows_its_schedule() -> None:
    config = SAB.Config(hidden=4, k_top=2, schedule=Linear(start=10, share=0.5))
    model = config.build(3, 2, steps=20, generator=generator(0, Stream.INITIALISATION))
    seen = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        model.set_progress(progress)
        seen.append(model.in_force()["k_top"])
    assert seen == [10, 6, 2, 2]


def test_k_top_changes_what_the_model_says() -> None:
    model = SAB.Config(hidden=8, k_top=1, k_att=1).build(
        3, 2, steps=20, generator=generator(0, Stream.INITIALISATION)
    )
    assert isinstance(model, SAB)
    x = torch.randn(2, 12, 3, generator=generator(0, Stream.TEST))
    sparse, _ = model(x)
    model.k_top = 6
    assert not torch.allclose(model(x)[0], sparse)


@pytest.mark.parametrize(
    ("key", "value"),
    [("k_top", 0), ("k_top", -1), ("k_att", 0), ("k_trunc", -1), ("hidden", 0), ("k_top", 2.5)],
)
def test_values_out_of_range_are_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{key} is {value}: give a whole number"):
        SAB.Config(**{key: value})  # type: ignore[arg-type]
