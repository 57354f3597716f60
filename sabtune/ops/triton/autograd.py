"""One call of the GPU kernels, and its place in autograd.

Why Triton: it comes with PyTorch's GPU builds, ptxas with it, and its interpreter runs the same
kernels on a CPU, so that they can be tested anywhere. Its price is the C compiler that it wants on
a GPU's host for its own driver. CUDA source by NVRTC needs none, and could keep the weights in
shared memory by name, but can't be run without a GPU.

How: a program is one example of the batch, and goes through the steps alone, so that no program
waits for another. A step's products are of a vector and a matrix: tiles of the matrix times the
vector, added up over its rows. Weights are read at every step, with the hint to keep them in the
SM's first-level cache; in bf16 at H 128 they take 192 KiB. The memories lie in global memory, that
is in the second-level cache while they fit it. The highest scores are found in one pass over the
memories: a short list in registers takes in what passes its lowest.

What limits it, by reasoning alone: a program's steps wait for one another, so a step takes as long
as its chain of five products and their barriers, whatever the batch up to the number of SMs; tensor
cores have nothing to do with a single vector; in float32, or from H 256 on, weights come from the
second-level cache.

For the way back are kept a step and example: h, c, and the numbers and weights of the K highest
scores. Gates and queries are made again, a stretch of steps at a time, by large products, as are
the gradients of the weights from those of the gates, queries and keys: no atomics, and the same
bits each time.

bf16: weights, inputs and outputs; what is between them, the state above all, is float32.

B batch, T steps, I inputs, H hidden, HP = H filled up to a power of two, M memories, M0 of them
there before the call, room: M after it; K scores of a step that count, most: K at most, KP that
filled up; since, cut: steps since k_att and k_trunc last came round. n steps of a stretch.
"""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from sabtune.ops import reference
from sabtune.ops.higher_order import gradients_through
from sabtune.ops.reference import Parameters, State
from sabtune.ops.triton.launch_backward import Backward
from sabtune.ops.triton.launch_forward import Call, Record, forward, rounded

NAMES = [field.name for field in fields(Parameters)]


def run(call: Call, x: Tensor, state: State, p: Parameters) -> tuple[Tensor, Tensor, State]:
    """h and s, each (B, T, H), and the state after, detached; recorded if anybody learns."""
    inputs = (x, *(getattr(p, name) for name in NAMES))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        found = _Sab.apply(call, state, *inputs)  # type: ignore[no-untyped-call]
    else:
        with torch.no_grad():
            found = outputs(_record(call, x, rounded(p, call.dtype), state, keep=False))
    hidden, summary, h, c, memory, keys = found
    carried = {"h": h, "c": c, "memory": memory, "keys": keys}
    detached = {name: tensor.detach() for name, tensor in carried.items()}
    return hidden, summary, State(**detached, step=state.step + call.T)


def outputs(record: Record) -> tuple[Tensor, ...]:
    """h and s as the call's dtype has them, (B, T, H), and the state after."""
    hidden = record.hidden[1:].transpose(0, 1).to(record.summary.dtype)
    h = record.hidden[-1].clone()
    return hidden, record.summary.transpose(0, 1), h, record.c, record.memory, record.keys


def _record(call: Call, x: Tensor, p: Parameters, state: State, *, keep: bool) -> Record:
    with torch.autocast(x.device.type, enabled=False), torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        return forward(call, x.to(call.dtype), p, state, keep=keep)


def equations(call: Call, record: Record, x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """h and s (B, T, H) of these inputs, in plain torch: between them all is float32."""
    before = State(
        h=record.hidden[0],
        c=record.cells[0],
        memory=record.memory[:, : call.M0],
        keys=record.keys[:, : call.M0],
        step=call.step,
    )
    p = Parameters(**{name: w.float() for name, w in zip(NAMES, weights, strict=True)})
    with torch.autocast(x.device.type, enabled=False):
        hidden, summary, _ = reference.sab(
            x.float(),
            before,
            p,
            k_top=call.k_top,
            k_att=call.k_att,
            k_trunc=call.k_trunc,
            rule=call.rule,
        )
    return hidden.to(call.dtype), summary.to(call.dtype)


class _Sab(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, state: State, *inputs: Tensor) -> tuple[Tensor, ...]:
        x, *weights = inputs
        p = rounded(Parameters(**dict(zip(NAMES, weights, strict=True))), call.dtype)
        record = _record(call, x, p, state, keep=True)
        ctx.call, ctx.dtypes = call, [tensor.dtype for tensor in inputs]
        ctx.save_for_backward(*inputs, *record)
        found = outputs(record)
        ctx.mark_non_differentiable(*found[2:])
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, count = ctx.saved_tensors, len(NAMES) + 1
        inputs, record = saved[:count], Record(*saved[count:])
        if torch.is_grad_enabled():  # create_graph
            run, needed = functools.partial(equations, ctx.call, record), ctx.needs_input_grad[2:]
            return (None, None, *gradients_through(run, inputs, gradients[:2], needed))
        x, *weights = inputs
        p = rounded(Parameters(**dict(zip(NAMES, weights, strict=True))), ctx.call.dtype)
        of_x = ctx.needs_input_grad[2]
        with torch.autocast(x.device.type, enabled=False), torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            x = x.to(ctx.call.dtype)
            back = Backward(ctx.call, x, p, record, *gradients[:2], of_x=of_x)
            found = zip(back.gradients(), ctx.dtypes, strict=True)
            return (None, None, *(d if d is None else d.to(dtype) for d, dtype in found))
