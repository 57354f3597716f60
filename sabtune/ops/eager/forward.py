"""The eager pass's way forward: a loop over the steps, and a record of it for the way back.

All four gates are kept as sigmoids: the cell gate's tanh is 2σ - 1, with that gate's weights
doubled. B batch, T steps, I inputs, H hidden, M memories, K scores of a step that count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sabtune.ops import reference
from sabtune.ops.eager.scores import picked, scores_of, tanh
from sabtune.ops.eager.weights import weigh
from sabtune.ops.reference import Parameters, Rule, State


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call but for its tensors. In it t counts from 0, `step` steps having gone before."""

    B: int
    T: int
    M0: int  # memories from before the call
    step: int
    k_top: int
    k_att: int
    k_trunc: int
    rule: Rule

    @property
    def most(self) -> int:
        """How many scores of a step count at most, the one that gives θ included."""
        return self.k_top + (self.rule.form == "paper")

    def memories(self, t: int) -> int:
        """M at step t, which is also the number of a memory made at step t; at T, all."""
        return self.M0 + (self.step + t) // self.k_att - self.step // self.k_att

    def remembers(self, t: int) -> bool:
        return (self.step + t + 1) % self.k_att == 0

    def is_cut(self, t: int) -> bool:
        return reference.is_cut(self.step + t + 1, self.k_trunc, self.rule)

    def counts(self) -> list[int]:
        """K of every step."""
        return [min(self.most, self.memories(t)) for t in range(self.T)]

    def picks(self) -> list[int]:
        """K of every step that picks memories; 0 where all count."""
        return [self.most * (self.memories(t) > self.most) for t in range(self.T)]

    def by_step(self, flat: Tensor, counts: list[int]) -> list[Tensor]:
        """(B, K) of every step, one behind the other in `flat`."""
        pieces: tuple[Tensor, ...] = flat.split([self.B * K for K in counts])  # type: ignore[no-untyped-call]
        return [piece.view(self.B, K) for piece, K in zip(pieces, counts, strict=True)]


class Record(NamedTuple):
    """What a call gives, and what its way back needs."""

    hidden: Tensor  # (B, T, H)
    summary: Tensor  # (B, T, H)
    c: Tensor  # (B, H), after the last step
    memory: Tensor  # (B, M, H), all of them
    keys: Tensor  # (B, M, H)
    gates: Tensor  # (T, B, 4H): σ of input, forget, cell and output gate
    cells: Tensor  # (T + 1, B, H): c, from the one before the first step on
    weights: Tensor  # the p of all steps, `Call.counts`
    rows: Tensor  # their rows, `Call.picks`
    divisors: Tensor  # (T, B, 1): what p was divided by


def doubled(p: Parameters) -> tuple[Tensor, Tensor, Tensor]:
    """W_ih, W_hh and the sum of the biases, the cell gate's doubled."""
    return tuple(  # type: ignore[return-value]
        double_cell_gate(w.clone()) for w in (p.weight_ih, p.weight_hh, p.bias_ih + p.bias_hh)
    )


def double_cell_gate(w: Tensor) -> Tensor:
    """In place, of a (4H, …)."""
    H = w.shape[0] // 4
    w[2 * H : 3 * H] *= 2
    return w


def with_room(carried: Tensor, M: int) -> Tensor:
    """A bank (B, M, H) that begins with what is carried."""
    bank = carried.new_empty(carried.shape[0], M, carried.shape[2])
    bank[:, : carried.shape[1]] = carried
    return bank


def forward(call: Call, x: Tensor, p: Parameters, state: State, *, keep: bool) -> Record:
    """Runs x (B, T, I) from `state`. Unless it is to `keep` the record, that is left unwritten."""
    B, T, H = call.B, call.T, state.h.shape[1]
    W_ih, W_hh, bias = doubled(p)
    gates = torch.addmm(bias, x.transpose(0, 1).reshape(T * B, -1), W_ih.T).view(T, B, 4 * H)
    memory = with_room(state.memory, call.memories(T))
    keys = with_room(state.keys, call.memories(T))
    scores = scores_of(p, call.rule, keys, call.M0, call.most)
    hidden, summary = x.new_empty(B, T, H), x.new_empty(B, T, H)
    cells = x.new_empty(T + 1 if keep else 1, B, H)
    divisors = x.new_empty(T if keep else 0, B, 1)
    weights = x.new_empty(B * sum(call.counts()) if keep else 0)
    rows = torch.empty(B * sum(call.picks()) if keep else 0, dtype=torch.long, device=x.device)
    if keep:
        weights_of, rows_of = (
            call.by_step(weights, call.counts()),
            call.by_step(rows, call.picks()),
        )
    cells[0] = state.c
    h, c = state.h, cells[0]
    for t in range(T):
        i, f, g, o = gates[t].addmm_(h, W_hh.T).sigmoid_().chunk(4, dim=1)
        c = torch.mul(f, c, out=cells[t + 1] if keep else c).addcmul_(i, g, value=2).sub_(i)
        query = tanh(c).mul_(o)
        M = call.memories(t)
        a, chosen = scores.highest(query, M)
        w, divisor = weigh(a, chosen is None, call.rule, weights_of[t] if keep else None)
        s = torch.bmm(w.unsqueeze(1), picked(memory, chosen, M)).squeeze(1)
        h = query.add_(s)
        hidden[:, t], summary[:, t] = h, s
        if call.remembers(t):
            memory[:, M] = h
            scores.remember(h, M)
        if keep:
            divisors[t] = divisor
            if chosen is not None:
                rows_of[t].copy_(chosen)
    return Record(hidden, summary, c.clone(), memory, keys, gates, cells, weights, rows, divisors)
