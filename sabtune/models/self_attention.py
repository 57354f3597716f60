"""The baseline LSTM with full self-attention: dense, and never truncated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sabtune.models.attentive import Attentive
from sabtune.models.lstm_like import LSTMLikeConfig
from sabtune.ops import reference, self_attention
from sabtune.ops.checks import check_x
from sabtune.ops.self_attention import State


class SelfAttention(Attentive):
    """The baseline LSTM with full self-attention: dense, and never truncated.

    It is SAB with every state remembered and recalled, and softmax weights. It has SAB's readout,
    and SAB's parameters for "mlp" scoring. At each step t

        a_i = w3 · tanh(W1 h_i + W2 h'_t)  for every i < t;   p = softmax(a)
        s_t = Σ p_i h_i;   h_t = h'_t + s_t;   y_t = V1 h_t + V2 s_t + b

    where h'_t is the output of the LSTM cell. At the first step s_1 = 0, because there are no
    memories yet. Time and memory grow with T².

    Args:
        config: The configuration. Its `build` method creates the model too.
        inputs: I, the number of inputs of a step.
        outputs: O, the number of logits of a step.
        generator: A random generator on the CPU, which the weights are drawn from.

    Attributes:
        config: The configuration.

    Example:
        >>> import torch, sabtune as sab
        >>> config, generator = sab.SelfAttention.Config(hidden=32), torch.Generator()
        >>> model = sab.SelfAttention(config, 10, 9, generator.manual_seed(0))
        >>> logits, state = model(torch.randn(8, 40, 10))
        >>> logits.shape, state.memory.shape
        (torch.Size([8, 40, 9]), torch.Size([8, 40, 32]))
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LSTMLikeConfig):
        """The configuration of the self-attention model, with only the fields of an LSTM.

        Args:
            hidden: H, the number of units of the recurrent state, from 1 to `2**20`.
            forget_bias: A number that is added to the initial bias of the forget gates. Above 0,
                the gates start more open (Gers et al., 2000).

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> config = sab.SelfAttention.Config(hidden=64)
            >>> config.label(), config.share_kept(steps=100)
            ('lstm self-attention', 1.0)
        """

        def label(self) -> str:
            return "lstm self-attention"

        def legend(self) -> str:
            return "Self-attention LSTM, full BPTT"

        def share_kept(self, steps: int) -> float:
            return 1.0

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> SelfAttention:
            return SelfAttention(self, inputs, outputs, generator)

    state_type = State

    def __init__(self, config: Config, inputs: int, outputs: int, generator: torch.Generator):
        """Create the model, with weights drawn from `generator`."""
        super().__init__(config.hidden, inputs, outputs, generator, forget_bias=config.forget_bias)
        self.config = config

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        check_x(x)
        if state is None:
            zeros = x.new_zeros(x.shape[0], self.config.hidden)
            state = self.start(zeros, zeros)
        hidden, summary, after = self_attention.attend(x, state, self.weights())
        return self.readout(hidden, summary), after

    def multiply_adds(self, inputs: int, steps: int) -> float:
        """Return the multiply-adds of a step, which attends to all earlier states.

        See `Model.multiply_adds`. W1 m is computed once for each state.
        """
        memories = (steps - 1) / 2
        return self.attention_multiply_adds(keys=1, scored=memories, recalled=memories)

    def start(self, h: Tensor, c: Tensor) -> State:
        return self_attention.start(h, c)

    @torch.no_grad()
    def carry(self, state: State, span: int) -> State:
        memory = state.memory[:, -span - 1 :].detach()
        return State(
            state.h.detach(), state.c.detach(), memory, reference.key(memory, self.weights())
        )
