"""The checks of the states of a model."""

from __future__ import annotations

import math
from typing import Any

import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from sabtune.models.base import state_tensors
from sabtune.seeding import Stream, generator
from sabtune.testing.model_case import (
    BATCH,
    MOST_STEPS,
    TOLERANCE,
    ModelCase,
    first_difference,
    largest_difference,
)
from sabtune.testing.result import expect, seed_globally

STARTS = 64
"""The number of random states whose numbers are measured."""
SCALE = 0.5
"""The standard deviation that is asked of their numbers."""


class StateChecks(ModelCase):
    """The checks of the states of a model."""

    def state(self) -> None:
        """Check that `state_of` restores a state from the tensors of a checkpoint."""
        x = self.x()
        with torch.no_grad():
            _, state = self.model(x)
            tensors = state_tensors(state)
            restored = self.model.state_of(tensors_of(bytes_of(tensors)))
            key = first_difference(tensors, self.check_state(restored, "state_of"))
            expect(key is None, f"{self.name}.state_of gives another {key}: restore every field")
            difference = largest_difference(self.model(x, restored)[0], self.model(x, state)[0])
        expect(
            difference <= TOLERANCE,
            f"{self.forward} gives logits that differ by {difference:.2g} from a restored state: "
            "compute from the fields of the state alone",
        )

    def carrying(self) -> str | None:
        """Check that `carry` detaches the state, keeps its sequence, and drops old memories."""
        x, name = self.x(), f"{self.name}.carry"
        _, state = self.model(x)
        before = state_tensors(state)
        for span in (0, self.model_config.period, 10**6):
            self.check_detached(self.model.carry(state, span), "carry")
        key = first_difference(before, state_tensors(state))
        expect(key is None, f"{name} changes {key} of the given state: return a new state")
        carried = self.model.carry(state, 10**6)
        difference = largest_difference(self.model(x, carried)[0], self.model(x, state)[0])
        expect(
            difference <= TOLERANCE,
            f"{name} gives a state whose logits differ by {difference:.2g} from those of the given "
            "one: continue its sequence",
        )
        return self.check_dropping()

    def check_dropping(self) -> str | None:
        """Check that the state does not grow over many windows that carry few memories."""
        period = self.model_config.period
        window, sizes = period * math.ceil(8 / period), {}
        if 6 * window > MOST_STEPS:
            return f"whether old memories are dropped, because period {period} is too long"
        x, state = self.x(window), None
        with torch.no_grad():
            for number in range(6):
                _, state = self.model(x, state)
                state = self.model.carry(state, 2 * period)
                sizes[number] = sum(tensor.numel() for tensor in state_tensors(state).values())
        expect(
            sizes[5] == sizes[2],
            f"{self.name}.carry gives a state of {sizes[2]:,} numbers after {3 * window} steps and "
            f"of {sizes[5]:,} after {6 * window}: drop memories that are older than `span` steps",
        )
        return None

    def check_detached(self, state: Any, method: str) -> dict[str, Tensor]:
        for name, value in vars(state).items() if hasattr(state, "__dict__") else ():
            attached = isinstance(value, Tensor) and value.requires_grad
            expect(not attached, f"{self.name}.{method} keeps the gradient of {name}: detach it")
        return self.check_state(state, method)

    def random_start(self) -> None:
        """Check that `random_start` has the requested scale, and only its generator decides it."""
        name, remedy = f"{self.name}.random_start", "draw from the given generator"
        states = []
        for seed, elsewhere in ((1, 1), (1, 2), (2, 2)):
            seed_globally(elsewhere)
            state = self.model.random_start(STARTS, SCALE, generator(seed, Stream.STATES))
            states.append(self.check_detached(state, "random_start"))
        one, same, other = states
        key = first_difference(one, same)
        expect(key is None, f"{name} gives another {key} if the global seed changes: {remedy}")
        if any(tensor.is_floating_point() and tensor.numel() for tensor in one.values()):
            self.check_scale(one, other)
        start = self.built().random_start(BATCH, SCALE, generator(0, Stream.STATES))
        logits, _ = self.built()(self.x(dtype=torch.float32), start)
        finite = logits.shape[0] == BATCH and bool(logits.isfinite().all())
        expect(finite, f"{self.forward} gives no finite logits from {name}")

    def check_scale(self, one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
        """Check the scale of two random states of different generators."""
        name, remedy = f"{self.name}.random_start", "draw from the given generator"
        numbers = [one[key][one[key] != other[key]].flatten() for key in one]
        drawn = torch.cat([each.double() for each in numbers])
        expect(len(drawn) > 0, f"{name} gives the same state for different generators: {remedy}")
        scale = float(drawn.square().mean().sqrt())
        error = 4 / math.sqrt(2 * len(drawn))
        expect(
            abs(scale / SCALE - 1) <= max(error, 0.05),
            f"{name} gives numbers with a standard deviation of {scale:.2g} for scale {SCALE}: "
            "multiply standard normal numbers by scale",
        )

    def restarting(self) -> None:
        """Check that `restart` is detached and has no memories."""
        x, name = self.x(), f"{self.name}.restart"
        start = state_tensors(self.model.random_start(BATCH, SCALE, generator(0, Stream.STATES)))
        _, state = self.model(x)
        before = state_tensors(state)
        restarted = self.model.restart(state)
        tensors = self.check_detached(restarted, "restart")
        key = first_difference(before, state_tensors(state))
        expect(key is None, f"{name} changes {key} of the given state: return a new state")
        for key, tensor in tensors.items():
            size, wanted = tuple(tensor.shape), tuple(start[key].shape)
            expect(
                size == wanted,
                f"{name} gives {key} the shape {size}, random_start {wanted}: start without "
                "memories",
            )
            counts = not tensor.is_floating_point()
            expect(
                not counts or torch.equal(tensor, start[key]),
                f"{name} gives {key} {tensor.tolist()}, random_start {start[key].tolist()}: "
                "start a new sequence",
            )
        finite = bool(self.model(x, restarted)[0].isfinite().all())
        expect(finite, f"{self.forward} gives no finite logits from {name}")
