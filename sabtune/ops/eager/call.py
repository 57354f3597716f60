"""SAB in PyTorch operations, with a backward pass written by hand, on any device.

`run` computes what `sabtune.ops.reference.sab` does, gradients included, in a fraction of its time
and memory: the steps run without autograd, and each step stores only the top scores, because only
those have a gradient. It supports every rule in float32 and float64, but not under autocast.

Shapes: B batch, T steps, I inputs, H hidden, M memories.
"""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from sabtune.ops import reference
from sabtune.ops.call import Backend, Call, Results
from sabtune.ops.checks import transformed
from sabtune.ops.eager.backward import Backward
from sabtune.ops.eager.forward import EagerCall, Record, forward
from sabtune.ops.higher_order import gradients_through
from sabtune.ops.reference import Parameters, State

DTYPES = (torch.float32, torch.float64)
NAMES = [field.name for field in fields(Parameters)]


def unsupported(call: Call) -> str:
    """Return why this pass cannot run a call, or "" if it can."""
    x, state = call.x, call.state
    if x.dtype not in DTYPES:
        return f"runs float32 and float64, and x is {x.dtype}"
    if not x.numel():
        return f"needs at least one sequence, and x is {tuple(x.shape)}"
    if any(t.dtype != x.dtype for t in (state.h, state.c, state.memory, state.keys)):
        return f"needs a state of the dtype of x, {x.dtype}"
    if torch.is_autocast_enabled(x.device.type):
        return "does not run under autocast"
    if transformed():
        return "does not run in function transforms or forward-mode differentiation"
    return ""


def run(call: Call) -> Results:
    """Run a call with the hand-written backward pass.

    The returned state is detached unless a tensor of the incoming state requires a gradient.
    """
    x, state, p = call.x, call.state, call.parameters
    sizes = EagerCall(
        B=x.shape[0],
        T=x.shape[1],
        M0=state.memory.shape[1],
        step=state.step,
        sparsity=call.sparsity,
    )
    carried = (state.h, state.c, state.memory, state.keys)
    inputs = (x, *(getattr(p, name) for name in NAMES), *carried)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        outputs = _Sab.apply(sizes, *inputs)  # type: ignore[no-untyped-call]
    else:
        with torch.no_grad():
            outputs = forward(sizes, x, p, state, keep=False)[:5]
    hidden, summary, c, memory, keys = outputs
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in carried):
        return call.results(hidden, summary, with_gradient(sizes, hidden, c, state, p))
    after = State(
        h=hidden[:, -1].detach(),
        c=c.detach(),
        memory=memory,
        keys=keys,
        step=state.step + sizes.T,
    )
    return call.results(hidden, summary, after)


def with_gradient(
    call: EagerCall, hidden: Tensor, c: Tensor, before: State, p: Parameters
) -> State:
    """Return the state after the call, attached to the graph of `hidden` and c."""
    new_memories = hidden[:, [t for t in range(call.T) if call.remembers(t)]]
    return State(
        h=hidden[:, -1],
        c=c,
        memory=torch.cat([before.memory, new_memories], dim=1),
        keys=torch.cat([before.keys, reference.key(new_memories, p, call.sparsity.rule)], dim=1),
        step=before.step + call.T,
    )


def equations(call: EagerCall, x: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the outputs of `_Sab`, h and s (B, T, H) and the last c (B, H), by the reference."""
    *weights, h, c, memory, keys = others
    state = State(h=h, c=c, memory=memory, keys=keys, step=call.step)
    p = Parameters(**dict(zip(NAMES, weights, strict=True)))
    hidden, summary, after = reference.steps(x, state, p, call.sparsity)
    return hidden, summary, after.c


class _Sab(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: EagerCall, *inputs: Tensor) -> tuple[Tensor, ...]:
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


BACKEND = Backend("eager", unsupported, run)
