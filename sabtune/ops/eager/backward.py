"""The eager backward pass, from the last step to the first, written by hand.

It works on chunks of steps. Before the loop over the steps of a chunk, it computes everything that
does not depend on a later step's gradient. After the loop, it computes the chunk's part of the
weights' gradients. This takes a few large products instead of one per step, in memory that does not
grow with T.

dL/d of A is the gradient of the loss L with respect to A. ĥ is the query, h' of `ops.reference`.

Shapes: B batch, T steps, I inputs, H hidden, M memories, K top scores, n steps of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sabtune.ops.eager.forward import EagerCall, Record, double_cell_gate, doubled
from sabtune.ops.eager.scores import add_to_rows, gather_rows, make_scores, tanh
from sabtune.ops.eager.weights import early_score_gradient, score_gradient
from sabtune.ops.reference import Parameters

CHUNK_STEPS = 16


class Backward:
    """Gradients of a call's inputs from those of its outputs.

    h: (B, H), before the first step. d_hidden, d_summary: dL/d of h and s (B, T, H), and d_c: dL/d
    of the last c (B, H); each may be None. needs_x: whether to compute dL/dx.
    """

    def __init__(
        self,
        call: EagerCall,
        x: Tensor,
        p: Parameters,
        h: Tensor,
        record: Record,
        d_hidden: Tensor | None,
        d_summary: Tensor | None,
        d_c: Tensor | None,
        *,
        needs_x: bool,
    ):
        self.call, self.x, self.h, self.record = call, x, h, record
        self.d_hidden, self.d_summary = d_hidden, d_summary
        self.weights = call.split_steps(record.weights, call.top_counts())
        self.rows = call.split_steps(record.rows, call.selected_counts())
        self.scores = make_scores(p, call.sparsity.rule, record.keys, call.M0, call.max_scores)
        self.scores.start_backward()
        self.W_ih, self.W_hh, bias = doubled(p)
        # dL/d of W_hh and W_ih, in one product and transposed: with 10 inputs, a product with 10
        # rows is 6 times as fast as one with 10 columns
        self.d_W = x.new_zeros(h.shape[1] + x.shape[2], len(bias))
        self.d_bias = torch.zeros_like(bias)
        self.d_memory = torch.zeros_like(record.memory)
        self.d_x = torch.empty_like(x) if needs_x else None
        self.dh = torch.zeros_like(h)  # of the current step; after the last chunk, of `h`
        self.dc = torch.zeros_like(h) if d_c is None else d_c.clone()
        for end in range(call.T, 0, -CHUNK_STEPS):
            self.backward_chunk(max(0, end - CHUNK_STEPS), end)
        for gradient in (self.d_W.T, self.d_bias):
            double_cell_gate(gradient)

    def backward_chunk(self, start: int, end: int) -> None:
        """Run the steps from `end` - 1 to `start` backward."""
        chunk = slice(start, end)
        query = (self.record.hidden[:, chunk] - self.record.summary[:, chunk]).transpose(0, 1)
        query = query.contiguous()
        q = self.scores.project(query)
        dq = torch.empty_like(q)
        d_gates, dc_factor = self.factors(chunk)
        for t in range(end - 1, start - 1, -1):
            u = t - start
            dq[u] = self.backward_recall(t, q[u])
            self.scores.add_query_gradient(self.dh, dq[u], query[u])
            self.backward_cell(t, d_gates[u], dc_factor[u])
        self.scores.add_weight_gradients(dq, query)
        self.add_cell_gradients(chunk, d_gates.flatten(0, 1))

    def factors(self, chunk: slice) -> tuple[Tensor, Tensor]:
        """Return the factors of dL/dc and dL/dĥ in other gradients.

        The first (n, B, 4H) gives dL/d of the gates' pre-activations, from dL/dc for the input,
        forget and cell gates and from dL/dĥ for the output gate. The second (n, B, H) gives what
        dL/dĥ adds to dL/dc.
        """
        gates, cells = self.record.gates[chunk], self.record.cells[chunk.start : chunk.stop + 1]
        i, _, g, o = gates.chunk(4, dim=2)
        factors = torch.addcmul(gates, gates, gates, value=-1)
        factor_i, factor_f, factor_g, factor_o = factors.chunk(4, dim=2)
        tanh_c = tanh(cells[1:])
        factor_i *= 2 * g - 1
        factor_f *= cells[:-1]
        factor_g.mul_(i).mul_(2)
        factor_o *= tanh_c
        return factors, (1 - tanh_c.square()).mul_(o)

    def backward_recall(self, t: int, q: Tensor) -> Tensor:
        """Complete dL/dh_t, add to dL/d of the memories and keys, and return dL/dq of step t."""
        call, dh = self.call, self.dh
        M, p = call.memories(t), self.weights[t]
        rows = self.rows[t] if call.max_scores < M else None
        if self.d_hidden is not None:
            dh += self.d_hidden[:, t]
        if call.remembers(t):
            dh += self.d_memory[:, M]
            self.scores.add_memory_gradient(dh, M)
        ds = dh if self.d_summary is None else dh + self.d_summary[:, t]
        dp = torch.bmm(ds.unsqueeze(1), gather_rows(self.record.memory, rows, M).mT).squeeze(1)
        add_to_rows(self.d_memory, rows, M, p.unsqueeze(2) * ds.unsqueeze(1))
        divisor, rule = self.record.divisors[t], call.sparsity.rule
        if rule.form == "early":
            lowest = None if call.uses_scores(t) else self.record.lowest[t]
            da = early_score_gradient(dp, p, divisor, lowest)
        else:
            da = score_gradient(dp, p, divisor, rows is None, rule)
        return self.scores.backward(da, rows, M, q)

    def backward_cell(self, t: int, d_gates: Tensor, dc_factor: Tensor) -> None:
        """Replace dL/dĥ_t and dL/dc_t by dL/d of h_{t-1} and c_{t-1}.

        Turns the factors in `d_gates` into dL/d of the gates' pre-activations.
        """
        B, H = self.dh.shape
        self.dc.addcmul_(self.dh, dc_factor)
        d_gates[:, : 3 * H].view(B, 3, H).mul_(self.dc.unsqueeze(1))
        d_gates[:, 3 * H :].mul_(self.dh)
        if self.call.is_cut(t):
            self.dh.zero_()
            self.dc.zero_()
        else:
            torch.mm(d_gates, self.W_hh, out=self.dh)
            self.dc *= self.record.gates[t, :, H : 2 * H]

    def add_cell_gradients(self, chunk: slice, d_gates: Tensor) -> None:
        """Add to the cell's weight gradients, from dL/d of the pre-activations (n·B, 4H)."""
        hidden, x = self.record.hidden, self.x[:, chunk].transpose(0, 1)
        H = hidden.shape[2]
        inputs = x.new_empty(*x.shape[:2], len(self.d_W))  # [h_{t-1}; x_t]
        inputs[0, :, :H] = hidden[:, chunk.start - 1] if chunk.start else self.h
        inputs[1:, :, :H] = hidden[:, chunk.start : chunk.stop - 1].transpose(0, 1)
        inputs[..., H:] = x
        self.d_W.addmm_(inputs.flatten(0, 1).T, d_gates)
        self.d_bias += d_gates.sum(dim=0)
        if self.d_x is not None:
            self.d_x[:, chunk] = (d_gates @ self.W_ih).view_as(x).transpose(0, 1)

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Return dL/d of x, the parameters in order, and the state's h, c, memory and keys."""
        M0, H = self.call.M0, self.h.shape[1]
        d_hh, d_ih = (part.T.contiguous() for part in self.d_W.tensor_split([H]))
        return (
            self.d_x, d_ih, d_hh, self.d_bias, self.d_bias.clone(),
            *self.scores.weight_gradients(self.record.memory),
            self.dh, self.dc, self.d_memory[:, :M0], self.scores.carried_key_gradient(),
        )  # fmt: skip
