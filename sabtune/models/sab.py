"""An LSTM with Sparse Attentive Backtracking (Ke et al., NeurIPS 2018, arXiv 1809.03702)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from sabtune.models.base import Model, ModelConfig, uniform
from sabtune.ops import fused, reference
from sabtune.schedule import Constant, Schedule
from sabtune.schema import check_whole


class SAB(Model):
    """The paper's model: its equations are in `ops.reference`, and `ops.fused` is their fast path."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        """The sparsity of the memory, in the paper's names.

        k_top: memories kept a step, at the end of the schedule.
        k_att: every k_att-th state is remembered.
        k_trunc: steps of local back-propagation; 0 for no truncation.
        schedule: how k_top gets there.
        """

        k_top: int = 5
        k_att: int = 5
        k_trunc: int = 5
        schedule: Schedule = field(default_factory=Constant)

        def __post_init__(self) -> None:
            super().__post_init__()
            check_whole("k_top", self.k_top, least=1)
            check_whole("k_att", self.k_att, least=1)
            check_whole("k_trunc", self.k_trunc, least=0)

        def label(self) -> str:
            schedule = type(self.schedule).__name__.lower()
            return f"k_top={self.k_top} k_att={self.k_att} k_trunc={self.k_trunc} {schedule}"

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> SAB:
            return SAB(self, inputs, outputs, steps=steps, generator=generator)

    def __init__(
        self, config: Config, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
    ):
        super().__init__()
        self.config = config
        self.dense = 1 + steps // config.k_att  # the memories of a training sequence, m_0 with them
        self.set_progress(0.0)
        H = config.hidden

        cell = partial(uniform, fan_in=H, generator=generator)
        self.weight_ih = cell(4 * H, inputs)
        self.weight_hh = cell(4 * H, H)
        self.bias_ih = cell(4 * H)
        self.bias_hh = cell(4 * H)
        self.W1 = cell(H, H)
        self.W2 = cell(H, H)
        self.w3 = cell(H)
        readout = partial(uniform, fan_in=2 * H, generator=generator)
        self.V = readout(outputs, 2 * H)  # V1 beside V2
        self.b = readout(outputs)

    def forward(
        self, x: Tensor, state: reference.State | None = None
    ) -> tuple[Tensor, reference.State]:
        hidden, summary, state = self.recall(x, state)
        return reference.readout(hidden, summary, self.V, self.b), state

    def recall(
        self, x: Tensor, state: reference.State | None = None
    ) -> tuple[Tensor, Tensor, reference.State]:
        """h and s, each (B, T, H), of the cell under x (B, T, I), and the state to go on from."""
        parameters = reference.Parameters(
            weight_ih=self.weight_ih,
            weight_hh=self.weight_hh,
            bias_ih=self.bias_ih,
            bias_hh=self.bias_hh,
            W1=self.W1,
            W2=self.W2,
            w3=self.w3,
        )
        return fused.sab(
            x,
            state or reference.initial_state(x.shape[0], parameters),
            parameters,
            k_top=self.k_top,
            k_att=self.config.k_att,
            k_trunc=self.config.k_trunc,
        )

    def set_progress(self, progress: float) -> None:
        self.k_top = self.config.schedule.k_top(progress, self.config.k_top, self.dense)

    def in_force(self) -> dict[str, float]:
        return {"k_top": self.k_top}
