"""A GRU as a model, for the studies beside this file; docs/own_parts.md explains it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

import sabtune as sab


@dataclass(frozen=True)
class State:
    h: torch.Tensor  # (B, H)


class GRU(sab.Model):
    """A GRU with full back-propagation through time."""

    state_type = State

    @dataclass(frozen=True, kw_only=True)
    class Config(sab.ModelConfig):
        def label(self):
            return "gru"

        def build(self, inputs, outputs, *, steps, generator):
            return GRU(self, inputs, outputs, generator)

    def __init__(self, config, inputs, outputs, generator):
        super().__init__()
        self.config = config
        self.gru = nn.GRU(inputs, config.hidden, batch_first=True)
        self.readout = nn.Linear(config.hidden, outputs)
        for weight in self.parameters():  # from the trial's generator, so that runs repeat
            bound = config.hidden**-0.5
            nn.init.uniform_(weight, -bound, bound, generator=generator)

    def forward(self, x, state=None):
        hidden, h = self.gru(x, None if state is None else state.h[None])
        return self.readout(hidden), State(h[0])

    def carry(self, state, span):
        return State(state.h.detach())

    def restart(self, state):
        return State(state.h.detach())

    def random_start(self, batch, scale, generator):
        h = torch.randn(batch, self.config.hidden, generator=generator)
        return State((scale * h).to(self.device))
