"""The common base of minGRU and minLSTM: layers whose gates depend on their input alone.

Source: Feng et al. (2024), "Were RNNs all we needed?", arXiv 2410.01201.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from sabtune.models.base import ModelConfig, linear, uniform
from sabtune.models.recurrent import Recurrent
from sabtune.ops.checks import check_count, check_state, check_tensors, check_x
from sabtune.ops.scan import scan
from sabtune.schema import check_whole


@dataclass(frozen=True)
class State:
    """The recurrent state: the h of every layer (B, L, H), and the number of steps so far."""

    h: Tensor
    step: int


@dataclass(frozen=True, kw_only=True)
class MinimalConfig(ModelConfig, ABC):
    """The base of the configurations of minGRU and minLSTM.

    Args:
        hidden: H, the number of units of each layer, from 1 to `2**20`.
        layers: L, the number of layers, from 1 to 64.

    Raises:
        ConfigError: A field is unknown, out of range or of the wrong type.
    """

    layers: int = 2

    name: ClassVar[str]
    """The name of the model in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("layers", self.layers, least=1, most=64)

    def label(self) -> str:
        return f"{self.name.lower()} layers={self.layers}"

    def legend(self) -> str:
        return f"{self.name}, {self.layers} layer{'s' * (self.layers > 1)}"


class Minimal(Recurrent):
    """A stack of layers h_t = a_t h_{t-1} + b_t, whose a_t and b_t depend on their input alone.

    All steps of a layer are computed by a parallel scan. The readout of the last layer
    is y_t = V h_t + b.
    """

    GATES: ClassVar[int]
    """The number of projections of a layer's input, each of width H."""

    state_type: type[State]

    def __init__(
        self, config: MinimalConfig, inputs: int, outputs: int, generator: torch.Generator
    ):
        """Create the model, with weights drawn from `generator`."""
        super().__init__()
        self.config = config
        H = config.hidden
        widths = [inputs, *[H] * config.layers]
        self.projections = nn.ModuleList(
            linear(width, self.GATES * after, generator) for width, after in pairwise(widths)
        )
        self.V = uniform(outputs, H, fan_in=H, generator=generator)
        self.b = uniform(outputs, fan_in=H, generator=generator)

    @abstractmethod
    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Return a_t and b_t, each (T, B, H), from the projections (T, B, GATES * H)."""

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        check_x(x, self.projections[0].in_features)  # type: ignore[arg-type]
        B, H, L = x.shape[0], self.config.hidden, len(self.projections)
        if state is None:
            state = self.state_type(x.new_zeros(B, L, H), 0)
        check_state(state, self.state_type)
        check_count("state.step", state.step, least=0)
        weights = [(f"projections.{i}", p.weight, p.weight.shape) for i, p in self.numbered()]
        check_tensors(x, [("state.h", state.h, (B, L, H)), *weights, ("V", self.V, self.V.shape)])
        hidden, last = x.transpose(0, 1), []
        for projection, start in zip(self.projections, state.h.unbind(1), strict=True):
            projected = projection(hidden)
            wide = torch.promote_types(projected.dtype, torch.float32)
            h = scan(*self.coefficients(projected.to(wide)), start.to(wide))
            hidden = h.to(x.dtype)
            last.append(hidden[-1])
        after = self.state_type(torch.stack(last, dim=1), state.step + x.shape[1])
        return (hidden @ self.V.T + self.b).transpose(0, 1), after

    def numbered(self) -> list[tuple[int, nn.Linear]]:
        """Return the projections with their indices."""
        return [(i, p) for i, p in enumerate(self.projections) if isinstance(p, nn.Linear)]

    def random_start(self, batch: int, scale: float, generator: torch.Generator) -> State:
        shape = (batch, len(self.projections), self.config.hidden)
        h = scale * torch.randn(shape, generator=generator)
        return self.state_type(h.to(self.device, non_blocking=True), 0)


def g(x: Tensor) -> Tensor:
    """Compute g(x) of the paper: x + 0.5 for x ≥ 0, and the sigmoid of x below."""
    return torch.where(x >= 0, x + 0.5, x.sigmoid())
