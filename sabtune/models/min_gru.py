"""minGRU (Feng et al., 2024, arXiv 2410.01201): a GRU whose gate depends on its input alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sabtune.models import minimal
from sabtune.models.minimal import Minimal, MinimalConfig, g


class State(minimal.State):
    """The recurrent state: the h of every layer (B, L, H), and the number of steps so far."""


class MinGRU(Minimal):
    """minGRU (Feng et al., 2024, arXiv 2410.01201), trained in parallel over all steps.

    At each step t, a layer with the input x_t computes

        z_t = σ(W_z x_t + b_z);   h_t = (1 - z_t) h_{t-1} + z_t g(W_h x_t + b_h)

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
        projections: The linear maps of each layer, with [W_z; W_h] (2H, I or H) and [b_z; b_h].
        V: The weights of the readout, (O, H).
        b: The bias of the readout, (O,).

    Example:
        >>> import torch, sabtune as sab
        >>> config, generator = sab.MinGRU.Config(hidden=32), torch.Generator()
        >>> model = sab.MinGRU(config, 10, 9, generator.manual_seed(0))
        >>> logits, state = model(torch.randn(8, 40, 10))
        >>> logits.shape, state.h.shape, state.step
        (torch.Size([8, 40, 9]), torch.Size([8, 2, 32]), 40)
    """

    GATES = 2
    state_type = State

    @dataclass(frozen=True, kw_only=True)
    class Config(MinimalConfig):
        """The configuration of minGRU.

        Args:
            hidden: H, the number of units of each layer, from 1 to `2**20`.
            layers: L, the number of layers, from 1 to 64. Gates of a single layer see nothing of
                the past. The paper's models have 2 or 3 layers.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> sab.MinGRU.Config().label(), sab.MinGRU.Config(layers=3).legend()
            ('mingru layers=2', 'minGRU, 3 layers')
        """

        name: ClassVar[str] = "minGRU"

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> MinGRU:
            return MinGRU(self, inputs, outputs, generator)

    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        gate, candidate = projected.chunk(2, dim=-1)
        z = gate.sigmoid()
        return 1 - z, z * g(candidate)
