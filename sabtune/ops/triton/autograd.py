"""One call of the GPU kernels, as an autograd function.

Why Triton: PyTorch's GPU builds include it and ptxas, and its interpreter runs the same kernels on
a CPU, so tests run anywhere. Its disadvantage is that its driver needs a C compiler on the host of
a GPU. CUDA source compiled by NVRTC needs no C compiler and could keep the weights in shared memory
explicitly, but it cannot run without a GPU.

How it works: a program runs all steps of one example of the batch, so no program waits for another.
A step multiplies vectors by matrices: it loads a tile of the matrix at a time, multiplies it by the
vector and sums over its rows. Every step reads the weights, with a hint to keep them in the SM's L1
cache; in bf16 at H = 128 they take 192 KiB. The memories are in global memory, and in the L2 cache
as long as they fit. One pass over the memories selects the top scores: a short list in registers
replaces its lowest score by any higher one.

What limits it (an estimate, not a measurement): the steps of a program are sequential, so a step
takes as long as its chain of five products and their barriers. Up to as many examples as SMs, this
time does not depend on the batch size. Tensor cores do not help with a single vector. In float32,
or from H = 256 on, the weights come from the L2 cache.

The forward pass stores h, c, and the rows and weights of the K top scores, per step and example.
The backward pass works on chunks of steps: large products recompute the gates and queries of a
chunk, and compute the weights' gradients from those of the gates, queries and keys. It uses no
atomics, so repeated runs give the same bits.

With bf16, weights, inputs and outputs are bf16. Everything in between, including the state, is
float32.

Names in this package:
    dL/d of A   the gradient of the loss L with respect to A
    B, T, I, H  batch, steps, inputs, hidden
    HP          H rounded up to a power of two
    n           steps of a chunk
    M, M0       the number of memories; of those from before the call
    room        M after the call
    K, most     the number of top scores of a step; the maximum of K
    KP          `most` rounded up to one of a few sizes
    since       the number of steps before the call, modulo k_att
    cut         the offset of the truncation: it cuts before step t where (cut + t) mod k_trunc = 0
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
from sabtune.ops.triton.launch_forward import KernelCall, Record, forward, rounded

NAMES = [field.name for field in fields(Parameters)]


def run(call: KernelCall, x: Tensor, state: State, p: Parameters) -> tuple[Tensor, Tensor, State]:
    """Return h and s, each (B, T, H), and the detached state after the call.

    If x or a parameter requires a gradient, the call stores what the backward pass needs.
    """
    inputs = (x, *(getattr(p, name) for name in NAMES))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        results = _Sab.apply(call, state, *inputs)  # type: ignore[no-untyped-call]
    else:
        with torch.no_grad():
            results = outputs(_record(call, x, rounded(p, call.dtype), state, keep=False))
    hidden, summary, h, c, memory, keys = results
    state_tensors = {"h": h, "c": c, "memory": memory, "keys": keys}
    detached = {name: tensor.detach() for name, tensor in state_tensors.items()}
    return hidden, summary, State(**detached, step=state.step + call.T)


def outputs(record: Record) -> tuple[Tensor, ...]:
    """Return h and s (B, T, H) in the call's dtype, then h, c, memory and keys after the call."""
    hidden = record.hidden[1:].transpose(0, 1).to(record.summary.dtype)
    h = record.hidden[-1].clone()
    return hidden, record.summary.transpose(0, 1), h, record.c, record.memory, record.keys


def _record(call: KernelCall, x: Tensor, p: Parameters, state: State, *, keep: bool) -> Record:
    with torch.autocast(x.device.type, enabled=False), torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        return forward(call, x.to(call.dtype), p, state, keep=keep)


def equations(
    call: KernelCall, record: Record, x: Tensor, *weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute h and s (B, T, H) from these inputs by the reference equations, in float32."""
    initial = State(
        h=record.hidden[0],
        c=record.cells[0],
        memory=record.memory[:, : call.M0],
        keys=record.keys[:, : call.M0],
        step=call.step,
    )
    p = Parameters(**{name: w.float() for name, w in zip(NAMES, weights, strict=True)})
    with torch.autocast(x.device.type, enabled=False):
        hidden, summary, _ = reference.steps(x.float(), initial, p, call.sparsity)
    return hidden.to(call.dtype), summary.to(call.dtype)


class _Sab(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: KernelCall, state: State, *inputs: Tensor) -> tuple[Tensor, ...]:
        x, *weights = inputs
        p = rounded(Parameters(**dict(zip(NAMES, weights, strict=True))), call.dtype)
        record = _record(call, x, p, state, keep=True)
        ctx.call, ctx.dtypes = call, [tensor.dtype for tensor in inputs]
        ctx.save_for_backward(*inputs, *record)
        results = outputs(record)
        ctx.mark_non_differentiable(*results[2:])
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, count = ctx.saved_tensors, len(NAMES) + 1
        inputs, record = saved[:count], Record(*saved[count:])
        if torch.is_grad_enabled():  # create_graph
            run, needed = functools.partial(equations, ctx.call, record), ctx.needs_input_grad[2:]
            return (None, None, *gradients_through(run, inputs, gradients[:2], needed))
        x, *weights = inputs
        p = rounded(Parameters(**dict(zip(NAMES, weights, strict=True))), ctx.call.dtype)
        needs_x = ctx.needs_input_grad[2]
        with torch.autocast(x.device.type, enabled=False), torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            x = x.to(ctx.call.dtype)
            backward_pass = Backward(ctx.call, x, p, record, *gradients[:2], needs_x=needs_x)
            pairs = zip(backward_pass.gradients(), ctx.dtypes, strict=True)
            return (None, None, *(d if d is None else d.to(dtype) for d, dtype in pairs))
