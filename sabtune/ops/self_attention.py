"""An LSTM with full self-attention: equation by equation, and as one compiled pass on the CPU.

`attend` computes what `equations` does, gradients included. It runs the compiled pass where that
supports the call, and the equations otherwise (no numba, another device or dtype, a gradient with
respect to the incoming state). SABTUNE_BACKEND=compiled forces the compiled pass; any other backend
forces the equations.

Shapes: B batch, T steps, I inputs, H hidden, M memories.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sabtune.ops import reference
from sabtune.ops.call import forced_backend, refusal
from sabtune.ops.checks import check_call
from sabtune.ops.compiled import backend
from sabtune.ops.reference import Parameters


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


def equations(x: Tensor, state: State, p: Parameters) -> tuple[Tensor, Tensor, State]:
    """Run x (B, T, I) from `state`; return h (B, T, H), s (B, T, H) and the state after it.

    Plain autograd differentiates it. Tests compare the compiled pass with this function. Raises
    InputError if a shape, dtype or device does not fit.
    """
    check_call(x, state, p, State)
    return steps(x, state, p)


def steps(x: Tensor, state: State, p: Parameters) -> tuple[Tensor, Tensor, State]:
    """Compute `equations` without checking the arguments."""
    h, c, memory, keys = state.h, state.c, state.memory, state.keys
    hidden, summary = [], []
    for gates in (x @ p.weight_ih.T + p.bias_ih).unbind(dim=1):
        h, c = reference.lstm_cell(gates, h, c, p)
        weights = torch.softmax(reference.scores(keys, h, p), dim=-1)
        s = torch.einsum("bm,bmh->bh", weights, memory)
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


def attend(x: Tensor, state: State, p: Parameters) -> tuple[Tensor, Tensor, State]:
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
        return steps(x, state, p)
    before = (state.h, state.c, state.memory, state.keys)
    hidden, summary, *after = backend.attend(x, before, p)
    return hidden, summary, State(*after)
