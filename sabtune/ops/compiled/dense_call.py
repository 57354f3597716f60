"""One call of the compiled self-attention, and its place in autograd.

The legend is that of `sabtune.ops.compiled.dense_forward`; W is H filled up to whole vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sabtune.ops.compiled import dense_backward, dense_forward, dense_weights
from sabtune.ops.compiled.buffers import BUFFERS
from sabtune.ops.compiled.common import filled
from sabtune.ops.compiled.dense_backward import backward
from sabtune.ops.compiled.dense_forward import forward
from sabtune.ops.compiled.dense_weights import of_weights
from sabtune.ops.compiled.layout import Layout
from sabtune.ops.compiled.threads import in_parts, parts
from sabtune.ops.higher_order import gradients_through
from sabtune.ops.reference import Parameters

Array = NDArray[Any]
Before = tuple[Tensor, Tensor, Tensor, Tensor]  # h, c, memory and keys


class Call:
    """One call: its sizes, the state that it goes on from and, then, has come to, its weights."""

    def __init__(self, x: Tensor, before: Before, p: Parameters):
        self.before = h, c, memory, keys = before
        self.inputs = (x, p.weight_ih, p.weight_hh, p.bias_ih, p.bias_hh, p.W1, p.W2, p.w3)
        self.x = x.detach().contiguous()
        self.p = p
        self.B, self.T = x.shape[:2]
        self.layout = layout = Layout(h.shape[1])
        self.M0 = memory.shape[1]
        self.h, self.c = layout.rows(h).clone(), layout.rows(c).clone()
        self.memory = self.h.new_empty(self.B, self.M0 + self.T, layout.width)
        self.raw = torch.empty_like(self.memory)
        self.memory[:, : self.M0] = layout.rows(memory)
        self.raw[:, : self.M0] = layout.rows(keys)
        self.summary = self.h.new_empty(self.B, self.T, layout.width)
        self.w = -2 * layout.w3(p)

    def run(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """h and s (B, T, H), recorded if anybody learns; then h, c, memory and keys after."""
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in self.inputs):
            hidden, summary = _Dense.apply(self, *self.inputs)  # type: ignore[no-untyped-call]
        else:
            self.compute(keep=False).release()
            hidden, summary = self.shown()
        after = (self.layout.no_rows(t) for t in (self.h, self.c, self.memory, self.raw))
        return hidden, summary, *after

    def again(self) -> Call:
        """The same call, from its beginning."""
        return Call(self.inputs[0], self.before, self.p)

    def equations(self, x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        """h and s (B, T, H) of these inputs, in plain torch."""
        from sabtune.ops import self_attention  # which imports this

        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "W1", "W2", "w3")
        p = Parameters(**dict(zip(names, weights, strict=True)))
        hidden, summary, _ = self_attention.equations(x, self_attention.State(*self.before), p)
        return hidden, summary

    @property
    def hidden(self) -> Tensor:
        """h_t (B, T, W): the memories of this call."""
        return self.memory[:, self.M0 :]

    def shown(self) -> tuple[Tensor, Tensor]:
        """h and s without what was filled up."""
        return self.layout.no_rows(self.hidden), self.layout.no_rows(self.summary)

    def compute(self, *, keep: bool) -> Tape:
        """Fills in h, c, memory, keys and summary; returns what the way back needs, if any."""
        layout, p, tape = self.layout, self.p, Tape(self, keep)
        weights = (
            layout.panels(p.weight_ih, turned=True, fill=False),
            layout.panels(p.weight_hh, turned=True),
            layout.bias(p),
            layout.panels(p.W1, turned=True),
            layout.panels(p.W2, turned=True),
        )
        h, c = self.h.numpy(), self.c.numpy()
        states = self.summary.numpy(), self.memory.numpy(), self.raw.numpy()

        def part(low: int, high: int) -> None:
            sizes = high - low, layout.width, self.x.shape[2]
            scratch = BUFFERS.take(dense_forward.scratch(*sizes, tape.real))
            forward(
                low, high, keep, self.M0, self.x.numpy(), h, c, tape.gates, tape.cells,
                tape.queries, *states, tape.keys, tape.wide, tape.weights, tape.starts,
                *weights, self.w, tuple(scratch.arrays),
            )  # fmt: skip
            BUFFERS.release(scratch)

        in_parts(parts(self.B), part)
        return tape


class Tape:
    """What a pass writes beside its outputs, in a workspace."""

    def __init__(self, call: Call, keep: bool):
        B, T, W, memories = call.B, call.T, call.layout.width, call.M0 + call.T
        self.real = call.w.dtype
        rows = [filled(call.M0 + t) if keep else 0 for t in range(T)]
        self.starts = np.cumsum([0, *rows], dtype=np.int64)
        kept = T if keep else 0
        span = int(self.starts[-1]) if keep else filled(memories)
        shapes = [(B, kept, 4 * W), (B, kept, W), (B, kept, W), (B, memories, W), (B, span)]
        self.workspace = BUFFERS.take([(shape, self.real) for shape in shapes])
        self.gates, self.cells, self.queries, self.keys, self.weights = self.workspace.arrays
        self.wide = np.zeros(B, np.bool_)
        self.h, self.c = call.h.numpy().copy(), call.c.numpy().copy()  # before the pass

    def release(self) -> None:
        BUFFERS.release(self.workspace)


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        ctx.tape = call.compute(keep=True)
        ctx.call = call
        ctx.set_materialize_grads(False)
        # the outputs as the kernels see them; without padding they are the outputs themselves
        ctx.save_for_backward(*inputs, call.hidden, call.summary)
        return call.shown()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors[:-2]  # raises where one of them was changed since
        if torch.is_grad_enabled():  # create_graph
            needed = ctx.needs_input_grad[1:]
            return (None, *gradients_through(ctx.call.equations, inputs, gradients, needed))
        call, tape, ctx.tape = ctx.call, ctx.tape, None
        if tape is None:  # an earlier backward pass used it up
            call = call.again()
            tape = call.compute(keep=True)
        return (None, *differentiate(call, tape, gradients, of_x=ctx.needs_input_grad[1]))


def differentiate(
    call: Call, tape: Tape, gradients: tuple[Tensor | None, ...], *, of_x: bool
) -> tuple[Tensor | None, ...]:
    """dL/dx (None where nobody asks) and dL/d of the parameters, in their order."""
    layout, p, real, W = call.layout, call.p, tape.real, call.layout.width
    of_hidden, of_summary = (
        torch.zeros_like(call.summary) if g is None else layout.rows(g) for g in gradients
    )
    weights = (
        layout.panels(p.weight_hh, turned=False),
        layout.panels(p.W1, turned=False),
        layout.panels(p.W2, turned=False),
    )
    x = Layout(call.x.shape[2]).rows(call.x)
    # of tensors that may be outputs now, which only a thread that records nothing takes as arrays
    summary, memory, raw = call.summary.numpy(), call.memory.numpy(), call.raw.numpy()
    ranges = parts(call.B)
    shapes = ((x.shape[2], 4 * W), (4 * W, W), (W, W), (W, W), (4 * W,), (W,))
    totals = [call.h.new_empty(len(ranges), *shape) for shape in shapes]
    workspace = BUFFERS.take([(tuple(call.memory.shape), real)])
    (d_keys,) = workspace.arrays

    def part(low: int, high: int) -> None:
        mine = ranges.index((low, high))
        d_ih, d_hh, d_W1, d_W2, d_bias, d_w3 = (total[mine].numpy() for total in totals)
        scratch = BUFFERS.take(dense_backward.scratch(high - low, W, call.M0 + call.T, real))
        backward(
            low, high, call.M0, of_hidden.numpy(), of_summary.numpy(), tape.c, tape.gates,
            tape.cells, tape.queries, summary, memory, raw, tape.keys, tape.wide, tape.weights,
            tape.starts, *weights, call.w, d_keys, d_bias, d_w3, tuple(scratch.arrays),
        )  # fmt: skip
        BUFFERS.release(scratch)
        scratch = BUFFERS.take(dense_weights.scratch(W, real))
        of_weights(
            low, high, call.M0, x.numpy(), tape.h, tape.gates, tape.queries, d_keys,
            memory, summary, d_ih, d_hh, d_W1, d_W2, tuple(scratch.arrays),
        )  # fmt: skip
        BUFFERS.release(scratch)

    in_parts(ranges, part)
    sums = (total[0] if len(ranges) == 1 else total.sum(0) for total in totals)
    d_ih, d_hh, d_W1, d_W2, d_bias, d_w3 = sums
    d_bias = layout.no_gates(d_bias.unsqueeze(1)).squeeze(1)
    d_x = None
    if of_x:
        d_gates = torch.from_numpy(tape.gates).view(call.B, call.T, 4, W)
        # example by example: one large product may round by the size of the batch
        weight = p.weight_ih.detach().expand(call.B, -1, -1)
        d_x = torch.bmm(layout.no_rows(d_gates).flatten(2), weight)
    BUFFERS.release(workspace)
    tape.release()
    return (
        d_x,
        layout.no_gates(d_ih[: call.x.shape[2]].T),
        layout.no_square(d_hh),
        d_bias,
        d_bias.clone(),
        layout.no_square(d_W1),
        layout.no_square(d_W2),
        layout.no_rows(d_w3),
    )
