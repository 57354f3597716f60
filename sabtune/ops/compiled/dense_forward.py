"""The forward pass of the LSTM with full self-attention, compiled: one call runs every step.

B batch, T steps, I inputs, H hidden (a multiple of LANES: the caller pads with zeros, and a zero
stays zero), G = 4H, M memories: M0 from before the call and one for every step.

    gates    (B, T, G)   σ of input, forget, cell and output gate; the cell's of twice its sum
    cells, queries, summary (B, T, H)   c_t, W2 h'_t and s_t
    memory, raw, keys (B, M0 + T, H)    h_i, W1 h_i and e^{2 W1 h_i}
    weights  (B, …)      p_i of every step, rows of whole vectors from `starts` on
    W_ih, W_hh, W1, W2   as `kernel_layout.Layout.panels` has them
    w        (H,)        -2 w3
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sabtune.ops.compiled.cell import cell
from sabtune.ops.compiled.common import (
    REACH,
    Array,
    Flags,
    Scratch,
    Shape,
    Whole,
    copy,
    fetch,
    furthest,
    kernel,
)
from sabtune.ops.compiled.dense_score import QUAD, recall, softmax, tame_scores, wide_scores
from sabtune.ops.compiled.product import ROWS, padded, product
from sabtune.ops.compiled.simd import LANES, compiled, exp, load, store

TILE = 4  # examples that go through the sequence together: their memories stay in the cache


@compiled
def exponentials(raw: Array, from_: int, count: int, keys: Array, to: int) -> None:
    """e^{2k} of the keys k."""
    for j in range(0, count, LANES):
        v = load(raw, from_ + j)
        store(keys, to + j, exp(v + v))


def scratch(examples: int, H: int, inputs: int, real: Any) -> list[Shape]:
    """The arrays that a call works in, for so many examples."""
    rows = min(TILE, -(-examples // ROWS) * ROWS)
    # one vector longer than need be: rows at a power of two would share cache lines
    return [
        ((rows, inputs), real),  # X: x_t
        ((rows, 4 * H + LANES), real),  # S: the gates' sums
        ((rows, H + LANES), real),  # states: h'_t
        ((rows, H + LANES), real),  # carried: h_t
        ((rows, H + LANES), real),  # q: W2 h'_t, W1 h_t
        ((rows, H + LANES), real),  # s: s_t
        ((H,), real),  # e: e^{2q}
        ((QUAD, LANES), real),  # quads
    ]


@kernel
def forward(
    low: int,
    high: int,
    keep: bool,
    M0: int,
    x: Array,
    h: Array,
    c: Array,
    gates: Array,
    cells: Array,
    queries: Array,
    summary: Array,
    memory: Array,
    raw: Array,
    keys: Array,
    wide: Flags,
    weights: Array,
    starts: Whole,
    W_ih: Array,
    W_hh: Array,
    bias: Array,
    W1: Array,
    W2: Array,
    w: Array,
    scratch: Scratch,
) -> None:
    """x (B, T, I); h, c (B, H): the state before and, then, after.

    memory and raw hold those from before the call; keys are written for all. wide (B,), false at
    first, says which examples are. Of W_ih and bias (G,) the cell's gate is doubled. keep: leave
    behind what the backward pass needs; otherwise gates, cells and queries may have no steps.
    scratch: as `scratch` has it.
    """
    T, inputs = x.shape[1:]
    H = h.shape[1]
    G = 4 * H
    front, across, S_row = 0, H + LANES, G + LANES
    capacity = memory.shape[1]
    number = w.dtype.type
    zero = number(0)
    X, S, states, carried, q, s, e, quads = scratch
    for array in (X, states, carried):  # rows that no example fills
        array[:] = zero
    for first in range(low, high, TILE):
        B = min(TILE, high - first)
        rows = padded(B)
        for r in range(B):
            b = first + r
            copy(carried, r * across, h, b * H, H)
            at = b * capacity * H
            exponentials(raw, at, M0 * H, keys, at)
        for t in range(T):
            M = M0 + t
            for r in range(rows):
                copy(S, r * S_row, bias, 0, G)
            for r in range(B):
                for j in range(inputs):
                    X[r, j] = x[first + r, t, j]
            product(rows, X, front, inputs, inputs, W_ih, G, S, front, S_row)
            product(rows, carried, front, across, H, W_hh, G, S, front, S_row)
            for r in range(B):
                b = first + r
                now = b * T + t
                cell(S, r * S_row, c, b * H, H, keep, gates, now * G, states, r * across)
                if keep:
                    copy(cells, now * H, c, b * H, H)
                    fetch(gates, (now + 1) * G, G)  # what the next step will write
                    fetch(cells, (now + 1) * H, H)
            q[:rows] = zero
            s[:rows] = zero
            product(rows, states, front, across, H, W2, H, q, front, across)
            for r in range(B):
                b = first + r
                now = (b * T + t) * H
                row = r * across
                if keep:
                    copy(queries, now, q, row, H)
                if M > 0:
                    at = b * weights.shape[1] + starts[t]
                    memories = b * capacity * H
                    if furthest(q, row, H) > REACH:
                        wide[b] = True
                    if wide[b]:
                        wide_scores(
                            M, raw, memories, q, row, w, number(-np.inf), quads, weights, at
                        )
                    else:
                        exponentials(q, row, H, e, 0)
                        tame_scores(M, keys, memories, e, 0, w, number(-np.inf), quads, weights, at)
                    softmax(M, weights, at)
                    recall(M, weights, at, 1, memory, memories, H, s, row)
                copy(summary, now, s, row, H)
                for j in range(row, row + H, LANES):
                    store(carried, j, load(states, j) + load(s, j))
            q[:rows] = zero
            product(rows, carried, front, across, H, W1, H, q, front, across)
            for r in range(B):
                b = first + r
                row = r * across
                at = (b * capacity + M) * H
                copy(memory, at, carried, row, H)
                copy(raw, at, q, row, H)
                exponentials(q, row, H, keys, at)
        for r in range(B):
            copy(h, (first + r) * H, carried, r * across, H)
