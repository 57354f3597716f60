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

    def attention_multiply_adds(self, *, keys: float, scored: float, recalled: float) -> float:
        """Return the multiply-adds of a step, as the equations of `reference` have them.

        Args:
            keys: The number of memories for which a step computes W1 m.
            scored: The number of memories that a step scores.
            recalled: The number of memories that a step sums up.
        """
        p = self.weights()
        H = p.weight_hh.shape[1]
        products = [p.weight_ih, p.weight_hh, p.W2, self.V]
        query = H if self.rule.form == "released" else 0  # w · tanh h'
        each_step = sum(weight.numel() for weight in products) + query
        return each_step + keys * p.W1.numel() + (scored + recalled) * H

    def readout(self, hidden: Tensor, summary: Tensor) -> Tensor:
        """Compute the logits (B, T, O) from h and s, each (B, T, H)."""
        return reference.readout(hidden, summary, self.V, self.b)
