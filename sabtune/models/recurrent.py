"""The common base of the recurrent models whose state has one size and holds no memories."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sabtune.models.base import Model, detached, matrix_weights


class Recurrent(Model):
    """A model whose state is tensors of one size, and `step`, the number of steps so far."""

    def carry(self, state: Any, span: int) -> Any:
        """Return `state` detached; the model has no memories."""
        return detached(state)

    def restart(self, state: Any) -> Any:
        return replace(detached(state), step=0)

    def multiply_adds(self, inputs: int, steps: int) -> float:
        """Return the number of weights in matrices: a step multiplies by each of them once."""
        return matrix_weights(self)
