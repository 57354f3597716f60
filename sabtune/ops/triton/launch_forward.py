"""The forward pass on a GPU: the sizes of a call, its record, and its kernel launches.

`sabtune.ops.triton.autograd` explains the names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sabtune.ops.reference import Parameters, Sparsity, State
from sabtune.ops.triton import tile
from sabtune.ops.triton.forward_kernel import forward_kernel

SCORINGS = {
    "mlp": tile.MLP.value,
    "dot": tile.DOT.value,
    "separable": tile.SEPARABLE.value,
}
SLOT_COUNTS = (16, 64)
"""The values of KP. With only two, a schedule of k_top compiles the kernels at most twice."""

ROWS = 8192
"""Rows (B × n) of a chunk, which bound its memory. A launch runs one chunk."""

TILE_ENTRIES = 4096
"""Entries of a tile if HP is at most 64; a wider tile has 64 rows. Neither this number nor the
number of warps is tuned."""

NEVER_STEPS = 2**30
"""A period in steps that no sequence reaches."""


@dataclass(frozen=True, kw_only=True)
class KernelCall:
    """The sizes and options of a call. Its steps t count from 0; `step` steps precede them."""

    B: int
    T: int
    H: int
    M0: int
    step: int
    sparsity: Sparsity
    dtype: torch.dtype  # of the weights that the kernels read, and of the outputs

    @property
    def room(self) -> int:
        """The number of memories after the call."""
        k_att = self.sparsity.k_att
        return self.M0 + (self.step + self.T) // k_att - self.step // k_att

    @property
    def most(self) -> int:
        """The largest number of scores that affect the weights of a step, including θ."""
        return min(self.sparsity.k_top + 1, self.room)

    def chunks(self) -> list[tuple[int, int]]:
        """Return the first step of each chunk, and the step after its last one."""
        n = max(1, ROWS // self.B)
        return [(start, min(start + n, self.T)) for start in range(0, self.T, n)]

    def integers(self) -> dict[str, int]:
        """Return the integer arguments that both kernels take."""
        k_att = self.sparsity.k_att
        return {
            "M0": self.M0,
            "since": self.step % k_att,
            "most": self.most,
            "k_att": min(k_att, NEVER_STEPS),
            "room": self.room,
        }

    def cuts(self) -> dict[str, int]:
        """Return the arguments that place the cuts of truncated back-propagation."""
        k_trunc = min(self.sparsity.k_trunc or NEVER_STEPS, NEVER_STEPS)
        early = int(self.sparsity.rule.cuts_before)
        return {"k_trunc": k_trunc, "cut": (self.step + early) % k_trunc}

    def shape(self) -> dict[str, Any]:
        """Return the compile-time arguments of the kernels."""
        padded_hidden = max(16, 1 << (self.H - 1).bit_length())
        return {
            "SCORING": SCORINGS[self.sparsity.rule.scoring],
            "SOFTMAX": self.sparsity.rule.normalizer == "softmax",
            "H": self.H,
            "HP": padded_hidden,
            "KP": next(size for size in SLOT_COUNTS if size >= self.most),
            "ROWS": TILE_ENTRIES // min(padded_hidden, 64),
            "num_warps": 4 if padded_hidden <= 64 else 8,
            "num_stages": 1,  # no prefetching: a step reads what the previous step wrote
        }

    @property
    def scale(self) -> float:
        """The factor of the query in a score."""
        return 1 / math.sqrt(self.H) if self.sparsity.rule.scoring == "dot" else 1.0


class Record(NamedTuple):
    """The outputs of a call, and what its backward pass needs.

    Without `keep`, the tensors that only the backward pass needs are empty.
    """

    hidden: Tensor  # (T + 1, B, H): h before the first step, then after each step
    summary: Tensor  # (T, B, H)
    c: Tensor  # (B, H), after the last step
    memory: Tensor  # (B, room, H)
    keys: Tensor  # (B, room, H)
    cells: Tensor  # (T + 1, B, H)
    weights: Tensor  # (T, B, most); only the first K are written
    rows: Tensor  # (T, B, most)
    divisors: Tensor  # (T, B): the divisor of the weights


def rounded(p: Parameters, dtype: torch.dtype) -> Parameters:
    """Cast the matrices and w3 to `dtype`, float32 or bf16, and the biases to float32."""
    biases = {"bias_ih": p.bias_ih.float(), "bias_hh": p.bias_hh.float()}
    names = [field.name for field in fields(Parameters) if field.name not in biases]
    matrices = {name: getattr(p, name).to(dtype).contiguous() for name in names}
    return Parameters(**matrices, **biases)


def allocate_bank(carried: Tensor, room: int) -> Tensor:
    """Allocate a bank (B, room, H) whose first rows are `carried` (B, M0, H)."""
    B, M0, H = carried.shape
    bank = torch.empty(B, room, H, device=carried.device)
    bank[:, :M0] = carried
    return bank


def gate_sums(x: Tensor, p: Parameters, h: Tensor | None = None) -> Tensor:
    """Compute W_ih x + b (n, B, 4H) of x (B, n, I), plus W_hh h if h (n, B, H) is given."""
    rows = x.transpose(0, 1).float()
    sums = torch.addmm(p.bias_ih + p.bias_hh, rows.reshape(-1, x.shape[2]), p.weight_ih.float().T)
    if h is not None:
        sums.addmm_(h.flatten(0, 1), p.weight_hh.float().T)
    return sums.view(*rows.shape[:2], -1)


def forward(call: KernelCall, x: Tensor, p: Parameters, state: State, *, keep: bool) -> Record:
    """Run x (B, T, I) from `state`, with weights from `rounded`.

    keep: store what the backward pass needs.
    """
    B, T, H, most = call.B, call.T, call.H, call.most
    steps = T if keep else 0

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    record = Record(
        hidden=empty(T + 1, B, H),
        summary=empty(T, B, H, dtype=call.dtype),
        c=state.c.to(torch.float32, copy=True).contiguous(),
        memory=allocate_bank(state.memory, call.room),
        keys=allocate_bank(state.keys, call.room),
        cells=empty(T + 1 if keep else 0, B, H),
        weights=empty(steps, B, most),
        rows=empty(steps, B, most, dtype=torch.int32),
        divisors=empty(steps, B),
    )
    record.hidden[0] = state.h
    if keep:
        record.cells[0] = state.c
    query = empty(B, H)
    W_hh, W1, W2 = (w.t().contiguous() for w in (p.weight_hh, p.W1, p.W2))
    shape = call.shape()
    for start, end in call.chunks():
        forward_kernel[(B,)](
            gate_sums(x[:, start:end], p), record.hidden, record.summary, record.c, record.cells,
            query, record.weights, record.rows, record.divisors, record.memory, record.keys,
            W_hh, W1, W2, p.w3, start, end, **call.integers(),
            epsilon=call.sparsity.rule.epsilon, scale=call.scale, KEEP=keep,
            MEMORIES=shape["ROWS"], **shape,
        )  # fmt: skip
    return record
