"""The eager pass's way back, from the last step to the first, written out by hand.

What doesn't wait for a later step's gradient is computed for a stretch of steps at once, before
they are gone through, and so are the weights' gradients after it: a few large products instead of
one a step, in memory that doesn't grow with T.

B batch, T steps, I inputs, H hidden, M memories, K scores that count, n steps of a stretch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sabtune.ops.eager.forward import Call, Record, double_cell_gate, doubled
from sabtune.ops.eager.scores import picked, put_back, scores_of, tanh
from sabtune.ops.eager.weights import of_weights
from sabtune.ops.reference import Parameters

STRETCH = 16


class Backward:
    """dL/d of all that goes in, from that of what comes out.

    d_hidden, d_summary: (B, T, H), d_c: (B, H); None where there is none. h: (B, H), before the
    first step.
    """

    def __init__(
        self,
        call: Call,
        x: Tensor,
        p: Parameters,
        h: Tensor,
        record: Record,
        d_hidden: Tensor | None,
        d_summary: Tensor | None,
        d_c: Tensor | None,
        *,
        of_x: bool,
    ):
        self.call, self.x, self.h, self.record = call, x, h, record
        self.d_hidden, self.d_summary = d_hidden, d_summary
        self.weights = call.by_step(record.weights, call.counts())
        self.rows = call.by_step(record.rows, call.picks())
        self.scores = scores_of(p, call.rule, record.keys, call.M0, call.most)
        self.scores.start()
        self.W_ih, self.W_hh, bias = doubled(p)
        # transposed, for 10 inputs make a product of 10 columns that takes 6 times as long as one
        # of 10 rows; and both in one
        self.d_in = x.new_zeros(h.shape[1] + x.shape[2], len(bias))
        self.d_bias = torch.zeros_like(bias)
        self.d_memory = torch.zeros_like(record.memory)
        self.d_x = torch.empty_like(x) if of_x else None
        self.dh = torch.zeros_like(h)  # of the step at hand, and in the end of `h`
        self.dc = torch.zeros_like(h) if d_c is None else d_c.clone()
        for end in range(call.T, 0, -STRETCH):
            self.stretch(max(0, end - STRETCH), end)
        for gradient in (self.d_in.T, self.d_bias):
            double_cell_gate(gradient)

    def stretch(self, start: int, end: int) -> None:
        """Goes back over the steps from `end` - 1 to `start`."""
        now = slice(start, end)
        query = (self.record.hidden[:, now] - self.record.summary[:, now]).transpose(0, 1)
        query = query.contiguous()
        q = self.scores.queries(query)
        dq = torch.empty_like(q)
        d_gates, of_c = self.factors(now)
        for t in range(end - 1, start - 1, -1):
            u = t - start
            dq[u] = self.recall(t, q[u])
            self.scores.into_query(self.dh, dq[u], query[u])
            self.cell(t, d_gates[u], of_c[u])
        self.scores.end_steps(dq, query)
        self.end_steps(now, d_gates.flatten(0, 1))

    def factors(self, now: slice) -> tuple[Tensor, Tensor]:
        """What dL/dc and dL/dĥ are multiplied by: (n, B, 4H) for dL/d of the gates' sums, and
        (n, B, H) for what dL/dĥ adds to dL/dc.
        """
        gates, cells = self.record.gates[now], self.record.cells[now.start : now.stop + 1]
        i, _, g, o = gates.chunk(4, dim=2)
        factors = torch.addcmul(gates, gates, gates, value=-1)
        of_i, of_f, of_g, of_o = factors.chunk(4, dim=2)
        tanh_c = tanh(cells[1:])
        of_i *= 2 * g - 1
        of_f *= cells[:-1]
        of_g.mul_(i).mul_(2)
        of_o *= tanh_c
        return factors, (1 - tanh_c.square()).mul_(o)

    def recall(self, t: int, q: Tensor) -> Tensor:
        """From all of dL/dh_t and dL/ds_t what goes to memories and keys; returns dL/dq."""
        call, dh = self.call, self.dh
        M, p = call.memories(t), self.weights[t]
        rows = self.rows[t] if call.most < M else None
        if self.d_hidden is not None:
            dh += self.d_hidden[:, t]
        if call.remembers(t):
            dh += self.d_memory[:, M]
            self.scores.into_memory(dh, M)
        ds = dh if self.d_summary is None else dh + self.d_summary[:, t]
        dp = torch.bmm(ds.unsqueeze(1), picked(self.record.memory, rows, M).mT).squeeze(1)
        put_back(self.d_memory, rows, M, p.unsqueeze(2) * ds.unsqueeze(1))
        da = of_weights(dp, p, self.record.divisors[t], rows is None, call.rule)
        return self.scores.back(da, rows, M, q)

    def cell(self, t: int, d_gates: Tensor, of_c: Tensor) -> None:
        """From dL/dĥ_t and dL/dc_t those of h and c before, and in `d_gates` of the gates' sums."""
        B, H = self.dh.shape
        self.dc.addcmul_(self.dh, of_c)
        d_gates[:, : 3 * H].view(B, 3, H).mul_(self.dc.unsqueeze(1))
        d_gates[:, 3 * H :].mul_(self.dh)
        if self.call.is_cut(t):
            self.dh.zero_()
            self.dc.zero_()
        else:
            torch.mm(d_gates, self.W_hh, out=self.dh)
            self.dc *= self.record.gates[t, :, H : 2 * H]

    def end_steps(self, now: slice, d_gates: Tensor) -> None:
        """Adds up the cell's gradients from the (n·B, 4H) of the gates' sums."""
        hidden, x = self.record.hidden, self.x[:, now].transpose(0, 1)
        H = hidden.shape[2]
        before = x.new_empty(*x.shape[:2], len(self.d_in))
        before[0, :, :H] = hidden[:, now.start - 1] if now.start else self.h
        before[1:, :, :H] = hidden[:, now.start : now.stop - 1].transpose(0, 1)
        before[..., H:] = x
        self.d_in.addmm_(before.flatten(0, 1).T, d_gates)
        self.d_bias += d_gates.sum(dim=0)
        if self.d_x is not None:
            self.d_x[:, now] = (d_gates @ self.W_ih).view_as(x).transpose(0, 1)

    def gradients(self) -> tuple[Tensor | None, ...]:
        """dL/d of x, of the parameters in their order, and of the state's h, c, memory and keys."""
        M0, H = self.call.M0, self.h.shape[1]
        d_hh, d_ih = (part.T.contiguous() for part in self.d_in.tensor_split([H]))
        return (
            self.d_x, d_ih, d_hh, self.d_bias, self.d_bias.clone(),
            *self.scores.of_weights(self.record.memory),
            self.dh, self.dc, self.d_memory[:, :M0], self.scores.of_carried_keys(),
        )  # fmt: skip
