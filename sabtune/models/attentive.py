"""The common base of the models that attend to their own past: weights and readout."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from sabtune.models.base import uniform
from sabtune.models.lstm_like import LSTMLike
from sabtune.models.weights import AttentionWeights
from sabtune.ops import reference
from sabtune.ops.reference import PAPER, Rule


class Attentive(AttentionWeights, LSTMLike):
    """An LSTM cell, attention over remembered states, and the readout y_t = V1 h_t + V2 s_t + b."""

    def __init__(
        self,
        hidden: int,
        inputs: int,
        outputs: int,
        generator: torch.Generator,
        rule: Rule = PAPER,
        forget_bias: float = 0.0,
        readout_width: int | None = None,
    ):
        super().__init__()
        self.add_weights(inputs, hidden, generator, rule, forget_bias)
        width = readout_width or 2 * hidden
        readout = partial(uniform, fan_in=width, generator=generator)
        self.V = readout(outputs, width)  # [V1 V2] if it is 2H wide
        self.b = readout(outputs)

    def readout(self, hidden: Tensor, summary: Tensor) -> Tensor:
        """Compute the logits (B, T, O) from h and s, each (B, T, H)."""
        return reference.readout(hidden, summary, self.V, self.b)
