"""What a SAB model recalls: which step recalls which, from how far back, and how sparsely.

This module is for analysis, not for training: it runs the reference equations step by step and
stores every weight.

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
    """The attention weights with which a model recalled its memories, over whole sequences."""

    weights: Tensor  # (B, T, M): [:, t, m] is p_m at step t + 1, or 0 before m exists
    made_at: Tensor  # (M,): the step, from 1, that made each memory; 0 for the zero vector m_0

    def by_step(self) -> Tensor:
        """Return the weights (B, T, T) by step, without m_0.

        Entry [:, t, i] is the weight with which step t + 1 recalled the state of step i + 1.
        """
        B, T, _ = self.weights.shape
        steps = self.weights.new_zeros(B, T, T)
        steps[:, :, self.made_at[1:] - 1] = self.weights[:, :, 1:]
        return steps

    def distances(self) -> Tensor:
        """Return the total weight (T,) by distance, without m_0.

        Entry d is the weight of the memories that are d steps old, summed over sequences and steps.
        """
        T = self.weights.shape[1]
        now = torch.arange(1, T + 1, device=self.made_at.device).unsqueeze(1)
        back = (now - self.made_at[1:]).clamp_min(0).expand(self.weights.shape[0], -1, -1)
        total = self.weights.new_zeros(T)
        return total.index_add(0, back.flatten(), self.weights[:, :, 1:].flatten())

    def kept(self) -> Tensor:
        """Return how many memories each step recalled (T,), averaged over the batch."""
        return (self.weights != 0).sum(dim=-1).float().mean(dim=0)

    def sparsity(self) -> float:
        """Return the fraction of the available memories that steps did not recall."""
        T = self.weights.shape[1]
        now = torch.arange(1, T + 1, device=self.made_at.device).unsqueeze(1)
        available = (self.made_at < now).sum()
        return 1 - float(self.kept().sum() / available)


@torch.no_grad()
def recall_map(model: SAB, x: Tensor) -> RecallMap:
    """Return what `model` recalls on the sequences x (B, T, I), with its current k_top.

    The result holds all weights: B·T·M floats, where M = 1 + T // k_att.
    """
    B, T, _ = x.shape
    k_att = model.config.k_att
    made_at = torch.arange(0, T + 1, k_att, device=x.device)
    weights = x.new_zeros(B, T, len(made_at))

    def store(t: int, p: Tensor) -> None:
        weights[:, t - 1, : p.shape[1]] = p

    parameters = model.weights()
    reference.sab(
        x,
        reference.initial_state(B, parameters),
        parameters,
        **vars(model.sparsity),
        watch=store,
    )
    return RecallMap(weights, made_at)
