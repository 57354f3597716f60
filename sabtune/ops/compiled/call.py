"""One call of the compiled pass, and its autograd function.

The notation is that of `sabtune.ops.reference`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sabtune.ops import reference
from sabtune.ops.call import Call
from sabtune.ops.compiled.buffers import BUFFERS
from sabtune.ops.compiled.common import DOT, MLP, SEPARABLE, Inputs, Settings
from sabtune.ops.compiled.common import Tape as Arrays
from sabtune.ops.compiled.forward import Outputs, Scratch, Weights, forward
from sabtune.ops.compiled.forward import scratch as forward_scratch
from sabtune.ops.compiled.gradient import differentiate
from sabtune.ops.compiled.layout import Layout, forward_weights, unpacked
from sabtune.ops.compiled.memory_bank import bank_of, carried, on_bank, start_keys
from sabtune.ops.compiled.threads import in_parts, parts
from sabtune.ops.higher_order import gradients_through
from sabtune.ops.reference import Parameters, State

SCORINGS = {"mlp": MLP, "dot": DOT, "separable": SEPARABLE}

FEW_INPUTS = 5
"""The kernels skip zeros of x if at most one input in this many is not zero, as in one-hot x."""

Array = NDArray[Any]


class CompiledCall:
    """One call: its sizes, its start state, and its weights as the kernels take them."""

    def __init__(self, call: Call):
        self.call = call
        x, state, p, rule = call.x, call.state, call.parameters, call.sparsity.rule
        self.layout = Layout(state.h.shape[1])
        self.shows_states = call.readout is None
        V, b = call.readout or (x.new_empty(0, 2 * self.layout.H), x.new_empty(0))
        self.inputs = (x, p.weight_ih, p.weight_hh, p.bias_ih, p.bias_hh, p.W1, p.W2, p.w3, V, b)
        self.x = x.detach().contiguous()
        self.sparse = int(self.x.count_nonzero()) * FEW_INPUTS <= self.x.numel()
        self.state = state
        self.B, self.T = x.shape[:2]
        self.sparsity = call.sparsity
        self.way = SCORINGS[rule.scoring], rule.normalizer == "softmax"
        k_att = call.sparsity.k_att
        self.N = (state.step + self.T) // k_att - state.step // k_att
        self.raw = rule.scoring != "mlp"  # the kernels' keys are W1 m itself
        self.h = self.layout.rows(state.h).clone()
        self.c = self.layout.rows(state.c).clone()
        self.weights: Weights = forward_weights(p, V.detach(), b.detach(), self.layout, rule)
        self.dtype = self.weights.w3.dtype

    def run(self) -> tuple[Tensor, Tensor, Tensor, State]:
        """Run the call; return h and s (B, T, H), logits (B, T, O), and the state after x.

        Autograd records the call if an input requires a gradient.
        """
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in self.inputs):
            hidden, summary, logits = _Sab.apply(self, *self.inputs)  # type: ignore[no-untyped-call]
            return hidden, summary, logits, self.after_training(hidden.detach())
        with torch.no_grad():
            return self.evaluate()

    def again(self) -> CompiledCall:
        """Return a new `CompiledCall` with the same inputs and the same start state."""
        return CompiledCall(self.call)

    def equations(self, x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return h, s (B, T, H) and logits (B, T, O) of these inputs, by the reference."""
        *cell, V, b = weights
        hidden, summary, _ = reference.steps(x, self.state, parameters(*cell), self.sparsity)
        return hidden, summary, reference.readout(hidden, summary, V, b)

    def settings(self, M0: int) -> Settings:
        """Return the numbers of the call as the kernels take them."""
        scoring, softmax = self.way
        return Settings(
            scoring=scoring,
            softmax=softmax,
            epsilon=self.sparsity.rule.epsilon,
            step=self.state.step,
            k_top=self.sparsity.k_top,
            k_att=self.sparsity.k_att,
            k_trunc=self.sparsity.k_trunc,
            cut=int(self.sparsity.rule.cuts_before),
            M0=M0,
            sparse=self.sparse,
        )

    def compute(
        self, tape: Tape, M0: int, memory: Array, keys: Array, wide: Array, *, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the forward pass; return h and s, each (T, B, W), and logits (B, T, O padded).

        Replaces self.h and self.c by those of the last step. Unless h and s are needed, they are
        returned without steps.
        """
        w = self.weights
        steps = self.T if keep or self.shows_states else 0
        hidden = self.h.new_empty(steps, self.B, self.layout.width)
        summary = torch.empty_like(hidden)
        logits = self.h.new_empty(self.B, self.T, len(w.b))
        x, h, c = self.x.numpy(), self.h.numpy(), self.c.numpy()
        outputs = Outputs(hidden.numpy(), summary.numpy(), logits.numpy())

        settings = self.settings(M0)
        given = Inputs(x, h, c)
        arrays = tape.arrays(memory, keys, wide)

        def part(low: int, high: int) -> None:
            sizes = self.x.shape[2], len(w.b), keys.shape[1], self.sparsity.k_top
            workspace = BUFFERS.take(forward_scratch(high - low, h.shape[1], *sizes, self.dtype))
            work = Scratch(*workspace.arrays)
            forward(low, high, keep, settings, given, outputs, arrays, w, work)
            BUFFERS.release(workspace)

        in_parts(parts(self.B), part)
        return hidden, summary, logits

    def shown(
        self, hidden: Tensor, summary: Tensor, logits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the results of `compute` as (B, T, …) and without padding."""
        layout, O = self.layout, self.inputs[-1].shape[0]
        h, s = (layout.no_rows(states.transpose(0, 1)) for states in (hidden, summary))
        return h, s, logits[..., :O]

    def evaluate(self) -> tuple[Tensor, Tensor, Tensor, State]:
        """Do what `run` does, without autograd."""
        layout = self.layout
        bank, M0 = bank_of(self.state, layout, self.N, self.raw)
        tape = Tape(self, 0, np.array([0, min(self.sparsity.k_top + 1, bank.count)]))
        outputs = self.compute(tape, M0, bank.memory, bank.keys, bank.wide, keep=False)
        tape.release()
        ends = layout.no_rows(self.h), layout.no_rows(self.c)
        after = on_bank(bank, *ends, self.state.step + self.T)
        return *self.shown(*outputs), after

    def train(self) -> tuple[Tensor, Tensor, Tensor, Tape]:
        """Return h, s and logits as `compute` does, and the tape for the backward pass."""
        M0 = self.state.memory.shape[1]
        steps = self.state.step + np.arange(self.T)
        memories = M0 + steps // self.sparsity.k_att - self.state.step // self.sparsity.k_att
        starts = np.zeros(self.T + 1, np.int64)
        np.cumsum(np.minimum(self.sparsity.k_top + 1, memories), out=starts[1:])
        tape = Tape(self, self.T, starts, M0 + self.N)
        tape.h, tape.c = self.h.numpy().copy(), self.c.numpy().copy()
        tape.memory[:, :M0] = self.layout.rows(self.state.memory).numpy()
        tape.wide = start_keys(self.layout.rows(self.state.keys), tape.keys, self.raw)
        return *self.compute(tape, M0, tape.memory, tape.keys, tape.wide, keep=True), tape

    def after_training(self, hidden: Tensor) -> State:
        """Return the state after a recorded call, from its h (B, T, H)."""
        layout, before, W1 = self.layout, self.state, self.weights.W1
        k_att = self.sparsity.k_att
        first = (before.step // k_att + 1) * k_att - before.step - 1
        made = hidden[:, first::k_att]  # memories of this call, (B, N, H)

        def keys() -> Tensor:
            # example by example: the rounding of one large product may depend on the batch size
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
    """Return the parameters of the cell from tensors in the order of `CompiledCall.inputs`."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "W1", "W2", "w3")
    return Parameters(**dict(zip(names, weights, strict=True)))


class Tape:
    """The arrays that a forward pass writes besides its outputs, in a workspace.

    The shapes are those of `common`. kept: the number of steps that are kept for a backward pass,
    which is all or none.
    """

    h: Array  # (B, W), before the pass
    c: Array  # (B, W), before the pass
    wide: Array  # (B,)

    def __init__(self, call: CompiledCall, kept: int, starts: NDArray[np.int64], memories: int = 0):
        B, W, real = call.B, call.layout.width, call.dtype
        S = int(starts[-1])
        self.starts = starts
        self.workspace = BUFFERS.take(
            [
                ((kept, B, 4 * W), real),
                ((kept, B, W), real),
                ((kept if call.sparsity.rule.scoring != "separable" else 0, B, W), real),
                ((B, memories, W), real),
                ((B, memories, W), real),
                ((B, S), np.dtype(np.int32)),
                ((B, S), real),
                ((B, kept), real),
            ]
        )
        self.gates, self.cells, self.queries, *recalled = self.workspace.arrays
        self.memory, self.keys, self.chosen, self.weights, self.sums = recalled

    def arrays(self, memory: Array, keys: Array, wide: Array) -> Arrays:
        """Return the tape as the kernels take it, with these memories."""
        return Arrays(
            gates=self.gates,
            cells=self.cells,
            queries=self.queries,
            memory=memory,
            keys=keys,
            wide=wide,
            chosen=self.chosen,
            weights=self.weights,
            sums=self.sums,
            starts=self.starts,
        )

    def release(self) -> None:
        """Return the workspace to the pool."""
        BUFFERS.release(self.workspace)


class _Sab(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: CompiledCall, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
        if tape is None:  # an earlier backward pass consumed it
            call = call.again()
            hidden, summary, _, tape = call.train()
        _, *cell, V, _ = (tensor.detach() for tensor in inputs)
        of_x = ctx.needs_input_grad[1]
        return (
            None,
            *differentiate(call, tape, parameters(*cell), V, hidden, summary, gradients, of_x),
        )
