"""A GRU as a model, for the studies beside this file; docs/own_parts.md explains it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import sabtune as sab


@dataclass(frozen=True)
class State:
    h: Tensor  # (B, H)


class GRU(sab.Model):
    """A GRU with full back-propagation through time."""

    state_type = State

    @dataclass(frozen=True, kw_only=True)
    class Config(sab.ModelConfig):
        def label(self) -> str:
            return "gru"

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> GRU:
            return GRU(self, inputs, outputs, generator)

    def __init__(self, config: Config, inputs: int, outputs: int, generator: torch.Generator):
        super().__init__()
        self.config = config
        self.gru = nn.GRU(inputs, config.hidden, batch_first=True)
        self.readout = nn.Linear(config.hidden, outputs)
        for weight in self.parameters():  # from the trial's generator, so that runs repeat
            bound = config.hidden**-0.5
            nn.init.uniform_(weight, -bound, bound, generator=generator)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        hidden, h = self.gru(x, None if state is None else state.h[None])
        return self.readout(hidden), State(h[0])

    def carry(self, state: State, span: int) -> State:
        return State(state.h.detach())

    def restart(self, state: State) -> State:
        return State(state.h.detach())

    def random_start(self, batch: int, scale: float, generator: torch.Generator) -> State:
        h = torch.randn(batch, self.config.hidden, generator=generator)
        return State((scale * h).to(self.device))
