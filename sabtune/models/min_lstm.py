"""minLSTM (Feng et al., 2024, arXiv 2410.01201): an LSTM whose gates depend on its input alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sabtune.models import minimal
from sabtune.models.minimal import Minimal, MinimalConfig, g


class State(minimal.State):
    """The recurrent state: the h of every layer (B, L, H), and the number of steps so far."""


class MinLSTM(Minimal):
    """minLSTM (Feng et al., 2024, arXiv 2410.01201), trained in parallel over all steps.

    At each step t, a layer with the input x_t computes

        f_t = σ(W_f x_t + b_f);   i_t = σ(W_i x_t + b_i)
        h_t = (f_t h_{t-1} + i_t g(W_h x_t + b_h)) / (f_t + i_t)

    where g(x) is x + 0.5 for x ≥ 0, and σ(x) below, as in the paper's log-space form. The input of
    a layer after the first is the h_t of the layer before. h_0 is 0. The logits are
    y_t = V h_t + b, from the last layer. `sabtune.ops.scan` computes all steps in parallel.

    Args:
        config: The configuration. Its `build` method creates the model too.
        inputs: I, the number of inputs of a step.
        outputs: O, the number of logits of a step.
        generator: A random generator on the CPU, which the weights are drawn from.

    Attributes:
        config: The configuration.
        projections: The linear maps of each layer, with [W_f; W_i; W_h] (3H, I or H) and
            [b_f; b_i; b_h].
        V: The weights of the readout, (O, H).
        b: The bias of the readout, (O,).

    Example:
        >>> import torch, sabtune as sab
        >>> config, generator = sab.MinLSTM.Config(hidden=32), torch.Generator()
        >>> model = sab.MinLSTM(config, 10, 9, generator.manual_seed(0))
        >>> logits, state = model(torch.randn(8, 40, 10))
        >>> logits.shape, state.h.shape, state.step
        (torch.Size([8, 40, 9]), torch.Size([8, 2, 32]), 40)
    """

    GATES = 3
    state_type = State

    @dataclass(frozen=True, kw_only=True)
    class Config(MinimalConfig):
        """The configuration of minLSTM.

        Args:
            hidden: H, the number of units of each layer, from 1 to `2**20`.
            layers: L, the number of layers, from 1 to 64. Gates of a single layer see nothing of
                the past. The paper's models have 2 or 3 layers.
            forget_bias: A number that is added to the initial bias of the forget gates. Above 0,
                the layers start out keeping more of their state.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> sab.MinLSTM.Config().label(), sab.MinLSTM.Config(layers=3).legend()
            ('minlstm layers=2', 'minLSTM, 3 layers')
        """

        name: ClassVar[str] = "minLSTM"
        forget_bias: float = 0.0

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> MinLSTM:
            return MinLSTM(self, inputs, outputs, generator)

    def __init__(self, config: Config, inputs: int, outputs: int, generator: torch.Generator):
        """Create the model, with weights drawn from `generator`."""
        super().__init__(config, inputs, outputs, generator)
        with torch.no_grad():
            for _, projection in self.numbered():
                projection.bias.view(self.GATES, -1)[0] += config.forget_bias

    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        forget, insert, candidate = projected.chunk(3, dim=-1)
        share = (logsigmoid(insert) - logsigmoid(forget)).sigmoid()  # i_t / (f_t + i_t)
        return 1 - share, share * g(candidate)
