"""The baseline LSTM with full self-attention: dense, and never truncated.

It is SAB with every state remembered and recalled, and softmax weights. At each step t

    a_i = w3 · tanh(W1 h_i + W2 h'_t)  for every i < t;   p = softmax(a)
    s_t = Σ p_i h_i;   h_t = h'_t + s_t;   y_t = V1 h_t + V2 s_t + b

where h'_t is the output of the LSTM cell. At the first step s_1 = 0, because there are no memories
yet. Time and memory grow with T².
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sabtune.models.attentive import Attentive
from sabtune.models.base import ModelConfig
from sabtune.ops import reference, self_attention
from sabtune.ops.checks import check_x
from sabtune.ops.self_attention import State


class SelfAttention(Attentive):
    """The self-attention model, with SAB's readout and its parameters for "mlp" scoring."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        """The configuration, with only the keys that every model has."""

        def label(self) -> str:
            return "lstm self-attention"

        def share_kept(self, steps: int) -> float:
            return 1.0

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> SelfAttention:
            return SelfAttention(self, inputs, outputs, generator)

    state_type = State

    def __init__(self, config: Config, inputs: int, outputs: int, generator: torch.Generator):
        super().__init__(config.hidden, inputs, outputs, generator, forget_bias=config.forget_bias)
        self.config = config

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        check_x(x)
        if state is None:
            zeros = x.new_zeros(x.shape[0], self.config.hidden)
            state = self.start(zeros, zeros)
        hidden, summary, after = self_attention.attend(x, state, self.weights())
        return self.readout(hidden, summary), after

    def start(self, h: Tensor, c: Tensor) -> State:
        return self_attention.start(h, c)

    @torch.no_grad()
    def carried(self, state: State, span: int) -> State:
        memory = state.memory[:, -span - 1 :].detach()
        return State(
            state.h.detach(), state.c.detach(), memory, reference.key(memory, self.weights())
        )
