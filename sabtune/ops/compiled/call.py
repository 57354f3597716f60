"""One call of the compiled pass, and its place in autograd.

The legend is that of `sabtune.ops.dispatch`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sabtune.ops import reference
from sabtune.ops.compiled.buffers import BUFFERS
from sabtune.ops.compiled.common import DOT, MLP, SEPARABLE
from sabtune.ops.compiled.forward import forward
from sabtune.ops.compiled.forward import scratch as forward_scratch
from sabtune.ops.compiled.gradient import differentiate
from sabtune.ops.compiled.layout import Forward, Layout, unpacked
from sabtune.ops.compiled.memory_bank import bank_of, carried, on_bank, start_keys
from sabtune.ops.compiled.threads import in_parts, parts
from sabtune.ops.higher_order import gradients_through
from sabtune.ops.reference import Parameters, Readout, Rule, State

SCORINGS = {"mlp": MLP, "dot": DOT, "separable": SEPARABLE}

FEW_INPUTS = 5
"""Of so many inputs one is not zero, as in a one-hot symbol: then zeros are passed over."""

Array = NDArray[Any]


class Call:
    """One call: its sizes, the state it goes on from, its weights as the kernels want them."""

    def __init__(
        self,
        x: Tensor,
        state: State,
        p: Parameters,
        readout: Readout | None,
        k_top: int,
        k_att: int,
        k_trunc: int,
        rule: Rule,
    ):
        self.layout = Layout(state.h.shape[1])
        self.shows_states = readout is None
        V, b = readout or (x.new_empty(0, 2 * self.layout.H), x.new_empty(0))
        self.inputs = (x, p.weight_ih, p.weight_hh, p.bias_ih, p.bias_hh, p.W1, p.W2, p.w3, V, b)
        self.x = x.detach().contiguous()
        self.sparse = int(self.x.count_nonzero()) * FEW_INPUTS <= self.x.numel()
        self.state = state
        self.B, self.T = x.shape[:2]
        self.k_top, self.k_att, self.k_trunc, self.rule = k_top, k_att, k_trunc, rule
        self.way = SCORINGS[rule.scoring], rule.normalizer == "softmax"
        self.N = (state.step + self.T) // k_att - state.step // k_att
        self.raw = rule.scoring != "mlp"  # the kernels' keys are W1 m itself
        self.h = self.layout.rows(state.h).clone()
        self.c = self.layout.rows(state.c).clone()
        self.weights = Forward.of(p, V.detach(), b.detach(), self.layout, rule)
        self.dtype = self.weights.w3.dtype

    def run(self) -> tuple[Tensor, Tensor, Tensor, State]:
        """h, s (B, T, H), logits (B, T, O) and the state after; recorded if anybody learns."""
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in self.inputs):
            hidden, summary, logits = _Sab.apply(self, *self.inputs)  # type: ignore[no-untyped-call]
            return hidden, summary, logits, self.after_training(hidden.detach())
        with torch.no_grad():
            return self.evaluate()

    def again(self) -> Call:
        """The same call, from its beginning."""
        x, w_ih, w_hh, b_ih, b_hh, W1, W2, w3, V, b = self.inputs
        p = parameters(w_ih, w_hh, b_ih, b_hh, W1, W2, w3)
        readout = None if self.shows_states else (V, b)
        return Call(x, self.state, p, readout, self.k_top, self.k_att, self.k_trunc, self.rule)

    def equations(self, x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h, s (B, T, H) and logits (B, T, O) of these inputs, in plain torch."""
        *cell, V, b = weights
        hidden, summary, _ = reference.sab(
            x,
            self.state,
            parameters(*cell),
            k_top=self.k_top,
            k_att=self.k_att,
            k_trunc=self.k_trunc,
            rule=self.rule,
        )
        return hidden, summary, reference.readout(hidden, summary, V, b)

    def compute(
        self, tape: Tape, M0: int, memory: Array, keys: Array, wide: Array, *, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """h and s, each (T, B, W), and logits (B, T, O filled up).

        self.h and self.c go on to the last step's. Where nobody wants them h and s have no steps.
        """
        w = self.weights
        steps = self.T if keep or self.shows_states else 0
        hidden = self.h.new_empty(steps, self.B, self.layout.width)
        summary = torch.empty_like(hidden)
        logits = self.h.new_empty(self.B, self.T, len(w.b))
        x, h, c = self.x.numpy(), self.h.numpy(), self.c.numpy()
        outputs = hidden.numpy(), summary.numpy(), logits.numpy()

        def part(low: int, high: int) -> None:
            sizes = self.x.shape[2], len(w.b), keys.shape[1], self.k_top
            scratch = BUFFERS.take(forward_scratch(high - low, h.shape[1], *sizes, self.dtype))
            forward(
                low, high, *self.way, self.state.step, self.k_top, self.k_att,
                self.rule.epsilon, keep, self.sparse,
                x, tape.gates, h, c, *outputs, tape.cells, tape.queries, M0, memory, keys, wide,
                tape.chosen, tape.weights, tape.sums, tape.starts,
                w.W_ih, w.W_hh, w.bias, w.W1, w.W2, w.w3, w.V, w.b, tuple(scratch.arrays),
            )  # fmt: skip
            BUFFERS.release(scratch)

        in_parts(parts(self.B), part)
        return hidden, summary, logits

    def shown(
        self, hidden: Tensor, summary: Tensor, logits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `compute` gave, (B, T, …) and without what was filled up."""
        layout, O = self.layout, self.inputs[-1].shape[0]
        h, s = (layout.no_rows(states.transpose(0, 1)) for states in (hidden, summary))
        return h, s, logits[..., :O]

    def evaluate(self) -> tuple[Tensor, Tensor, Tensor, State]:
        layout = self.layout
        bank, M0 = bank_of(self.state, layout, self.N, self.raw)
        tape = Tape(self, 0, np.array([0, min(self.k_top + 1, bank.count)]))
        outputs = self.compute(tape, M0, bank.memory, bank.keys, bank.wide, keep=False)
        tape.release()
        ends = layout.no_rows(self.h), layout.no_rows(self.c)
        after = on_bank(bank, *ends, self.state.step + self.T)
        return *self.shown(*outputs), after

    def train(self) -> tuple[Tensor, Tensor, Tensor, Tape]:
        """What `run` gives, and what the way back needs."""
        M0 = self.state.memory.shape[1]
        steps = self.state.step + np.arange(self.T)
        memories = M0 + steps // self.k_att - self.state.step // self.k_att
        starts = np.zeros(self.T + 1, np.int64)
        np.cumsum(np.minimum(self.k_top + 1, memories), out=starts[1:])
        tape = Tape(self, self.T, starts, M0 + self.N)
        tape.h, tape.c = self.h.numpy().copy(), self.c.numpy().copy()
        tape.memory[:, :M0] = self.layout.rows(self.state.memory).numpy()
        tape.wide = start_keys(self.layout.rows(self.state.keys), tape.keys, self.raw)
        return *self.compute(tape, M0, tape.memory, tape.keys, tape.wide, keep=True), tape

    def after_training(self, hidden: Tensor) -> State:
        layout, before, W1 = self.layout, self.state, self.weights.W1
        first = (before.step // self.k_att + 1) * self.k_att - before.step - 1
        made = hidden[:, first :: self.k_att]  # the memories of this call, (B, N, H)

        def keys() -> Tensor:
            # example by example: one large product may round by the size of the batch
            new = torch.bmm(layout.rows(made), unpacked(W1).expand(len(made), -1, -1))
            return torch.cat([before.keys.detach(), layout.no_rows(new)], dim=1)

        return carried(
            layout.no_rows(self.h),
            layout.no_rows(self.c),
            before.step + self.T,
            memory=lambda: torch.cat([before.memory.detach(), made], dim=1),
            keys=keys,
        )


def parameters(*weights: Tensor) -> Parameters:
    """The cell's, in the order in which autograd is given them."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "W1", "W2", "w3")
    return Parameters(**dict(zip(names, weights, strict=True)))


class Tape:
    """What a pass writes beside its outputs, in a workspace; shapes as in `kernel`.

    `kept` steps are kept for a backward pass: all, or none.
    """

    h: Array  # (B, W), before the pass, as is c
    c: Array
    wide: Array  # (B,)

    def __init__(self, call: Call, kept: int, starts: NDArray[np.int64], memories: int = 0):
        B, W, real = call.B, call.layout.width, call.dtype
        S = int(starts[-1])
        self.starts = starts
        self.workspace = BUFFERS.take(
            [
                ((kept, B, 4 * W), real),
                ((kept, B, W), real),
                ((kept if call.rule.scoring != "separable" else 0, B, W), real),
                ((B, memories, W), real),
                ((B, memories, W), real),
                ((B, S), np.dtype(np.int32)),
                ((B, S), real),
                ((B, kept), real),
            ]
        )
        self.gates, self.cells, self.queries, *recalled = self.workspace.arrays
        self.memory, self.keys, self.chosen, self.weights, self.sums = recalled

    def release(self) -> None:
        BUFFERS.release(self.workspace)


class _Sab(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden, summary, logits, ctx.tape = call.train()
        ctx.call = call
        ctx.set_materialize_grads(False)
        # the outputs as the kernels see them; without padding they are the outputs themselves
        ctx.save_for_backward(*inputs, hidden, summary)
        return call.shown(hidden, summary, logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, hidden, summary = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph
            needed = ctx.needs_input_grad[1:]
            return (None, *gradients_through(ctx.call.equations, inputs, gradients, needed))
        call, tape, ctx.tape = ctx.call, ctx.tape, None
        if tape is None:  # an earlier backward pass used it up
            call = call.again()
            hidden, summary, _, tape = call.train()
        _, *cell, V, _ = (tensor.detach() for tensor in inputs)
        of_x = ctx.needs_input_grad[1]
        return (
            None,
            *differentiate(call, tape, parameters(*cell), V, hidden, summary, gradients, of_x),
        )
