"""What a model is to the rest of sabtune: a recurrent map from sequences to logits.

Shapes: B batch, T steps, I inputs, O outputs, H hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sabtune.schema import Config, check_whole


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config, ABC):
    """What every model has. `hidden`: units of the recurrent state."""

    hidden: int = 128

    def __post_init__(self) -> None:
        check_whole("hidden", self.hidden, least=1)

    @abstractmethod
    def label(self) -> str:
        """The few words that tell this configuration from its neighbours in a list."""

    @abstractmethod
    def build(self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator) -> Model:
        """A new model, every weight drawn from `generator`; `steps`: T of a training sequence."""


def uniform(*shape: int, fan_in: int, generator: torch.Generator) -> nn.Parameter:
    """A weight drawn within ±1/√fan_in, which is torch's own default for nn.LSTM and nn.Linear."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))


class Model(nn.Module, ABC):
    """A recurrent network that can be run stretch by stretch."""

    @abstractmethod
    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits (B, T, O) for x (B, T, I), and the state to go on from.

        `state` is what an earlier call returned, or None at a sequence's start. Running a sequence
        in stretches gives the logits of running it whole.
        """

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where sequences are to be."""
        return next(self.parameters()).device

    def set_progress(self, progress: float) -> None:
        """Takes the share of training done (0 to 1); a model without a schedule ignores it."""

    def in_force(self) -> dict[str, float]:
        """The scheduled values now in force, by name, for the reports."""
        return {}
