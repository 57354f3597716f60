"""SAB in PyTorch operations, with a backward pass written by hand, on any device.

`sab` computes what `sabtune.ops.reference.sab` does, gradients included, in a fraction of its time
and memory: the steps run without autograd, and each step stores only the top scores, because only
those have a gradient. It runs the calls that the compiled pass does not support, and tests compare
the two. The reference runs the calls that this pass does not support, for example with another
dtype than float32 and float64 or under autocast.

Shapes: B batch, T steps, I inputs, H hidden, M memories.
"""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from sabtune.ops import reference
from sabtune.ops.checks import check_call, transformed
from sabtune.ops.eager.backward import Backward
from sabtune.ops.eager.forward import Call, Record, forward
from sabtune.ops.higher_order import gradients_through
from sabtune.ops.reference import PAPER, Parameters, Rule, State

DTYPES = (torch.float32, torch.float64)
NAMES = [field.name for field in fields(Parameters)]


def supports(x: Tensor, state: State) -> bool:
    """Return whether this pass supports the call; the reference runs the others."""
    carried = (state.h, state.c, state.memory, state.keys)
    return (
        x.dtype in DTYPES
        and x.shape[0] > 0
        and x.shape[1] > 0
        and all(tensor.dtype == x.dtype for tensor in carried)
        and not torch.is_autocast_enabled(x.device.type)
        and not transformed()
    )


def sab(
    x: Tensor,
    state: State,
    p: Parameters,
    *,
    k_top: int,
    k_att: int,
    k_trunc: int,
    rule: Rule = PAPER,
) -> tuple[Tensor, Tensor, State]:
    """Compute `reference.sab`, with the hand-written backward pass if it supports the call.

    Then `sab` detaches the returned state unless a tensor of `state` requires a gradient. Raises
    InputError as `reference.sab` does.
    """
    counts = {"k_top": k_top, "k_att": k_att, "k_trunc": k_trunc}
    check_call(x, state, p, State, rule, counts=counts)
    if not supports(x, state):
        return reference.sab(x, state, p, k_top=k_top, k_att=k_att, k_trunc=k_trunc, rule=rule)
    call = Call(
        B=x.shape[0],
        T=x.shape[1],
        M0=state.memory.shape[1],
        step=state.step,
        k_top=k_top,
        k_att=k_att,
        k_trunc=k_trunc,
        rule=rule,
    )
    carried = (state.h, state.c, state.memory, state.keys)
    inputs = (x, *(getattr(p, name) for name in NAMES), *carried)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        outputs = _Sab.apply(call, *inputs)  # type: ignore[no-untyped-call]
    else:
        with torch.no_grad():
            outputs = forward(call, x, p, state, keep=False)[:5]
    hidden, summary, c, memory, keys = outputs
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in carried):
        return hidden, summary, with_gradient(call, hidden, c, state, p)
    after = State(
        h=hidden[:, -1].detach(),
        c=c.detach(),
        memory=memory,
        keys=keys,
        step=state.step + call.T,
    )
    return hidden, summary, after


def with_gradient(call: Call, hidden: Tensor, c: Tensor, before: State, p: Parameters) -> State:
    """Return the state after the call, attached to the graph of `hidden` and c."""
    new_memories = hidden[:, [t for t in range(call.T) if call.remembers(t)]]
    return State(
        h=hidden[:, -1],
        c=c,
        memory=torch.cat([before.memory, new_memories], dim=1),
        keys=torch.cat([before.keys, reference.key(new_memories, p, call.rule)], dim=1),
        step=before.step + call.T,
    )


def equations(call: Call, x: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the outputs of `_Sab`, h and s (B, T, H) and the last c (B, H), by the reference."""
    *weights, h, c, memory, keys = others
    hidden, summary, after = reference.sab(
        x,
        State(h=h, c=c, memory=memory, keys=keys, step=call.step),
        Parameters(**dict(zip(NAMES, weights, strict=True))),
        k_top=call.k_top,
        k_att=call.k_att,
        k_trunc=call.k_trunc,
        rule=call.rule,
    )
    return hidden, summary, after.c


class _Sab(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *inputs: Tensor) -> tuple[Tensor, ...]:
        x, *weights, h, c, memory, keys = inputs
        p = Parameters(**dict(zip(NAMES, weights, strict=True)))
        state = State(h=h, c=c, memory=memory, keys=keys, step=call.step)
        record = forward(call, x, p, state, keep=True)
        ctx.call = call
        ctx.save_for_backward(*inputs, *record)
        ctx.mark_non_differentiable(record.memory, record.keys)
        ctx.set_materialize_grads(False)
        return record[:5]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, count = ctx.saved_tensors, len(NAMES) + 5
        inputs, record = saved[:count], Record(*saved[count:])
        if torch.is_grad_enabled():  # create_graph
            run, needed = functools.partial(equations, ctx.call), ctx.needs_input_grad[1:]
            return (None, *gradients_through(run, inputs, gradients[:3], needed))
        x, *weights, h, _, _, _ = inputs
        p = Parameters(**dict(zip(NAMES, weights, strict=True)))
        needs_x = ctx.needs_input_grad[1]
        backward_pass = Backward(ctx.call, x, p, h, record, *gradients[:3], needs_x=needs_x)
        return (None, *backward_pass.gradients())
