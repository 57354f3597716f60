"""SAB in plain torch, its backward pass written by hand, on any device.

`sab` takes and returns what `sabtune.ops.reference.sab` does, gradients included, in a fraction of
its time and memory: the steps run without autograd, and of each step's scores only the K that carry
gradient are kept. It serves where the compiled pass can't run, and is a second truth for that. What
it can't do either (dtypes but float32 and float64, autocast) the reference does.

B batch, T steps, I inputs, H hidden, M memories.
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
    """Whether this pass computes the call; otherwise the reference does."""
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
    """`reference.sab`, faster. The state after is detached unless the one before has a gradient.

    Raises as that does.
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
        found = _Sab.apply(call, *inputs)  # type: ignore[no-untyped-call]
    else:
        with torch.no_grad():
            found = forward(call, x, p, state, keep=False)[:5]
    hidden, summary, c, memory, keys = found
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in carried):
        return hidden, summary, attached(call, hidden, c, state, p)
    after = State(
        h=hidden[:, -1].detach(),
        c=c.detach(),
        memory=memory,
        keys=keys,
        step=state.step + call.T,
    )
    return hidden, summary, after


def attached(call: Call, hidden: Tensor, c: Tensor, before: State, p: Parameters) -> State:
    """The state after, with its gradient."""
    made = hidden[:, [t for t in range(call.T) if call.remembers(t)]]
    return State(
        h=hidden[:, -1],
        c=c,
        memory=torch.cat([before.memory, made], dim=1),
        keys=torch.cat([before.keys, reference.key(made, p, call.rule)], dim=1),
        step=before.step + call.T,
    )


def equations(call: Call, x: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """h and s (B, T, H) and the last c (B, H) of the inputs of `_Sab`, in plain torch."""
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
        of_x = ctx.needs_input_grad[1]
        back = Backward(ctx.call, x, p, h, record, *gradients[:3], of_x=of_x)
        return (None, *back.gradients())
