"""An LSTM with self-attention: equation by equation, and as one compiled pass on the CPU.

For the steps t = 1 … T, with all earlier states h_1 … h_{t-1} as memories:

    h'_t, c_t = LSTMCell(x_t, (h_{t-1}, c_{t-1}))   `reference.lstm_cell`
    a_i       = w3 · tanh(W1 h_i + W2 h'_t)         `reference.scores`
    p         = the weights of the scores           `weigh`
    s_t       = Σ p_i h_i;  h_t = h'_t + s_t        in the early form, h_t = h'_t

`attend` computes what `equations` does, gradients included. It runs the compiled pass where that
supports the call, and the equations otherwise (no numba, another device or dtype, a gradient with
respect to the incoming state). SABTUNE_BACKEND=compiled forces the compiled pass; any other backend
forces the equations.

Shapes: B batch, T steps, I inputs, H hidden, M memories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sabtune.ops import normalizers, reference
from sabtune.ops.call import forced_backend, refusal
from sabtune.ops.checks import check_call
from sabtune.ops.compiled import backend
from sabtune.ops.reference import Parameters
from sabtune.schema import Config, check, check_whole

Weights = Literal["softmax", "sparsemax", "entmax15", "top_k"]
Form = Literal["paper", "early"]


@dataclass(frozen=True, kw_only=True)
class Attention(Config):
    """How the states are weighted, and whether their sum is fed back.

    weights: how scores become weights: "softmax"; "sparsemax" (Martins and Astudillo, 2016);
    "entmax15", entmax with α = 1.5 (Peters et al., 2019); or "top_k", the softmax of the k_top
    highest scores.
    k_top: the number of states that "top_k" keeps, at least 1.
    form: "paper"; or "early", in which the weights are the scores themselves and h_t = h'_t.
    """

    weights: Weights = "softmax"
    k_top: int = 5
    form: Form = "paper"

    def __post_init__(self) -> None:
        check_whole("k_top", self.k_top, least=1)
        if self.form == "early":
            wanted = "the default, which the early form requires"
            check(self.weights == "softmax", "weights", self.weights, wanted)

    @property
    def words(self) -> str:
        """The weights in words, as in "top_k=5"."""
        return f"top_k={self.k_top}" if self.weights == "top_k" else self.weights


DENSE = Attention()


@dataclass(frozen=True)
class State:
    """The recurrent state between two calls on the same sequence.

    h, c: (B, H). memory: all past h_i (B, M, H). keys: W1 h_i (B, M, H).
    """

    h: Tensor
    c: Tensor
    memory: Tensor
    keys: Tensor


def start(h: Tensor, c: Tensor) -> State:
    """Return the state before the first step: h and c (B, H), and an empty memory."""
    empty = h.unsqueeze(1)[:, :0]
    return State(h, c, empty, empty)


def weigh(a: Tensor, attention: Attention) -> Tensor:
    """Compute the weights p (B, M) from the scores a (B, M)."""
    if attention.form == "early":
        return a
    match attention.weights:
        case "softmax":
            return torch.softmax(a, dim=-1)
        case "sparsemax":
            return normalizers.sparsemax(a)
        case "entmax15":
            return normalizers.entmax15(a)
        case "top_k":
            return normalizers.top_k(a, attention.k_top)


def equations(
    x: Tensor, state: State, p: Parameters, attention: Attention = DENSE
) -> tuple[Tensor, Tensor, State]:
    """Run x (B, T, I) from `state`; return h (B, T, H), s (B, T, H) and the state after it.

    Plain autograd differentiates it. Tests compare the compiled pass with this function. Raises
    InputError if a shape, dtype or device does not fit.
    """
    check_call(x, state, p, State)
    return steps(x, state, p, attention)


def steps(
    x: Tensor, state: State, p: Parameters, attention: Attention = DENSE
) -> tuple[Tensor, Tensor, State]:
    """Compute `equations` without checking the arguments."""
    h, c, memory, keys = state.h, state.c, state.memory, state.keys
    hidden, summary = [], []
    for gates in (x @ p.weight_ih.T + p.bias_ih).unbind(dim=1):
        h, c = reference.lstm_cell(gates, h, c, p)
        weights = weigh(reference.scores(keys, h, p), attention)
        s = torch.einsum("bm,bmh->bh", weights, memory)
        if attention.form == "paper":
            h = h + s
        memory = torch.cat([memory, h.unsqueeze(1)], dim=1)
        keys = torch.cat([keys, reference.key(h, p).unsqueeze(1)], dim=1)
        hidden.append(h)
        summary.append(s)
    after = State(h, c, memory, keys)
    return torch.stack(hidden, dim=1), torch.stack(summary, dim=1), after


def unsupported(x: Tensor, state: State, p: Parameters) -> str:
    """Return why the compiled pass cannot run a call, or "" if it can."""
    tensors = (state.h, state.c, state.memory, state.keys)
    return backend.unsupported_tensors(x, tensors, vars(p).values())


def attend(
    x: Tensor, state: State, p: Parameters, attention: Attention = DENSE
) -> tuple[Tensor, Tensor, State]:
    """Compute what `equations` does, in the compiled pass if that supports the call.

    The compiled pass returns a detached state. Raises InputError as `equations` does, and if the
    compiled pass is forced and does not support the call.
    """
    forced = forced_backend()
    check_call(x, state, p, State)
    reason = unsupported(x, state, p)
    if reason and forced == "compiled":
        raise refusal(forced, reason, "reference")
    if reason or forced not in ("", "compiled"):
        return steps(x, state, p, attention)
    before = (state.h, state.c, state.memory, state.keys)
    hidden, summary, *after = backend.attend(x, before, p, attention)
    return hidden, summary, State(*after)
