"""One call of the GPU kernels, and its place in autograd.

Why Triton: it comes with PyTorch's GPU builds and needs no compiler beside them, and its interpreter
runs the same kernels on a CPU, so that they can be tested anywhere. CUDA source by NVRTC or
numba-cuda could keep the weights in shared memory by name; neither has an interpreter that is near
enough to what runs.

How: a program is one example of the batch, and goes through the steps alone, so that no program
waits for another. A step's products are of a vector and a matrix: tiles of the matrix times the
vector, added up over its rows. Weights are read at every step, with the hint to keep them in the
SM's first-level cache; in bf16 at H 128 they take 192 KiB. The memories lie in global memory, that
is in the second-level cache while they fit it. The highest scores are found in one pass over the
memories: a short list in registers takes in what passes its lowest.

What limits it: a program's steps wait for one another, so a step takes as long as its chain of five
products and their barriers, whatever the batch up to the number of SMs; tensor cores have nothing
to do with a single vector; in float32, or from H 256 on, weights come from the second-level cache.

For the way back are kept a step and example: h, c, and the numbers and weights of the K highest
scores. Gates and queries are made again, a stretch of steps at a time, by large products, as are
the gradients of the weights from those of the gates, queries and keys: no atomics, and the same
bits each time.

bf16: weights, inputs and outputs; what is between them, the state above all, is float32.

B batch, T steps, I inputs, H hidden, HP = H filled up to a power of two, M memories, M0 of them
there before the call, room: M after it; K scores of a step that count, most: K at most, KP that
filled up; since, cut: steps since k_att and k_trunc last came round. n steps of a stretch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sabtune.ops import gpu_tile
from sabtune.ops.gpu_backward import backward_kernel
from sabtune.ops.gpu_forward import forward_kernel
from sabtune.ops.reference import Parameters, Rule, State

SCORINGS = {
    "mlp": gpu_tile.MLP.value,
    "dot": gpu_tile.DOT.value,
    "separable": gpu_tile.SEPARABLE.value,
}
NAMES = [field.name for field in fields(Parameters)]

KEPT = (16, 64)
"""KP is one of them: a schedule of k_top compiles the kernels twice at most."""

ROWS = 8192
"""B × n: it bounds what a stretch takes. A launch is for one stretch."""

TILE = 4096
"""Entries of a tile. Not tuned, no more than the warps are: neither was measured yet."""

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
        if not self.k_trunc:
            return {"k_trunc": NEVER, "cut": 1}
        return {"k_trunc": min(self.k_trunc, NEVER), "cut": self.step % self.k_trunc}

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
            "num_stages": 1,  # a step reads what the one before wrote: nothing is to be fetched early
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
    matrices = {name: getattr(p, name).to(dtype).contiguous() for name in NAMES if name not in biases}
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
    sums = torch.addmm(
        p.bias_ih + p.bias_hh, rows.reshape(-1, x.shape[2]), p.weight_ih.float().T
    )
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


class Backward:
    """dL/d of x and the weights from that of h and s, each (B, T, H) or None."""

    def __init__(
        self,
        call: Call,
        x: Tensor,
        p: Parameters,
        record: Record,
        d_hidden: Tensor | None,
        d_summary: Tensor | None,
        *,
        of_x: bool,
    ):
        self.call, self.x, self.p, self.record = call, x, p, record
        self.of_hidden, self.of_summary = (
            d if d is None or d.stride(2) == 1 else d.contiguous() for d in (d_hidden, d_summary)
        )
        self.d_memory, self.d_keys = torch.zeros_like(record.memory), torch.zeros_like(record.keys)
        self.dh, self.dc, self.dw = (torch.zeros_like(record.c) for _ in range(3))
        self.d_ih, self.d_hh, self.d_W2 = (
            torch.zeros_like(w, dtype=torch.float32) for w in (p.weight_ih, p.weight_hh, p.W2)
        )
        self.d_bias = torch.zeros_like(p.bias_ih)
        self.d_x = torch.empty_like(x) if of_x else None
        for start, end in reversed(call.stretches()):
            self.stretch(start, end)

    def stretch(self, start: int, end: int) -> None:
        """Goes back over the steps from `end` - 1 to `start`."""
        record, p = self.record, self.p
        before, x = record.hidden[start:end], self.x[:, start:end]
        gates = gate_sums(x, p, before)
        asks = self.call.rule.scoring != "separable"
        o = gates[..., 3 * self.call.H :]
        query = torch.sigmoid(o).mul_(torch.tanh(record.cells[start + 1 : end + 1]))
        q = query @ p.W2.float().T if asks else query
        d_gates, dq = torch.empty_like(gates), torch.empty_like(query)
        self.launch(start, end, gates, q, d_gates, dq)
        d_sums = d_gates.flatten(0, 1)
        self.d_hh.addmm_(d_sums.T, before.flatten(0, 1))
        self.d_ih.addmm_(d_sums.T, x.transpose(0, 1).reshape(len(d_sums), -1).float())
        self.d_bias += d_sums.sum(dim=0)
        if asks:
            self.d_W2.addmm_(dq.flatten(0, 1).T, query.flatten(0, 1))
        if self.d_x is not None:
            self.d_x[:, start:end] = (d_gates @ p.weight_ih.float()).transpose(0, 1)

    def launch(
        self, start: int, end: int, gates: Tensor, q: Tensor, d_gates: Tensor, dq: Tensor
    ) -> None:
        call, record, p = self.call, self.record, self.p
        given = [d if d is not None else record.c for d in (self.of_hidden, self.of_summary)]
        strides = [stride for d in given for stride in d.stride()[:2]]
        backward_kernel[(call.B,)](
            *given, gates, record.cells, q, record.weights, record.rows, record.divisors,
            record.memory, record.keys, self.d_memory, self.d_keys, d_gates, dq,
            self.dh, self.dc, self.dw, p.weight_hh, p.W1, p.W2, p.w3,
            start, end, **call.numbers(), **call.cuts(),
            **dict(zip(("hidden_b", "hidden_t", "summary_b", "summary_t"), strides, strict=True)),
            scale=call.scale, OF_HIDDEN=self.of_hidden is not None,
            OF_SUMMARY=self.of_summary is not None, **call.shape(),
        )  # fmt: skip

    def gradients(self) -> tuple[Tensor | None, ...]:
        """dL/d of x and of the parameters in their order, in float32."""
        M0, scoring = self.call.M0, self.call.rule.scoring
        made = self.record.memory[:, M0:].flatten(0, 1)
        d_W1 = self.d_keys[:, M0:].flatten(0, 1).T @ made
        d_W2 = self.d_W2 if scoring != "separable" else None
        d_w3 = self.dw.sum(dim=0) if scoring != "dot" else None
        return self.d_x, self.d_ih, self.d_hh, self.d_bias, self.d_bias.clone(), d_W1, d_W2, d_w3


def run(call: Call, x: Tensor, state: State, p: Parameters) -> tuple[Tensor, Tensor, State]:
    """h and s, each (B, T, H), and the state after, detached; recorded if anybody learns."""
    inputs = (x, *(getattr(p, name) for name in NAMES))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        found = _Sab.apply(call, state, *inputs)  # type: ignore[no-untyped-call]
    else:
        with torch.no_grad():
            found = outputs(_record(call, x, rounded(p, call.dtype), state, keep=False))
    hidden, summary, h, c, memory, keys = found
    after = replace(
        state,
        h=h.detach().to(state.h.dtype),
        c=c.detach().to(state.c.dtype),
        memory=memory.detach().to(state.memory.dtype),
        keys=keys.detach().to(state.keys.dtype),
        step=state.step + call.T,
    )
    return hidden, summary, after


def outputs(record: Record) -> tuple[Tensor, ...]:
    """h and s as the call's dtype has them, (B, T, H), and the state after."""
    hidden = record.hidden[1:].transpose(0, 1).to(record.summary.dtype)
    h = record.hidden[-1].clone()
    return hidden, record.summary.transpose(0, 1), h, record.c, record.memory, record.keys


def _record(call: Call, x: Tensor, p: Parameters, state: State, *, keep: bool) -> Record:
    with torch.autocast(x.device.type, enabled=False), torch.cuda.device_of(x):
        return forward(call, x.to(call.dtype), p, state, keep=keep)


class _Sab(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, state: State, *inputs: Tensor) -> tuple[Tensor, ...]:
        x, *weights = inputs
        p = rounded(Parameters(**dict(zip(NAMES, weights, strict=True))), call.dtype)
        record = _record(call, x, p, state, keep=True)
        ctx.call, ctx.dtypes = call, [tensor.dtype for tensor in inputs]
        ctx.save_for_backward(x, *(getattr(p, name) for name in NAMES), *record)
        found = outputs(record)
        ctx.mark_non_differentiable(*found[2:])
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        x, *weights = (next(saved) for _ in range(len(NAMES) + 1))
        p = Parameters(**dict(zip(NAMES, weights, strict=True)))
        of_x = ctx.needs_input_grad[2]
        with torch.autocast(x.device.type, enabled=False), torch.cuda.device_of(x):
            x = x.to(ctx.call.dtype)
            back = Backward(ctx.call, x, p, Record(*saved), *gradients[:2], of_x=of_x)
            found = zip(back.gradients(), ctx.dtypes, strict=True)
            return (None, None, *(d if d is None else d.to(dtype) for d, dtype in found))
