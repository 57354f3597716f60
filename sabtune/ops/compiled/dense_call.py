"""One call of the compiled self-attention, and its autograd function.

The notation is that of `sabtune.ops.compiled.dense_forward`. W is H padded to whole vectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sabtune.ops.compiled import dense_backward, dense_forward, dense_weights
from sabtune.ops.compiled.buffers import BUFFERS
from sabtune.ops.compiled.common import filled
from sabtune.ops.compiled.dense_backward import backward
from sabtune.ops.compiled.dense_forward import forward
from sabtune.ops.compiled.dense_normalize import EARLY, KINDS, Weighting
from sabtune.ops.compiled.dense_weights import weight_gradients
from sabtune.ops.compiled.layout import Layout
from sabtune.ops.compiled.threads import in_parts, parts
from sabtune.ops.higher_order import gradients_through
from sabtune.ops.reference import Parameters

if TYPE_CHECKING:
    from sabtune.ops.self_attention import Attention  # which imports this module

Array = NDArray[Any]
Before = tuple[Tensor, Tensor, Tensor, Tensor]  # h, c, memory and keys


class DenseCall:
    """One call: its sizes, its weights, and its state, which a run replaces by the state after."""

    def __init__(self, x: Tensor, before: Before, p: Parameters, attention: Attention):
        self.before = h, c, memory, keys = before
        self.inputs = (x, p.weight_ih, p.weight_hh, p.bias_ih, p.bias_hh, p.W1, p.W2, p.w3)
        self.x = x.detach().contiguous()
        self.p, self.attention = p, attention
        kind = EARLY if attention.form == "early" else KINDS.index(attention.weights)
        self.weighting = Weighting(kind, attention.k_top)
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
        """Run the call; return h and s (B, T, H), and h, c, memory and keys after x.

        Autograd records the call if an input requires a gradient.
        """
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in self.inputs):
            hidden, summary = _Dense.apply(self, *self.inputs)  # type: ignore[no-untyped-call]
        else:
            self.compute(keep=False).release()
            hidden, summary = self.shown()
        after = (self.layout.no_rows(t) for t in (self.h, self.c, self.memory, self.raw))
        return hidden, summary, *after

    def again(self) -> DenseCall:
        """Return a new `DenseCall` with the same inputs and the same start state."""
        return DenseCall(self.inputs[0], self.before, self.p, self.attention)

    def equations(self, x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return h and s (B, T, H) of these inputs, by `self_attention.steps`."""
        from sabtune.ops import self_attention  # which imports this module

        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "W1", "W2", "w3")
        p = Parameters(**dict(zip(names, weights, strict=True)))
        state = self_attention.State(*self.before)
        hidden, summary, _ = self_attention.steps(x, state, p, self.attention)
        return hidden, summary

    @property
    def hidden(self) -> Tensor:
        """The states h_t (B, T, W), which are the memories of this call."""
        return self.memory[:, self.M0 :]

    def shown(self) -> tuple[Tensor, Tensor]:
        """Return h and s without padding."""
        return self.layout.no_rows(self.hidden), self.layout.no_rows(self.summary)

    def compute(self, *, keep: bool) -> Tape:
        """Run the forward pass, which writes h, c, memory, raw and summary; return its tape.

        keep: whether the tape holds what the backward pass needs.
        """
        layout, p, tape = self.layout, self.p, Tape(self, keep)
        weights = dense_forward.Weights(
            W_ih=layout.panels(p.weight_ih, turned=True, fill=False),
            W_hh=layout.panels(p.weight_hh, turned=True),
            bias=layout.bias(p),
            W1=layout.panels(p.W1, turned=True),
            W2=layout.panels(p.W2, turned=True),
            w=self.w,
        )
        x, h, c = self.x.numpy(), self.h.numpy(), self.c.numpy()
        arrays = tape.arrays(self.summary, self.memory, self.raw)

        def part(low: int, high: int) -> None:
            sizes = high - low, layout.width, self.x.shape[2]
            workspace = BUFFERS.take(dense_forward.scratch(*sizes, tape.real))
            work = dense_forward.Scratch(*workspace.arrays)
            forward(low, high, keep, self.M0, self.weighting, x, h, c, arrays, weights, work)
            BUFFERS.release(workspace)

        in_parts(parts(self.B), part)
        return tape


class Tape:
    """The arrays that a forward pass writes besides its outputs, in a workspace."""

    def __init__(self, call: DenseCall, keep: bool):
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

    def arrays(self, summary: Tensor, memory: Tensor, raw: Tensor) -> dense_forward.Tape:
        """Return the tape as the kernels take it, together with s, the memories and W1 h."""
        return dense_forward.Tape(
            gates=self.gates,
            cells=self.cells,
            queries=self.queries,
            summary=summary.numpy(),
            memory=memory.numpy(),
            raw=raw.numpy(),
            keys=self.keys,
            wide=self.wide,
            weights=self.weights,
            starts=self.starts,
        )

    def release(self) -> None:
        """Return the workspace to the pool."""
        BUFFERS.release(self.workspace)


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: DenseCall, *inputs: Tensor) -> tuple[Tensor, Tensor]:
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
        if tape is None:  # an earlier backward pass consumed it
            call = call.again()
            tape = call.compute(keep=True)
        return (None, *differentiate(call, tape, gradients, of_x=ctx.needs_input_grad[1]))


def differentiate(
    call: DenseCall, tape: Tape, gradients: tuple[Tensor | None, ...], *, of_x: bool
) -> tuple[Tensor | None, ...]:
    """Return dL/dx (None unless `of_x`) and dL/d of the parameters, in order."""
    layout, p, real, W = call.layout, call.p, tape.real, call.layout.width
    of_hidden, of_summary = (
        torch.zeros_like(call.summary) if g is None else layout.rows(g) for g in gradients
    )
    weights = dense_backward.Weights(
        W_hh=layout.panels(p.weight_hh, turned=False),
        W1=layout.panels(p.W1, turned=False),
        W2=layout.panels(p.W2, turned=False),
        w=call.w,
    )
    d_out = dense_backward.Outputs(of_hidden.numpy(), of_summary.numpy())
    x = Layout(call.x.shape[2]).rows(call.x)
    # some of these tensors may be outputs that require a gradient: convert them to arrays here, in
    # a thread that records no gradients
    arrays = tape.arrays(call.summary, call.memory, call.raw)
    ranges = parts(call.B)
    shapes = ((x.shape[2], 4 * W), (4 * W, W), (W, W), (W, W), (4 * W,), (W,))
    totals = [call.h.new_empty(len(ranges), *shape) for shape in shapes]
    workspace = BUFFERS.take([(tuple(call.memory.shape), real)])
    (d_keys,) = workspace.arrays

    def part(low: int, high: int) -> None:
        mine = ranges.index((low, high))
        *of_weights, d_bias, d_w3 = (total[mine].numpy() for total in totals)
        scratch = BUFFERS.take(dense_backward.scratch(high - low, W, call.M0 + call.T, real))
        grads = dense_backward.Gradients(d_keys, d_bias, d_w3)
        work = dense_backward.Scratch(*scratch.arrays)
        backward(low, high, call.M0, call.weighting, d_out, tape.c, arrays, weights, grads, work)
        BUFFERS.release(scratch)
        scratch = BUFFERS.take(dense_weights.scratch(W, real))
        sums = dense_weights.WeightGradients(*of_weights)
        weight_work = dense_weights.Scratch(*scratch.arrays)
        weight_gradients(
            low, high, call.M0, call.weighting, x.numpy(), tape.h, arrays, d_keys, sums, weight_work
        )
        BUFFERS.release(scratch)

    in_parts(ranges, part)
    sums = (total[0] if len(ranges) == 1 else total.sum(0) for total in totals)
    d_ih, d_hh, d_W1, d_W2, d_bias, d_w3 = sums
    d_bias = layout.no_gates(d_bias.unsqueeze(1)).squeeze(1)
    d_x = None
    if of_x:
        d_gates = torch.from_numpy(tape.gates).view(call.B, call.T, 4, W)
        # example by example: the rounding of one large product may depend on the batch size
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
