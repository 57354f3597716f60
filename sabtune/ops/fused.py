"""SAB as one compiled pass over the sequence and one back, for the CPU.

`sab` takes and returns what `sabtune.ops.reference.sab` does, gradients included, at about the cost
of an LSTM. What it cannot do (no numba, another device or dtype, a gradient of the incoming state)
the reference does.

B batch, T steps, I inputs, H hidden, W = H filled up to whole vectors, M memories, N of them made
in this call, K kept.
"""

from __future__ import annotations

from math import prod
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sabtune.ops import reference
from sabtune.ops.reference import PAPER, Parameters, Rule, State

try:
    from sabtune.ops.kernel import REACH, forward
    from sabtune.ops.kernel_backward import backward
    from sabtune.ops.kernel_layout import Backward, Forward, Layout
    from sabtune.ops.kernel_workspace import SHELF, in_parts, parts
except ImportError:
    COMPILED = False
else:
    COMPILED = True

DTYPES = (torch.float32, torch.float64)
STRETCH = 128  # steps of x @ W_ih at once where nothing is kept for a backward pass

Array = NDArray[Any]


def supports(x: Tensor, state: State) -> bool:
    """Whether the compiled pass computes this call; otherwise the reference does."""
    before = (state.h, state.c, state.memory, state.keys)
    return (
        COMPILED
        and x.device.type == "cpu"
        and x.dtype in DTYPES
        and x.shape[0] > 0
        and x.shape[1] > 0
        and all(tensor.dtype == x.dtype for tensor in before)
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in before))
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
    """`reference.sab`, faster; the state after is detached."""
    if rule != PAPER or not supports(x, state):
        return reference.sab(x, state, p, k_top=k_top, k_att=k_att, k_trunc=k_trunc, rule=rule)
    inputs = (x, p.weight_ih, p.weight_hh, p.bias_ih, p.bias_hh, p.W1, p.W2, p.w3)
    call = Call(state, p, x.shape[1], k_top, k_att, k_trunc)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        hidden, summary = _Sab.apply(call, *inputs)  # type: ignore[no-untyped-call]
    else:
        with torch.no_grad():
            hidden, summary = call.evaluate(x)
    return hidden, summary, call.after(hidden.detach(), p)


class Call:
    """One call: its sizes and the state it goes on from."""

    def __init__(
        self, state: State, p: Parameters, steps: int, k_top: int, k_att: int, k_trunc: int
    ):
        self.layout = Layout(state.h.shape[1])
        self.state = state
        self.B, self.T, self.width = state.h.shape[0], steps, self.layout.width
        self.k_top, self.k_att, self.k_trunc = k_top, k_att, k_trunc
        self.h = self.layout.rows(state.h).clone()
        self.c = self.layout.rows(state.c).clone()
        self.old = self.layout.rows(state.memory)
        self.M0 = self.old.shape[1]
        self.N = (state.step + steps) // k_att - state.step // k_att
        self.weights = Forward.of(p, self.layout)
        self.dtype = self.weights.w3.dtype

    def outputs(self) -> tuple[Tensor, Tensor]:
        hidden = self.h.new_empty(self.B, self.T, self.width)
        return hidden, torch.empty_like(hidden)

    def start_keys(self, keys: Array) -> NDArray[np.bool_]:
        """Writes the keys of the memories that are there; says in which examples they are wide."""
        raw = self.layout.rows(self.state.keys)
        wide = raw.abs().amax(dim=(1, 2)) > REACH
        known = torch.from_numpy(keys)[:, : self.M0]
        torch.exp(raw + raw, out=known)
        if wide.any():
            known[wide] = raw[wide]
        return cast("NDArray[np.bool_]", wide.numpy())

    def project(self, x: Tensor, tape: Tape) -> None:
        """The gates' part of x, W_ih x_t + b."""
        gates = torch.from_numpy(tape.gates).flatten(0, 1)
        inputs = x.detach().flatten(0, 1)
        torch.addmm(self.weights.bias, inputs, self.weights.inputs, out=gates)

    def run(
        self, begin: int, end: int, keep: bool, tape: Tape, hidden: Tensor, summary: Tensor
    ) -> None:
        def part(low: int, high: int) -> None:
            forward(
                low, high, begin, end, self.state.step, self.k_top, self.k_att, keep,
                tape.gates, self.h.numpy(), self.c.numpy(), hidden.numpy(), summary.numpy(),
                tape.cells, tape.queries, self.old.numpy(), tape.keys, tape.wide,
                tape.chosen, tape.weights, tape.sums, tape.starts,
                self.weights.W_hh, self.weights.W1, self.weights.W2, self.weights.w3,
            )  # fmt: skip

        in_parts(parts(self.B), part)

    def train(self, x: Tensor) -> tuple[Tensor, Tensor, Tape]:
        """h and s (B, T, W), and what the way back needs."""
        steps = self.state.step + np.arange(self.T)
        memories = self.M0 + steps // self.k_att - self.state.step // self.k_att
        starts = np.zeros(self.T + 1, np.int64)
        np.cumsum(np.minimum(self.k_top + 1, memories), out=starts[1:])
        tape = Tape(self, self.T, self.T, starts)
        self.project(x, tape)
        hidden, summary = self.outputs()
        self.run(0, self.T, True, tape, hidden, summary)
        return hidden, summary, tape

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """h and s (B, T, H); the gates are made for STRETCH steps at a time and kept for none."""
        size = min(STRETCH, self.T)
        most = min(self.k_top + 1, self.M0 + self.N)
        tape = Tape(self, size, 0, np.array([0, most]))
        hidden, summary = self.outputs()
        room = tape.gates.reshape(-1)
        for begin in range(0, self.T, size):
            end = min(begin + size, self.T)
            shape = (self.B, end - begin, 4 * self.width)
            tape.gates = room[: prod(shape)].reshape(shape)
            self.project(x[:, begin:end], tape)
            self.run(begin, end, False, tape, hidden, summary)
        tape.release()
        return self.layout.no_rows(hidden), self.layout.no_rows(summary)

    def after(self, hidden: Tensor, p: Parameters) -> State:
        first = (self.state.step // self.k_att + 1) * self.k_att - self.state.step - 1
        made = hidden[:, first :: self.k_att]
        with torch.no_grad():
            keys = made @ p.W1.T
        return State(
            h=self.layout.no_rows(self.h),
            c=self.layout.no_rows(self.c),
            memory=torch.cat([self.state.memory.detach(), made], dim=1),
            keys=torch.cat([self.state.keys.detach(), keys], dim=1),
            step=self.state.step + self.T,
        )


class Tape:
    """What a pass writes beside its outputs, in a workspace; shapes as in `kernel`."""

    def __init__(self, call: Call, steps: int, kept: int, starts: NDArray[np.int64]):
        B, W, real = call.B, call.width, call.dtype
        S = int(starts[-1])
        shapes: list[tuple[tuple[int, ...], Any]] = [
            ((B, steps, 4 * W), real),
            ((B, kept, W), real),
            ((B, kept, W), real),
            ((B, call.M0 + call.N, W), real),
            ((B, S), np.dtype(np.int32)),
            ((B, S), real),
            ((B, kept), real),
        ]
        self.workspace = SHELF.take(shapes)
        arrays = self.workspace.arrays
        self.gates, self.cells, self.queries, self.keys = arrays[:4]
        self.chosen, self.weights, self.sums = arrays[4:]
        self.starts = starts
        self.h, self.c = call.h.numpy().copy(), call.c.numpy().copy()  # before the pass
        self.wide = call.start_keys(self.keys)

    def release(self) -> None:
        SHELF.give_back(self.workspace)


class _Sab(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        hidden, summary, tape = call.train(x)
        ctx.call, ctx.tape = call, tape
        # the outputs as the kernels see them; without padding they are the outputs themselves
        ctx.save_for_backward(x, *parameters, hidden, summary)
        return call.layout.no_rows(hidden), call.layout.no_rows(summary)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        call, tape = cast(Call, ctx.call), cast(Tape | None, ctx.tape)
        if tape is None:
            raise RuntimeError(
                "the fused pass was differentiated a second time; its record is used up by the "
                "first: run it forward again, or use sabtune.ops.reference"
            )
        saved = (tensor.detach() for tensor in ctx.saved_tensors)
        x, w_ih, w_hh, b_ih, b_hh, W1, W2, w3, hidden, summary = saved
        p = Parameters(
            weight_ih=w_ih, weight_hh=w_hh, bias_ih=b_ih, bias_hh=b_hh, W1=W1, W2=W2, w3=w3
        )
        ctx.tape = None
        of_x = ctx.needs_input_grad[1]
        return (None, *differentiate(call, tape, x, p, hidden, summary, gradients, of_x))


def differentiate(
    call: Call,
    tape: Tape,
    x: Tensor,
    p: Parameters,
    hidden: Tensor,
    summary: Tensor,
    gradients: tuple[Tensor, ...],
    of_x: bool,
) -> tuple[Tensor | None, ...]:
    """dL/dx (None where nobody asks) and dL/d of the parameters, in their order."""
    layout, B, T, W, N = call.layout, call.B, call.T, call.width, call.N
    weights = Backward.of(p, layout)
    d_hidden, d_summary = (strided(layout, gradient) for gradient in gradients)
    ranges = parts(B)
    real = call.dtype
    workspace = SHELF.take(
        [
            ((B, N, W), real),
            ((B, N, W), real),
            ((len(ranges), W), real),
            ((len(ranges), 4 * W), real),
        ]
    )
    d_memory, d_keys, d_w3, d_bias = workspace.arrays

    def part(low: int, high: int) -> None:
        mine = ranges.index((low, high))
        backward(
            low, high, call.state.step, call.k_top, call.k_att, call.k_trunc,
            *d_hidden, *d_summary,
            tape.gates, tape.cells, tape.queries, hidden.numpy(), summary.numpy(),
            tape.c, call.old.numpy(), tape.keys, tape.wide,
            tape.chosen, tape.weights, tape.sums, tape.starts,
            weights.W_hh, weights.W1, weights.W2, weights.w3,
            d_memory, d_keys, d_w3[mine], d_bias[mine],
        )  # fmt: skip

    in_parts(ranges, part)
    d_gates = torch.from_numpy(tape.gates)
    before = torch.from_numpy(tape.h)
    # h_{t-1} is the row before in `hidden`, but for t = 1: its gradient is set aside
    d_first = d_gates[:, 0].clone()
    d_gates[:, 0] = 0
    flat = d_gates.view(B * T, 4 * W)
    d_hh = torch.addmm(d_first.T @ before, flat[1:].T, hidden.view(B * T, W)[:-1])
    d_gates[:, 0] = d_first
    # (I, BT) @ (BT, 4W): the other way round it takes MKL ten times as long for few inputs
    d_ih = layout.no_gates((x.flatten(0, 1).T @ flat).T)
    d_x = (d_gates @ layout.gates(p.weight_ih)) if of_x else None
    d_query, query = (torch.from_numpy(a).view(B * T, W) for a in (tape.queries, tape.cells))
    d_key, memory = (torch.from_numpy(a).view(B * N, W) for a in (d_keys, d_memory))
    d_b = layout.no_gates(torch.from_numpy(d_bias).sum(0).unsqueeze(1)).squeeze(1)
    found = (
        d_x,
        d_ih,
        layout.no_square(d_hh),
        d_b,
        d_b.clone(),
        layout.no_square(d_key.T @ memory),
        layout.no_square(d_query.T @ query),
        layout.no_rows(torch.from_numpy(d_w3).sum(0)),
    )
    SHELF.give_back(workspace)
    tape.release()
    return found


def strided(layout: Layout, gradient: Tensor) -> tuple[Array, tuple[int, int]]:
    """A gradient (B, T, H) as flat numbers and the strides of batch and step; copied if need be."""
    if layout.more or gradient.stride(2) != 1:
        gradient = layout.rows(gradient)
    B, T, W = gradient.shape
    across, along = gradient.stride(0), gradient.stride(1)
    span = (B - 1) * across + (T - 1) * along + W
    return gradient.detach().as_strided((span,), (1,)).numpy(), (across, along)
