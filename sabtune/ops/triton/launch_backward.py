"""The backward pass on a GPU: kernel launches, and the large products before and after each.

`sabtune.ops.triton.autograd` explains the names.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sabtune.ops.reference import Parameters
from sabtune.ops.triton.backward_kernel import backward_kernel
from sabtune.ops.triton.launch_forward import KernelCall, Record, gate_sums


class Backward:
    """Gradients of x and of the weights, from those of h and s, each (B, T, H) or None."""

    def __init__(
        self,
        call: KernelCall,
        x: Tensor,
        p: Parameters,
        record: Record,
        d_hidden: Tensor | None,
        d_summary: Tensor | None,
        *,
        needs_x: bool,
    ):
        self.call, self.x, self.p, self.record = call, x, p, record
        self.d_hidden, self.d_summary = (
            d if d is None or d.stride(2) == 1 else d.contiguous() for d in (d_hidden, d_summary)
        )
        self.d_memory, self.d_keys = torch.zeros_like(record.memory), torch.zeros_like(record.keys)
        self.dh, self.dc, self.dw = (torch.zeros_like(record.c) for _ in range(3))
        self.d_ih, self.d_hh, self.d_W2 = (
            torch.zeros_like(w, dtype=torch.float32) for w in (p.weight_ih, p.weight_hh, p.W2)
        )
        self.d_bias = torch.zeros_like(p.bias_ih)
        self.d_x = torch.empty_like(x) if needs_x else None
        for start, end in reversed(call.chunks()):
            self.backward_chunk(start, end)

    def backward_chunk(self, start: int, end: int) -> None:
        """Run the steps from `end` - 1 to `start` backward."""
        record, p = self.record, self.p
        h, x = record.hidden[start:end], self.x[:, start:end]
        gates = gate_sums(x, p, h)
        has_query = self.call.sparsity.rule.scoring != "separable"
        o = gates[..., 3 * self.call.H :]
        query = torch.sigmoid(o).mul_(torch.tanh(record.cells[start + 1 : end + 1]))
        q = query @ p.W2.float().T if has_query else query
        d_gates, dq = torch.empty_like(gates), torch.empty_like(query)
        self.launch(start, end, gates, q, d_gates, dq)
        d_sums = d_gates.flatten(0, 1)
        self.d_hh.addmm_(d_sums.T, h.flatten(0, 1))
        self.d_ih.addmm_(d_sums.T, x.transpose(0, 1).reshape(len(d_sums), -1).float())
        self.d_bias += d_sums.sum(dim=0)
        if has_query:
            self.d_W2.addmm_(dq.flatten(0, 1).T, query.flatten(0, 1))
        if self.d_x is not None:
            self.d_x[:, start:end] = (d_gates @ p.weight_ih.float()).transpose(0, 1)

    def launch(
        self, start: int, end: int, gates: Tensor, q: Tensor, d_gates: Tensor, dq: Tensor
    ) -> None:
        """Launch the kernel for the steps from `end` - 1 to `start`."""
        call, record, p = self.call, self.record, self.p
        # the kernel ignores an absent gradient, but needs a tensor in its place
        d_outputs = [d if d is not None else record.c for d in (self.d_hidden, self.d_summary)]
        strides = [stride for d in d_outputs for stride in d.stride()[:2]]
        backward_kernel[(call.B,)](
            *d_outputs, gates, record.cells, q, record.weights, record.rows, record.divisors,
            record.memory, record.keys, self.d_memory, self.d_keys, d_gates, dq,
            self.dh, self.dc, self.dw, p.weight_hh, p.W1, p.W2, p.w3,
            start, end, **call.integers(), **call.cuts(),
            **dict(zip(("hidden_b", "hidden_t", "summary_b", "summary_t"), strides, strict=True)),
            scale=call.scale, OF_HIDDEN=self.d_hidden is not None,
            OF_SUMMARY=self.d_summary is not None, **call.shape(),
        )  # fmt: skip

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Return dL/d of x and of the parameters in order, in float32."""
        M0, scoring = self.call.M0, self.call.sparsity.rule.scoring
        new_memories = self.record.memory[:, M0:].flatten(0, 1)
        d_W1 = self.d_keys[:, M0:].flatten(0, 1).T @ new_memories
        d_W2 = self.d_W2 if scoring != "separable" else None
        d_w3 = self.dw.sum(dim=0) if scoring != "dot" else None
        return self.d_x, self.d_ih, self.d_hh, self.d_bias, self.d_bias.clone(), d_W1, d_W2, d_w3
