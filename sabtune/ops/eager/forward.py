"""The eager forward pass: a loop over the steps, and a record of it for the backward pass.

All four gates are stored as sigmoids. The cell gate tanh u is 2σ(2u) - 1, so its weights are
doubled, and σ(2u) is stored.

Shapes: B batch, T steps, I inputs, H hidden, M memories, K top scores of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sabtune.ops import reference
from sabtune.ops.eager.scores import gather_rows, make_scores, tanh
from sabtune.ops.eager.weights import weigh, weigh_early
from sabtune.ops.reference import Parameters, Sparsity, State


@dataclass(frozen=True, kw_only=True)
class EagerCall:
    """The sizes and options of a call. Its steps t count from 0; `step` steps precede them."""

    B: int
    T: int
    M0: int  # memories from before the call
    step: int
    sparsity: Sparsity

    @property
    def max_scores(self) -> int:
        """The largest number of scores that affect the weights of a step, including θ."""
        form, k_top = self.sparsity.rule.form, self.sparsity.k_top
        if form == "early":  # any number of scores may equal θ
            return self.memories(self.T)
        return k_top + (form == "paper")

    def uses_scores(self, t: int) -> bool:
        """Return whether the weights of step t are the scores themselves."""
        return self.sparsity.rule.form != "paper" and self.memories(t) <= self.sparsity.k_top

    def memories(self, t: int) -> int:
        """Return M at step t, which is also the index of a memory that step t adds."""
        k_att = self.sparsity.k_att
        return self.M0 + (self.step + t) // k_att - self.step // k_att

    def remembers(self, t: int) -> bool:
        """Return whether h_t becomes a memory."""
        return (self.step + t + 1) % self.sparsity.k_att == 0

    def is_cut(self, t: int) -> bool:
        """Return whether h and c are detached before step t."""
        return reference.is_cut(self.step + t + 1, self.sparsity.k_trunc, self.sparsity.rule)

    def top_counts(self) -> list[int]:
        """Return K of every step."""
        return [min(self.max_scores, self.memories(t)) for t in range(self.T)]

    def selected_counts(self) -> list[int]:
        """Return K of every step that selects memories, and 0 of a step that uses all of them."""
        return [self.max_scores * (self.memories(t) > self.max_scores) for t in range(self.T)]

    def split_steps(self, flat: Tensor, counts: list[int]) -> list[Tensor]:
        """Split `flat` into one (B, K) view per step."""
        pieces: tuple[Tensor, ...] = flat.split([self.B * K for K in counts])  # type: ignore[no-untyped-call]
        return [piece.view(self.B, K) for piece, K in zip(pieces, counts, strict=True)]


class Record(NamedTuple):
    """The outputs of a call, and what its backward pass needs."""

    hidden: Tensor  # (B, T, H)
    summary: Tensor  # (B, T, H)
    c: Tensor  # (B, H), after the last step
    memory: Tensor  # (B, M, H), including the memories from before the call
    keys: Tensor  # (B, M, H)
    gates: Tensor  # (T, B, 4H): σ of input, forget, cell and output gate
    cells: Tensor  # (T + 1, B, H): c before the first step, then after each step
    weights: Tensor  # p of all steps, sized by `EagerCall.top_counts`
    rows: Tensor  # the selected memories' rows, sized by `EagerCall.selected_counts`
    divisors: Tensor  # (T, B, 1): the divisor of p
    lowest: Tensor  # (T, B, 1) in the early form: the index of the score that gives θ


def doubled(p: Parameters) -> tuple[Tensor, Tensor, Tensor]:
    """Return W_ih, W_hh and b_ih + b_hh, with the cell gate's rows doubled."""
    return tuple(  # type: ignore[return-value]
        double_cell_gate(w.clone()) for w in (p.weight_ih, p.weight_hh, p.bias_ih + p.bias_hh)
    )


def double_cell_gate(w: Tensor) -> Tensor:
    """Double the cell gate's rows of w (4H, …) in place."""
    H = w.shape[0] // 4
    w[2 * H : 3 * H] *= 2
    return w


def allocate_bank(carried: Tensor, M: int) -> Tensor:
    """Allocate a bank (B, M, H) whose first rows are `carried` (B, M0, H)."""
    bank = carried.new_empty(carried.shape[0], M, carried.shape[2])
    bank[:, : carried.shape[1]] = carried
    return bank


def forward(call: EagerCall, x: Tensor, p: Parameters, state: State, *, keep: bool) -> Record:
    """Run x (B, T, I) from `state`.

    keep: store what the backward pass needs. Otherwise the record does not hold it.
    """
    B, T, H, rule = call.B, call.T, state.h.shape[1], call.sparsity.rule
    early = rule.form == "early"
    W_ih, W_hh, bias = doubled(p)
    gates = torch.addmm(bias, x.transpose(0, 1).reshape(T * B, -1), W_ih.T).view(T, B, 4 * H)
    memory = allocate_bank(state.memory, call.memories(T))
    keys = allocate_bank(state.keys, call.memories(T))
    scores = make_scores(p, rule, keys, call.M0, call.max_scores)
    hidden, summary = x.new_empty(B, T, H), x.new_empty(B, T, H)
    cells = x.new_empty(T + 1 if keep else 1, B, H)
    divisors = x.new_empty(T if keep else 0, B, 1)
    lowest = torch.empty(T if keep and early else 0, B, 1, dtype=torch.long, device=x.device)
    weights = x.new_empty(B * sum(call.top_counts()) if keep else 0)
    rows = torch.empty(
        B * sum(call.selected_counts()) if keep else 0, dtype=torch.long, device=x.device
    )
    if keep:
        step_weights = call.split_steps(weights, call.top_counts())
        step_rows = call.split_steps(rows, call.selected_counts())
    cells[0] = state.c
    h, c = state.h, cells[0]
    for t in range(T):
        i, f, g, o = gates[t].addmm_(h, W_hh.T).sigmoid_().chunk(4, dim=1)
        c = torch.mul(f, c, out=cells[t + 1] if keep else c).addcmul_(i, g, value=2).sub_(i)
        query = tanh(c).mul_(o)
        M = call.memories(t)
        a, selected = scores.highest(query, M)
        out = step_weights[t] if keep else None
        if early:
            w, divisor, index = weigh_early(a, call.sparsity.k_top, rule.epsilon, out)
        else:
            w, divisor = weigh(a, selected is None, rule, out)
        s = torch.bmm(w.unsqueeze(1), gather_rows(memory, selected, M)).squeeze(1)
        h = query.add_(s)
        hidden[:, t], summary[:, t] = h, s
        if call.remembers(t):
            memory[:, M] = h
            scores.remember(h, M)
        if keep:
            divisors[t] = divisor
            if early:
                lowest[t] = index
            if selected is not None:
                step_rows[t].copy_(selected)
    return Record(
        hidden, summary, c.clone(), memory, keys, gates, cells, weights, rows, divisors, lowest
    )
