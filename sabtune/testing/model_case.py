"""What the checks of a model share: the model, its sequences and comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sabtune.models import Model, ModelConfig
from sabtune.models.base import state_tensors
from sabtune.schema import shown
from sabtune.seeding import Stream, generator
from sabtune.testing.result import expect, is_whole, name_of, type_of

TOLERANCE = 1e-10
"""The largest difference of logits in float64 that counts as rounding, absolute and relative."""
BATCH = 3
MOST_STEPS = 2000
"""The largest number of steps of a check that needs several periods of a model."""


class ModelCase:
    """A model that is being checked."""

    def __init__(self, config: ModelConfig, inputs: int, outputs: int, steps: int):
        self.model_config, self.inputs, self.outputs, self.steps = config, inputs, outputs, steps

    def built(self, seed: int = 0) -> Model:
        """Return a new model in float32, with weights drawn from the seed."""
        drawn = generator(seed, Stream.INITIALIZATION)
        return self.model_config.build(self.inputs, self.outputs, steps=self.steps, generator=drawn)

    def double(self, seed: int = 0) -> Model:
        """Return a new model in float64."""
        return self.built(seed).double()

    @cached_property
    def model(self) -> Model:
        """A model in float64 that no check changes."""
        return self.double()

    @cached_property
    def name(self) -> str:
        return name_of(type(self.built()))

    def x(
        self, steps: int | None = None, batch: int = BATCH, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """Return sequences (B, T, I), the same for the same sizes."""
        shape = (batch, self.steps if steps is None else steps, self.inputs)
        return torch.randn(shape, generator=generator(0, Stream.TEST)).to(dtype)

    @property
    def forward(self) -> str:
        return f"{self.name}.forward"

    def check_state(self, state: Any, method: str) -> dict[str, Tensor]:
        """Check the type of a state, and return its tensors by name."""
        kind = getattr(type(self.built()), "state_type", None)
        fits = isinstance(kind, type) and is_dataclass(kind)
        expect(fits, f"{self.name}.state_type is {shown(kind)}: give the dataclass of the state")
        assert kind is not None
        expect(
            isinstance(state, kind),
            f"{self.name}.{method} returns {type_of(state)} as the state: return {kind.__name__}, "
            "the state_type",
        )
        for field in fields(state):
            value = getattr(state, field.name)
            stored = isinstance(value, Tensor) or is_whole(value, 0)
            wanted = "checkpoints store tensors and ints of at least 0"
            expect(stored, f"{kind.__name__}.{field.name} is {type_of(value)}: {wanted}")
        return state_tensors(state)


def largest_difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors, relative to numbers above 1."""
    if one.shape != other.shape:
        return math.inf
    one, other = one.detach(), other.detach()
    difference = (one - other).abs() / other.abs().clamp(min=1)
    return float(difference.nan_to_num(nan=math.inf).max()) if difference.numel() else 0.0


def copied_weights(model: Model) -> dict[str, Tensor]:
    """Return copies of the parameters and buffers of a model."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in named}


def first_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str | None:
    """Return the name of a tensor that differs, or None."""
    for name in sorted({*one, *other}):
        if name not in one or name not in other or not torch.equal(one[name], other[name]):
            return name
    return None
