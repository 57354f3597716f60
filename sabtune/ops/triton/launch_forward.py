"""The GPU kernels' way forward: a call's sizes, what it gives, and its launches.

The legend is that of `sabtune.ops.triton.autograd`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sabtune.ops.reference import Parameters, Rule, State
from sabtune.ops.triton import tile
from sabtune.ops.triton.forward_kernel import forward_kernel

SCORINGS = {
    "mlp": tile.MLP.value,
    "dot": tile.DOT.value,
    "separable": tile.SEPARABLE.value,
}
KEPT = (16, 64)
"""KP is one of them: a schedule of k_top compiles the kernels twice at most."""

ROWS = 8192
"""B × n: it bounds what a stretch takes. A launch is for one stretch."""

TILE = 4096
"""Entries of a tile up to H 64; beyond it has 64 rows. Not tuned, nor is the number of warps."""

NEVER = 2**30


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call but for its tensors. In it t counts from 0, `step` steps having gone before."""

    B: int
    T: int
    H: int
    M0: int
    step: int
    k_top: int
    k_att: int
    k_trunc: int
    rule: Rule
    dtype: torch.dtype  # of the weights as the kernels read them, and of what they give

    @property
    def room(self) -> int:
        return self.M0 + (self.step + self.T) // self.k_att - self.step // self.k_att

    @property
    def most(self) -> int:
        return min(self.k_top + 1, self.room)

    def stretches(self) -> list[tuple[int, int]]:
        n = max(1, ROWS // self.B)
        return [(start, min(start + n, self.T)) for start in range(0, self.T, n)]

    def numbers(self) -> dict[str, int]:
        return {
            "M0": self.M0,
            "since": self.step % self.k_att,
            "most": self.most,
            "k_att": min(self.k_att, NEVER),
            "room": self.room,
        }

    def cuts(self) -> dict[str, int]:
        k_trunc = min(self.k_trunc or NEVER, NEVER)
        return {"k_trunc": k_trunc, "cut": self.step % k_trunc}

    def shape(self) -> dict[str, Any]:
        """What a kernel is compiled for."""
        filled = max(16, 1 << (self.H - 1).bit_length())
        return {
            "SCORING": SCORINGS[self.rule.scoring],
            "SOFTMAX": self.rule.normalizer == "softmax",
            "H": self.H,
            "HP": filled,
            "KP": next(size for size in KEPT if size >= self.most),
            "ROWS": TILE // min(filled, 64),
            "num_warps": 4 if filled <= 64 else 8,
            "num_stages": 1,  # nothing fetched early: a step reads what the one before wrote
        }

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(self.H) if self.rule.scoring == "dot" else 1.0


class Record(NamedTuple):
    """What a call gives, and what its way back needs; of the latter nothing unless it is kept."""

    hidden: Tensor  # (T + 1, B, H), from the state before the first step on
    summary: Tensor  # (T, B, H)
    c: Tensor  # (B, H), after the last step
    memory: Tensor  # (B, room, H)
    keys: Tensor  # (B, room, H)
    cells: Tensor  # (T + 1, B, H)
    weights: Tensor  # (T, B, most), unwritten from K on
    rows: Tensor  # (T, B, most)
    divisors: Tensor  # (T, B): what the weights were divided by


def rounded(p: Parameters, dtype: torch.dtype) -> Parameters:
    """The weights as the kernels see them, in float32 or bf16; the biases stay as they are."""
    biases = {"bias_ih": p.bias_ih.float(), "bias_hh": p.bias_hh.float()}
    names = [field.name for field in fields(Parameters) if field.name not in biases]
    matrices = {name: getattr(p, name).to(dtype).contiguous() for name in names}
    return Parameters(**matrices, **biases)


def filled(carried: Tensor, room: int) -> Tensor:
    """A bank (B, room, H) that begins with what is carried."""
    B, M0, H = carried.shape
    bank = torch.empty(B, room, H, device=carried.device)
    bank[:, :M0] = carried
    return bank


def gate_sums(x: Tensor, p: Parameters, h: Tensor | None = None) -> Tensor:
    """(n, B, 4H) of a stretch x (B, n, I): W_ih x + b, and W_hh h if h (n, B, H) is there."""
    rows = x.transpose(0, 1).float()
    sums = torch.addmm(p.bias_ih + p.bias_hh, rows.reshape(-1, x.shape[2]), p.weight_ih.float().T)
    if h is not None:
        sums.addmm_(h.flatten(0, 1), p.weight_hh.float().T)
    return sums.view(*rows.shape[:2], -1)


def forward(call: Call, x: Tensor, p: Parameters, state: State, *, keep: bool) -> Record:
    """Runs x (B, T, I) from `state`, the weights being `rounded`."""
    B, T, H, most = call.B, call.T, call.H, call.most
    steps = T if keep else 0

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    record = Record(
        hidden=empty(T + 1, B, H),
        summary=empty(T, B, H, dtype=call.dtype),
        c=state.c.to(torch.float32, copy=True).contiguous(),
        memory=filled(state.memory, call.room),
        keys=filled(state.keys, call.room),
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
    for start, end in call.stretches():
        forward_kernel[(B,)](
            gate_sums(x[:, start:end], p), record.hidden, record.summary, record.c, record.cells,
            query, record.weights, record.rows, record.divisors, record.memory, record.keys,
            W_hh, W1, W2, p.w3, start, end, **call.numbers(),
            epsilon=call.rule.epsilon, scale=call.scale, KEEP=keep,
            MEMORIES=shape["ROWS"], **shape,
        )  # fmt: skip
    return record
