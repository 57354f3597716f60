"""The backward pass of a compiled call.

The notation is that of `sabtune.ops.reference`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from torch import Tensor

from sabtune.ops.compiled.backward import Gradients, OutputGradients, Scratch, States, backward
from sabtune.ops.compiled.backward import scratch as backward_scratch
from sabtune.ops.compiled.buffers import BUFFERS
from sabtune.ops.compiled.common import Inputs
from sabtune.ops.compiled.layout import Layout, backward_weights, query_scale
from sabtune.ops.compiled.threads import in_parts, parts
from sabtune.ops.reference import Parameters

if TYPE_CHECKING:
    from sabtune.ops.compiled.call import CompiledCall, Tape

Array = NDArray[Any]


def differentiate(
    call: CompiledCall,
    tape: Tape,
    p: Parameters,
    V: Tensor,
    hidden: Tensor,
    summary: Tensor,
    gradients: tuple[Tensor | None, ...],
    of_x: bool,
) -> tuple[Tensor | None, ...]:
    """Return dL/dx (None unless `of_x`) and dL/d of the parameters and the readout, in order."""
    layout, B, N, inputs = call.layout, call.B, call.N, call.x.shape[2]
    rule = call.sparsity.rule
    W, O, real = layout.width, len(V), call.dtype
    weights = backward_weights(p, V, layout, rule, of_x)
    across, outputs = Layout(inputs).width, Layout(O).width
    of_logits = V.new_empty(0, 0, 0) if gradients[2] is None else gradients[2].contiguous()
    d_out = OutputGradients(
        *strided(layout, gradients[0], V),
        *strided(layout, gradients[1], V),
        of_logits.detach().numpy(),
    )
    states = States(hidden.numpy(), summary.numpy())
    given = Inputs(call.x.numpy(), tape.h, tape.c)
    settings = call.settings(call.state.memory.shape[1])
    arrays = tape.arrays(tape.memory, tape.keys, tape.wide)
    d_x = V.new_empty(call.x.shape if of_x else (0, 0, 0))
    separable = rule.scoring == "separable"
    sizes = across, outputs, tape.keys.shape[1], call.sparsity.k_top
    ranges = parts(B)
    each = len(ranges)
    workspace = BUFFERS.take(
        [
            ((B, N + 1, W), real),  # the last row is for memories from before the call
            ((B, 0 if separable else N + 1, W), real),
        ]
    )
    shapes = (
        *((across, 4 * W), (4 * W, W), (4 * W,), (W, W), (W, W), (W,)),
        *((outputs, 2 * W), (outputs,)),
    )
    totals = [V.new_empty(each, *shape) for shape in shapes]

    def part(low: int, high: int) -> None:
        mine = ranges.index((low, high))
        scratch = BUFFERS.take(backward_scratch(high - low, W, *sizes, separable, real))
        work = Scratch(*scratch.arrays)
        computed = [*workspace.arrays, d_x.numpy(), *(of[mine].numpy() for of in totals)]
        grads = Gradients(*computed)
        backward(low, high, settings, d_out, given, states, arrays, weights, grads, work)
        BUFFERS.release(scratch)

    in_parts(ranges, part)
    sums = (total[0] if each == 1 else total.sum(0) for total in totals)
    d_ih, d_hh, d_bias, d_W1, d_W2, d_w3, d_V, d_b = sums
    BUFFERS.release(workspace)
    tape.release()
    d_gates = layout.no_gates(d_bias.unsqueeze(1)).squeeze(1)
    return (
        d_x if of_x else None,
        layout.no_gates(d_ih[:inputs].T),
        layout.no_square(d_hh),
        d_gates,
        d_gates.clone(),
        layout.no_square(d_W1),
        layout.no_square(d_W2) * query_scale(rule, layout.H) if p.W2.numel() else None,
        layout.no_rows(d_w3) if p.w3.numel() else None,
        layout.no_readout(d_V[:O]),
        d_b[:O],
    )


def strided(layout: Layout, gradient: Tensor | None, like: Tensor) -> tuple[Array, tuple[int, int]]:
    """Return a gradient (B, T, H) as a flat array, and the strides of batch and step.

    The gradient is copied only if needed. If it is None, the array is empty.
    """
    if gradient is None:
        return like.new_empty(0).numpy(), (0, 0)
    if layout.more or gradient.stride(2) != 1:
        gradient = layout.rows(gradient)
    B, T, W = gradient.shape
    across, along = gradient.stride(0), gradient.stride(1)
    span = (B - 1) * across + (T - 1) * along + W
    return gradient.detach().as_strided((span,), (1,)).numpy(), (across, along)
