"""The weights of an LSTM cell with attention over its remembered states."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from sabtune.models.base import uniform
from sabtune.models.lstm_like import open_forget_gates
from sabtune.ops.reference import PAPER, Parameters, Rule


class AttentionWeights(nn.Module):
    """A module that owns the weights of an LSTM cell and of its attention.

    The names of the parameters are those of `nn.LSTMCell` and, for the attention, of the paper.
    """

    rule: Rule

    def add_weights(
        self,
        inputs: int,
        hidden: int,
        generator: torch.Generator | None,
        rule: Rule = PAPER,
        forget_bias: float = 0.0,
    ) -> None:
        """Register the weights, drawn from `generator`; None for PyTorch's own generator."""
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

    def attention_multiply_adds(self, *, keys: float, scored: float, recalled: float) -> float:
        """Return the multiply-adds of a step, as the equations of `reference` have them.

        The readout V counts, too.

        Args:
            keys: The number of memories for which a step computes W1 m.
            scored: The number of memories that a step scores.
            recalled: The number of memories that a step sums up.
        """
        p = self.weights()
        H = p.weight_hh.shape[1]
        products = [p.weight_ih, p.weight_hh, p.W2, self.get_parameter("V")]
        query = H if self.rule.form == "released" else 0  # w · tanh h'
        each_step = sum(weight.numel() for weight in products) + query
        return each_step + keys * p.W1.numel() + (scored + recalled) * H


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
