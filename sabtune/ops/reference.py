"""Sparse Attentive Backtracking, equation by equation, differentiated by plain autograd.

Tests compare every faster implementation with this one. The paper is Ke et al., "Sparse Attentive
Backtracking: Temporal Credit Assignment Through Reminding", NeurIPS 2018 (arXiv 1809.03702).

For the steps t = 1 … T, with a memory M that initially holds one zero vector m_0:

    h'_t, c_t = LSTMCell(x_t, (h_{t-1}, c_{t-1}))   `lstm_cell`; h and c are detached first
                                                    where (t-1) mod k_trunc == 0, `is_cut`
    a_i       = w3 · tanh(W1 m_i + W2 h'_t)         `scores`
    θ         = the (k_top+1)-th largest a_i        `threshold`
    p_i       = max(a_i - θ, 0) / (Σ … + ε)         `sparse_weights`
    s_t       = Σ p_i m_i;  h_t = h'_t + s_t
    h_t is appended to M, not detached, where t mod k_att == 0
    y_t       = V1 h_t + V2 s_t + b                 `readout`

A `Rule` selects how memories are scored and weighted.

Shapes: B batch, T steps, I inputs, H hidden, M memories, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from sabtune.ops.checks import check_call
from sabtune.schema import Config

Scoring = Literal["mlp", "dot", "separable"]
Normalizer = Literal["sum", "softmax"]
Form = Literal["paper", "released", "early"]
Cut = Literal["after", "before"]
Readout = tuple[Tensor, Tensor]  # V (O, 2H) = [V1 V2], and b (O,)


@dataclass(frozen=True, kw_only=True)
class Rule(Config):
    """How memories are scored and weighted. The defaults are the paper's.

    scoring: "mlp", w3 · tanh(W1 m + W2 h'); "dot", (W1 m) · (W2 h') / √H; or "separable",
    w3 · tanh(W1 m), which ignores the query.
    normalizer: how the scores above θ become weights: "sum", (a - θ) / (Σ (a - θ) + ε); or
    "softmax", the softmax of those scores.
    epsilon: ε. Because of it, all weights are zero at a step where no score is above θ.
    form: "paper"; or a variant in code of the authors, "released" (March 2019) or "early" (July
    2018). In both, the weights are the scores themselves, not normalized, while there are at most
    k_top memories, and `cut` is "before". In "released", a_i = w · [tanh h'_t; tanh m_i], so the
    query cancels in a_i - θ; and θ is the k_top-th largest score + 1e-7, so a step keeps k_top - 1
    memories. In "early", a_i is that of "mlp", and θ is the (k_top+1)-th largest score - 1e-7, so
    that score has a tiny weight too, and so has any score that equals it.
    cut: where k_trunc cuts the local gradient. With "after", h and c are detached after every
    k_trunc-th step, which is before the steps t with (t-1) mod k_trunc == 0; with "before", they
    are detached before every k_trunc-th step, t mod k_trunc == 0. None is the form's own: "after"
    in the paper's form, "before" in the others.
    """

    scoring: Scoring = "mlp"
    normalizer: Normalizer = "sum"
    epsilon: float = 1e-7
    form: Form = "paper"
    cut: Cut | None = None

    @property
    def cuts_before(self) -> bool:
        """Whether h and c are detached before every k_trunc-th step, instead of after it."""
        return self.form != "paper" if self.cut is None else self.cut == "before"


PAPER = Rule()
MARGIN = 1e-7
"""The distance between θ and a score, in the forms of the authors' code."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Parameters:
    """The cell's weights. Gates are stacked in PyTorch's order: input, forget, cell, output.

    A parameter that the rule does not use is an empty tensor: w3 with "dot" scoring, W2 with
    "separable" scoring, and W1 and W2 in the released form, where w3 holds that form's w.
    """

    weight_ih: Tensor  # (4H, I)
    weight_hh: Tensor  # (4H, H)
    bias_ih: Tensor  # (4H,)
    bias_hh: Tensor  # (4H,)
    W1: Tensor  # (H, H), applied to the memories
    W2: Tensor  # (H, H), applied to the query h'_t
    w3: Tensor  # (H,); in the released form (2H,), the first H for tanh h'_t


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """The recurrent state between two calls on the same sequence."""

    h: Tensor  # (B, H)
    c: Tensor  # (B, H)
    memory: Tensor  # (B, M, H), m_0 = 0, then the remembered h_t, oldest first
    keys: Tensor  # (B, M, H), the memory's part of a score: W1 m_i
    step: int  # number of steps since the start, from which k_att and k_trunc count


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """How many memories a step attends to, which states are remembered, and by which rule.

    k_top: the number of memories that a step attends to. k_att: every k_att-th state is remembered.
    k_trunc: the number of steps of local back-propagation; 0 for no truncation.
    """

    k_top: int
    k_att: int
    k_trunc: int
    rule: Rule = PAPER


def initial_state(batch: int, parameters: Parameters) -> State:
    """Return the state before the first step: h = c = 0, and a memory that holds only m_0 = 0."""
    w = parameters.weight_hh
    zeros = w.new_zeros(batch, w.shape[1])
    nothing = w.new_zeros(batch, 1, w.shape[1])
    return State(h=zeros, c=zeros, memory=nothing, keys=nothing, step=0)


def lstm_cell(x_gates: Tensor, h: Tensor, c: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Run one LSTM step from W_ih x_t + b_ih (B, 4H); return h'_t and c_t, each (B, H)."""
    gates = x_gates + h @ p.weight_hh.T + p.bias_hh
    i, f, g, o = gates.chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def key(m: Tensor, p: Parameters, rule: Rule = PAPER) -> Tensor:
    """Return the key (…, H) that is stored with a memory m (…, H) for scoring."""
    return torch.tanh(m) if rule.form == "released" else m @ p.W1.T


def scores(keys: Tensor, query: Tensor, p: Parameters, rule: Rule = PAPER) -> Tensor:
    """Compute a (B, M) from the memories' keys (B, M, H) and the query h'_t (B, H)."""
    H = query.shape[-1]
    if rule.form == "released":
        return (torch.tanh(query) @ p.w3[:H]).unsqueeze(1) + keys @ p.w3[H:]
    if rule.scoring == "separable":
        return torch.tanh(keys) @ p.w3
    q = (query @ p.W2.T).unsqueeze(1)
    if rule.scoring == "dot":
        return (keys * q).sum(dim=-1) / math.sqrt(H)
    return torch.tanh(keys + q) @ p.w3


def threshold(a: Tensor, k_top: int) -> Tensor:
    """Return θ (B, 1), each example's (k_top+1)-th largest score, or its smallest if M <= k_top."""
    rank = min(k_top + 1, a.shape[-1])
    return a.topk(rank, dim=-1).values[..., -1:]


def sparse_weights(a: Tensor, k_top: int, rule: Rule = PAPER) -> Tensor:
    """Compute p (B, M) from the scores a (B, M).

    At most k_top weights are not zero, except in the form "early".
    """
    if rule.form != "paper":
        return authors_weights(a, k_top, rule)
    theta = threshold(a, k_top)
    if rule.normalizer == "softmax":
        w = torch.exp(a - a.amax(dim=-1, keepdim=True)) * (a > theta)
        return w / w.sum(dim=-1, keepdim=True).clamp_min(1.0)  # at least 1 unless all w are 0
    w = torch.relu(a - theta)
    return w / (w.sum(dim=-1, keepdim=True) + rule.epsilon)


def authors_weights(a: Tensor, k_top: int, rule: Rule) -> Tensor:
    """Compute p (B, M) as the authors' code does, released or early."""
    if a.shape[-1] <= k_top:
        return a
    if rule.form == "early":
        theta = threshold(a, k_top) - MARGIN
    else:
        theta = a.topk(k_top, dim=-1).values[..., -1:] + MARGIN
    w = torch.relu(a - theta)
    return w / (w.sum(dim=-1, keepdim=True) + rule.epsilon)


def is_cut(t: int, k_trunc: int, rule: Rule = PAPER) -> bool:
    """Return whether h and c are detached before step t, counted from 1."""
    if not k_trunc:
        return False
    return (t - 1 + rule.cuts_before) % k_trunc == 0


def sab(
    x: Tensor,
    state: State,
    p: Parameters,
    *,
    k_top: int,
    k_att: int,
    k_trunc: int,
    rule: Rule = PAPER,
    watch: Callable[[int, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor, State]:
    """Run x (B, T, I) from `state`; return h (B, T, H), s (B, T, H) and the state after it.

    k_top, k_att, k_trunc, rule: see `Sparsity`. watch: called at each step with its number t and
    its weights p (B, M). Raises InputError if a shape, dtype, device or count does not fit.
    """
    sparsity = Sparsity(k_top=k_top, k_att=k_att, k_trunc=k_trunc, rule=rule)
    check_call(x, state, p, State, sparsity)
    return steps(x, state, p, sparsity, watch)


def steps(
    x: Tensor,
    state: State,
    p: Parameters,
    sparsity: Sparsity,
    watch: Callable[[int, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor, State]:
    """Compute `sab` without checking the arguments."""
    k_top, k_att, rule = sparsity.k_top, sparsity.k_att, sparsity.rule
    h, c, memory, keys = state.h, state.c, state.memory, state.keys
    x_gates = x @ p.weight_ih.T + p.bias_ih
    hidden: list[Tensor] = []
    summary: list[Tensor] = []
    for t, gates in enumerate(x_gates.unbind(dim=1), start=state.step + 1):
        if is_cut(t, sparsity.k_trunc, rule):
            h, c = h.detach(), c.detach()
        h, c = lstm_cell(gates, h, c, p)
        weights = sparse_weights(scores(keys, h, p, rule), k_top, rule)
        if watch is not None:
            watch(t, weights)
        s = torch.einsum("bm,bmh->bh", weights, memory)
        h = h + s
        if t % k_att == 0:
            memory = torch.cat([memory, h.unsqueeze(1)], dim=1)
            keys = torch.cat([keys, key(h, p, rule).unsqueeze(1)], dim=1)
        hidden.append(h)
        summary.append(s)
    after = State(h=h, c=c, memory=memory, keys=keys, step=state.step + x.shape[1])
    return torch.stack(hidden, dim=1), torch.stack(summary, dim=1), after


def readout(hidden: Tensor, summary: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute y_t = V1 h_t + V2 s_t + b (B, T, O) from h and s (B, T, H) and weight = [V1 V2]."""
    V1, V2 = weight.chunk(2, dim=1)
    # the backward pass of a product with strided rows takes five times as long
    return linear(hidden, V1.contiguous(), bias) + linear(summary, V2.contiguous())
