"""SAB as one compiled pass over the sequence and one back, for the CPU.

`sab` takes and returns what `sabtune.ops.reference.sab` does, gradients included, at about the cost
of an LSTM: with every scoring, normalizer and ε of the paper's form. What it cannot do (no numba,
another device or dtype, a gradient of the incoming state, the released form) `ops.eager` does.

B batch, T steps, I inputs, H hidden, W = H filled up to whole vectors, M memories, M0 of them there
before the call and N made in it, K kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sabtune.ops import eager
from sabtune.ops.reference import PAPER, Parameters, Rule, State

try:
    from sabtune.ops.kernel import DOT, MLP, SEGMENT, SEPARABLE
    from sabtune.ops.kernel_backward import backward
    from sabtune.ops.kernel_forward import forward
    from sabtune.ops.kernel_layout import Backward, Forward, Layout, query_scale, unpacked
    from sabtune.ops.kernel_memory import Carried, bank_of, raw_keys, start_keys
    from sabtune.ops.kernel_workspace import SHELF, in_parts, parts
except ImportError:
    COMPILED = False
else:
    COMPILED = True
    SCORINGS = {"mlp": MLP, "dot": DOT, "separable": SEPARABLE}

DTYPES = (torch.float32, torch.float64)

Array = NDArray[Any]


def supports(x: Tensor, state: State, rule: Rule = PAPER) -> bool:
    """Whether the compiled pass computes this call; otherwise the eager one does."""
    ends = (state.h, state.c)
    before = (*ends, state.memory, state.keys) if torch.is_grad_enabled() else ends
    return (
        COMPILED
        and rule.form == "paper"
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
    if not supports(x, state, rule):
        return eager.sab(x, state, p, k_top=k_top, k_att=k_att, k_trunc=k_trunc, rule=rule)
    inputs = (x, p.weight_ih, p.weight_hh, p.bias_ih, p.bias_hh, p.W1, p.W2, p.w3)
    call = Call(x, state, p, k_top, k_att, k_trunc, rule)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        hidden, summary = _Sab.apply(call, *inputs)  # type: ignore[no-untyped-call]
        return hidden, summary, call.after_training(hidden.detach())
    with torch.no_grad():
        return call.evaluate()


class Call:
    """One call: its sizes, the state it goes on from, its weights as the kernels want them."""

    def __init__(
        self,
        x: Tensor,
        state: State,
        p: Parameters,
        k_top: int,
        k_att: int,
        k_trunc: int,
        rule: Rule,
    ):
        self.layout = Layout(state.h.shape[1])
        self.x = x.detach().contiguous()
        self.state = state
        self.B, self.T = x.shape[:2]
        self.k_top, self.k_att, self.k_trunc, self.rule = k_top, k_att, k_trunc, rule
        self.way = SCORINGS[rule.scoring], rule.normalizer == "softmax"
        self.N = (state.step + self.T) // k_att - state.step // k_att
        self.raw = rule.scoring != "mlp"  # the kernels' keys are W1 m itself
        self.h = self.layout.rows(state.h).clone()
        self.c = self.layout.rows(state.c).clone()
        self.weights = Forward.of(p, self.layout, rule)
        self.dtype = self.weights.w3.dtype

    def run(
        self, tape: Tape, old: Array, M0: int, keys: Array, wide: Array, *, keep: bool
    ) -> tuple[Tensor, Tensor]:
        """h and s, each (B, T, W); self.h and self.c go on to the last step's."""
        hidden = self.h.new_empty(self.B, self.T, self.layout.width)
        summary = torch.empty_like(hidden)
        x, h, c, w = self.x.numpy(), self.h.numpy(), self.c.numpy(), self.weights
        outputs = hidden.numpy(), summary.numpy()

        def part(low: int, high: int) -> None:
            forward(
                low, high, *self.way, self.state.step, self.k_top, self.k_att,
                self.rule.epsilon, keep,
                x, tape.gates, h, c, *outputs, tape.cells, M0, old, keys, wide,
                tape.chosen, tape.weights, tape.sums, tape.starts,
                w.W_in, w.bias, w.W1, w.W2, w.w3,
            )  # fmt: skip

        in_parts(parts(self.B), part)
        return hidden, summary

    def made(self, hidden: Tensor) -> Tensor:
        """The memories made in this call, (B, N, …)."""
        first = (self.state.step // self.k_att + 1) * self.k_att - self.state.step - 1
        return hidden[:, first :: self.k_att]

    def evaluate(self) -> tuple[Tensor, Tensor, State]:
        layout = self.layout
        bank, M0 = bank_of(self.state, layout, self.N, self.raw)
        count = bank.count
        tape = Tape(self, 0, np.array([0, min(self.k_top + 1, count)]))
        hidden, summary = self.run(tape, bank.memory, M0, bank.keys, bank.wide, keep=False)
        tape.release()
        bank.memory[:, M0:count] = self.made(hidden).numpy()
        after = Carried.after(
            self.state,
            layout.no_rows(self.h),
            layout.no_rows(self.c),
            self.T,
            memory=lambda: layout.no_rows(torch.from_numpy(bank.memory[:, :count])),
            keys=lambda: raw_keys(bank, count, layout),
            bank=bank,
        )
        return layout.no_rows(hidden), layout.no_rows(summary), after

    def train(self) -> tuple[Tensor, Tensor, Tape]:
        """h and s (B, T, W), and what the way back needs."""
        M0 = self.state.memory.shape[1]
        steps = self.state.step + np.arange(self.T)
        memories = M0 + steps // self.k_att - self.state.step // self.k_att
        starts = np.zeros(self.T + 1, np.int64)
        np.cumsum(np.minimum(self.k_top + 1, memories), out=starts[1:])
        tape = Tape(self, self.T, starts, M0 + self.N)
        tape.h = self.h.numpy().copy()
        tape.old = self.layout.rows(self.state.memory).numpy()
        tape.wide = start_keys(self.layout.rows(self.state.keys), tape.keys, self.raw)
        hidden, summary = self.run(tape, tape.old, M0, tape.keys, tape.wide, keep=True)
        return hidden, summary, tape

    def after_training(self, hidden: Tensor) -> State:
        layout, before, W1 = self.layout, self.state, self.weights.W1

        def keys() -> Tensor:
            made = layout.rows(self.made(hidden)) @ unpacked(W1)
            return torch.cat([before.keys.detach(), layout.no_rows(made)], dim=1)

        return Carried.after(
            before,
            layout.no_rows(self.h),
            layout.no_rows(self.c),
            self.T,
            memory=lambda: torch.cat([before.memory.detach(), self.made(hidden)], dim=1),
            keys=keys,
        )


class Tape:
    """What a pass writes beside its outputs, in a workspace; shapes as in `kernel`.

    `kept` steps are kept for a backward pass: all, or none.
    """

    h: Array  # (B, W), before the pass, as is old (B, M0, W)
    old: Array
    wide: Array  # (B,)

    def __init__(self, call: Call, kept: int, starts: NDArray[np.int64], memories: int = 0):
        B, W, real = call.B, call.layout.width, call.dtype
        S = int(starts[-1])
        self.starts = starts
        self.workspace = SHELF.take(
            [
                ((B, kept, 4 * W), real),
                ((B, -(-kept // SEGMENT), W), real),
                ((B, memories, W), real),
                ((B, S), np.dtype(np.int32)),
                ((B, S), real),
                ((B, kept), real),
            ]
        )
        arrays = self.workspace.arrays
        self.gates, self.cells, self.keys, self.chosen, self.weights, self.sums = arrays

    def release(self) -> None:
        SHELF.give_back(self.workspace)


class _Sab(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden, summary, ctx.tape = call.train()
        ctx.call = call
        # the outputs as the kernels see them; without padding they are the outputs themselves
        ctx.save_for_backward(*inputs, hidden, summary)
        return call.layout.no_rows(hidden), call.layout.no_rows(summary)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.tape is None:
            raise RuntimeError(
                "the fused pass was differentiated a second time; its record is used up by the "
                "first: run it forward again, or use sabtune.ops.reference"
            )
        saved = (tensor.detach() for tensor in ctx.saved_tensors)
        x, w_ih, w_hh, b_ih, b_hh, W1, W2, w3, hidden, summary = saved
        p = Parameters(
            weight_ih=w_ih, weight_hh=w_hh, bias_ih=b_ih, bias_hh=b_hh, W1=W1, W2=W2, w3=w3
        )
        tape, ctx.tape = ctx.tape, None
        of_x = ctx.needs_input_grad[1]
        return (None, *differentiate(ctx.call, tape, x, p, hidden, summary, gradients, of_x))


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
    layout, B, N, inputs = call.layout, call.B, call.N, x.shape[2]
    W, real = layout.width, call.dtype
    w = Backward.of(p, layout, call.rule)
    across = W + Layout(inputs).width
    outside = (*strided(layout, gradients[0]), *strided(layout, gradients[1]))
    outputs = hidden.numpy(), summary.numpy()
    d_x = torch.empty(x.shape if of_x else (0, 0, 0), dtype=x.dtype)
    ranges = parts(B)
    each = len(ranges)
    workspace = SHELF.take(
        [
            ((B, N + 1, W), real),  # the last takes what goes to memories from before the call
            ((B, 0 if call.rule.scoring == "separable" else N + 1, W), real),
            ((each, 4 * W, across), real),
            ((each, 4 * W), real),
            ((each, W, W), real),
            ((each, W, W), real),
            ((each, W), real),
        ]
    )
    d_memory, d_keys, *sums = workspace.arrays

    def part(low: int, high: int) -> None:
        mine = ranges.index((low, high))
        backward(
            low, high, *call.way, call.state.step, call.k_top, call.k_att, call.k_trunc, *outside,
            call.x.numpy(), tape.gates, tape.cells, *outputs,
            tape.h, tape.old.shape[1], tape.old, tape.keys, tape.wide,
            tape.chosen, tape.weights, tape.sums, tape.starts,
            w.W_query, w.W_ih, w.W_hh, w.W1, w.W2, w.w3,
            d_memory, d_keys, d_x.numpy(), *(total[mine] for total in sums),
        )  # fmt: skip

    in_parts(ranges, part)
    d_in, d_bias, d_W1, d_W2, d_w3 = (torch.from_numpy(total).sum(0) for total in sums)
    SHELF.give_back(workspace)
    tape.release()
    d_b = layout.no_gates(d_bias.unsqueeze(1)).squeeze(1)
    return (
        d_x if of_x else None,
        layout.no_gates(d_in[:, W : W + inputs]),
        layout.no_square(d_in[:, :W]),
        d_b,
        d_b.clone(),
        layout.no_square(d_W1),
        layout.no_square(d_W2) * query_scale(call.rule, layout.H) if p.W2.numel() else None,
        layout.no_rows(d_w3) if p.w3.numel() else None,
    )


def strided(layout: Layout, gradient: Tensor) -> tuple[Array, tuple[int, int]]:
    """A gradient (B, T, H) as flat numbers and the strides of batch and step; copied if need be."""
    if layout.more or gradient.stride(2) != 1:
        gradient = layout.rows(gradient)
    B, T, W = gradient.shape
    across, along = gradient.stride(0), gradient.stride(1)
    span = (B - 1) * across + (T - 1) * along + W
    return gradient.detach().as_strided((span,), (1,)).numpy(), (across, along)
