"""The common base of the models that attend to their own past: weights and readout."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from sabtune.models.base import Model, open_forget_gates, uniform
from sabtune.ops import reference
from sabtune.ops.reference import PAPER, Parameters, Rule


class Attentive(Model):
    """An LSTM cell, attention over remembered states, and the readout y_t = V1 h_t + V2 s_t + b."""

    def __init__(
        self,
        hidden: int,
        inputs: int,
        outputs: int,
        generator: torch.Generator,
        rule: Rule = PAPER,
        forget_bias: float = 0.0,
    ):
        super().__init__()
        self.rule = rule
        H = hidden
        cell = partial(uniform, fan_in=H, generator=generator)
        self.weight_ih = cell(4 * H, inputs)
        self.weight_hh = cell(4 * H, H)
        self.bias_ih = cell(4 * H)
        self.bias_hh = cell(4 * H)
        open_forget_gates(self.bias_ih, forget_bias)
        for name, shape in attention_shapes(rule, H).items():
            self.register_parameter(name, cell(*shape))
        readout = partial(uniform, fan_in=2 * H, generator=generator)
        self.V = readout(outputs, 2 * H)  # [V1 V2]
        self.b = readout(outputs)

    def weights(self) -> Parameters:
        """Return the cell's parameters in the form that `sabtune.ops` takes."""
        unused = self.bias_hh.new_empty(0)
        attention: dict[str, Tensor] = dict.fromkeys(("W1", "W2", "w3"), unused)
        for name in attention_shapes(self.rule, 0):
            attention["w3" if name == "w" else name] = getattr(self, name)
        return Parameters(
            weight_ih=self.weight_ih,
            weight_hh=self.weight_hh,
            bias_ih=self.bias_ih,
            bias_hh=self.bias_hh,
            **attention,
        )

    def readout(self, hidden: Tensor, summary: Tensor) -> Tensor:
        """Compute the logits (B, T, O) from h and s, each (B, T, H)."""
        return reference.readout(hidden, summary, self.V, self.b)


def attention_shapes(rule: Rule, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters that a rule scores with, by the paper's names."""
    H = hidden
    if rule.form == "released":
        return {"w": (2 * H,)}
    square = {"W1": (H, H), "W2": (H, H)}
    match rule.scoring:
        case "mlp":
            return square | {"w3": (H,)}
        case "dot":
            return dict(square)
        case "separable":
            return {"W1": (H, H), "w3": (H,)}
