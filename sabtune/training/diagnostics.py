"""What a SAB model recalls: which steps from which, from how far back, and how sparsely.

Off the hot path: the equations are run step by step, and every weight is kept.

Shapes: B batch, T steps, M memories.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sabtune.models import SAB
from sabtune.ops import reference


@dataclass(frozen=True, eq=False)
class RecallMap:
    """The weights by which a model recalled its memories, over whole sequences."""

    weights: Tensor  # (B, T, M): p of step t + 1 for each memory, 0 before it was made
    made_at: Tensor  # (M,): the step, from 1, whose state it is; 0 for the zero vector m_0

    def by_step(self) -> Tensor:
        """(B, T, T): how much step t + 1 recalled of step i + 1; m_0 is left out."""
        B, T, _ = self.weights.shape
        steps = self.weights.new_zeros(B, T, T)
        steps[:, :, self.made_at[1:] - 1] = self.weights[:, :, 1:]
        return steps

    def distances(self) -> Tensor:
        """(T,): the weight recalled from d steps back, for d from 0 to T - 1, summed over all."""
        T = self.weights.shape[1]
        now = torch.arange(1, T + 1, device=self.made_at.device).unsqueeze(1)
        back = (now - self.made_at[1:]).clamp_min(0).expand(self.weights.shape[0], -1, -1)
        total = self.weights.new_zeros(T)
        return total.index_add(0, back.flatten(), self.weights[:, :, 1:].flatten())

    def kept(self) -> Tensor:
        """(T,): how many memories each step recalled, the mean over the batch."""
        return (self.weights != 0).sum(dim=-1).float().mean(dim=0)

    def sparsity(self) -> float:
        """The share of the memories at hand that were not recalled, over all steps."""
        T = self.weights.shape[1]
        now = torch.arange(1, T + 1, device=self.made_at.device).unsqueeze(1)
        there = (self.made_at < now).sum()
        return 1 - float(self.kept().sum() / there)


@torch.no_grad()
def recall_map(model: SAB, x: Tensor) -> RecallMap:
    """What `model` recalls of the sequences x (B, T, I), with the k_top now in force.

    Holds all weights at once: B·T·M floats, M being 1 + T / k_att.
    """
    B, T, _ = x.shape
    k_att = model.config.k_att
    made_at = torch.arange(0, T + 1, k_att, device=x.device)
    weights = x.new_zeros(B, T, len(made_at))

    def keep(t: int, p: Tensor) -> None:
        weights[:, t - 1, : p.shape[1]] = p

    parameters = model.weights()
    reference.sab(
        x,
        reference.initial_state(B, parameters),
        parameters,
        k_top=model.k_top,
        k_att=k_att,
        k_trunc=model.config.k_trunc,
        rule=model.rule,
        watch=keep,
    )
    return RecallMap(weights, made_at)
