"""What a model is to the rest of sabtune: a recurrent map from sequences to logits.

Shapes: B batch, T steps, I inputs, O outputs, H hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from sabtune.schema import Config, check_whole


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config, ABC):
    """What every model has.

    hidden: units of the recurrent state. forget_bias: added to the bias of the forget gates before
    the first update; above 0 they begin nearer to open (Gers et al., 2000).
    """

    hidden: int = 128
    forget_bias: float = 0.0

    def __post_init__(self) -> None:
        check_whole("hidden", self.hidden, least=1, most=2**20)

    @property
    def period(self) -> int:
        """After how many steps the pattern of remembered states repeats."""
        return 1

    def share_kept(self, steps: int) -> float | None:
        """Return the share of the memories that a step keeps at the end of the schedule, and of a
        sequence of T = `steps`; None for a model without memories."""
        return None

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


def open_forget_gates(bias: nn.Parameter, by: float) -> None:
    """Adds to the second quarter of a bias (4H), which is the forget gates' in torch's order."""
    with torch.no_grad():
        bias.view(4, -1)[1] += by


def state_tensors(state: Any) -> dict[str, Tensor]:
    """A state, a dataclass of tensors and whole numbers, as tensors by name, each its own."""
    values = {field.name: torch.as_tensor(getattr(state, field.name)) for field in fields(state)}
    return {name: value.clone() for name, value in values.items()}


class Model(nn.Module, ABC):
    """A recurrent network that can be run stretch by stretch."""

    state_type: type
    """Of what `forward` returns beside the logits."""

    def state_of(self, tensors: Mapping[str, Tensor]) -> Any:
        """The state that `state_tensors` took apart. Raises KeyError if something is missing.

        Copied to where torch itself would lay it: a product may have other last bits elsewhere.
        """
        values = {field.name: tensors[field.name] for field in fields(self.state_type)}
        return self.state_type(
            **{k: t.clone().to(self.device) if t.dim() else int(t) for k, t in values.items()}
        )

    @abstractmethod
    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits (B, T, O) for x (B, T, I), and the state to go on from.

        `state` is what an earlier call returned, or None at a sequence's start. Running a sequence
        in stretches gives the logits of running it whole.
        """

    @abstractmethod
    def carried(self, state: Any, span: int) -> Any:
        """`state` as a later update may go on from it: cut from what led to it, without remembered
        states that are more than `span` steps old, and scored by the weights as they are now."""

    @abstractmethod
    def start(self, h: Tensor, c: Tensor) -> Any:
        """The state at a sequence's start, nothing remembered, with these h and c, each (B, H)."""

    def restarted(self, state: Any) -> Any:
        """`start` with the h and c that `state` ends with, cut from what led to them."""
        h, c = (end.detach().reshape(-1, end.shape[-1]) for end in (state.h, state.c))
        return self.start(h, c)

    @property
    def period(self) -> int:
        """After how many steps the pattern of remembered states repeats."""
        return 1

    @property
    def settled(self) -> bool:
        """Whether everything scheduled is what training ends with."""
        return True

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where sequences are to be."""
        return next(self.parameters()).device

    def set_progress(self, progress: float) -> None:
        """Takes the share of training done (0 to 1); a model without a schedule ignores it."""

    def in_force(self) -> dict[str, float]:
        """The scheduled values now in force, by name, for the reports."""
        return {}
