"""The common base of the models whose state is the h and c of an LSTM: its gates and its start."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from sabtune.models.base import Model, ModelConfig


@dataclass(frozen=True, kw_only=True)
class LSTMLikeConfig(ModelConfig, ABC):
    """The base of the configurations of models with the gates of an LSTM.

    Args:
        hidden: H, the number of units of the recurrent state, from 1 to `2**20`.
        forget_bias: A number that is added to the initial bias of the forget gates. Above 0, the
            gates start more open (Gers et al., 2000).

    Raises:
        ConfigError: A field is unknown, out of range or of the wrong type.
    """

    forget_bias: float = 0.0


class LSTMLike(Model):
    """A model that starts a sequence from h and c, each (B, H)."""

    @abstractmethod
    def start(self, h: Tensor, c: Tensor) -> Any:
        """Return the state at the start of a sequence: h and c (B, H), and no memories."""

    def random_start(self, batch: int, scale: float, generator: torch.Generator) -> Any:
        """Return a random h and c, and no memories; see `Model.random_start`."""
        width = cast(LSTMLikeConfig, self.config).hidden
        h, c = scale * torch.randn((2, batch, width), generator=generator)
        device = self.device
        return self.start(h.to(device, non_blocking=True), c.to(device, non_blocking=True))

    def restart(self, state: Any) -> Any:
        """Return the state at the start of a sequence, with the h and c of `state`, detached."""
        h, c = (t.detach().reshape(-1, t.shape[-1]) for t in (state.h, state.c))
        return self.start(h, c)


def open_forget_gates(bias: nn.Parameter, offset: float) -> None:
    """Add `offset` to the forget gates' part of a bias (4H), the second quarter."""
    with torch.no_grad():
        bias.view(4, -1)[1] += offset
