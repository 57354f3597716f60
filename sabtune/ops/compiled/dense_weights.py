"""The gradients of the weights, from what the backward pass of full self-attention left behind.

The legend is that of `kernel_dense_forward`. Each is a sum of outer products over all steps; some
steps of one example at a time, so that they are in the cache however long the sequence.
"""

from __future__ import annotations

from typing import Any

from sabtune.ops.compiled.common import Array, Scratch, Shape, copy, kernel
from sabtune.ops.compiled.product import outer
from sabtune.ops.compiled.simd import LANES, load, store

STEPS = 128  # of an example at once


def scratch(H: int, real: Any) -> list[Shape]:
    """The arrays that a call works in."""
    return [
        ((STEPS, H), real),  # before: h_{t-1}
        ((STEPS, H), real),  # states: h'_t
    ]


@kernel
def of_weights(
    low: int,
    high: int,
    M0: int,
    x: Array,
    h: Array,
    d_gates: Array,
    d_queries: Array,
    d_keys: Array,
    memory: Array,
    summary: Array,
    d_ih: Array,
    d_hh: Array,
    d_W1: Array,
    d_W2: Array,
    scratch: Scratch,
) -> None:
    """x (B, T, I filled up); h (B, H): before the first step. d_ih (I filled up, G), d_hh (G, H),
    d_W1 and d_W2 (H, H) are sums over this call's examples."""
    _, T, inputs = x.shape
    H = h.shape[1]
    G, front = 4 * H, 0
    capacity = memory.shape[1]
    before, states = scratch
    zero = h.dtype.type(0)
    for array in (d_ih, d_hh, d_W1, d_W2):
        array[:] = zero
    for b in range(low, high):
        for t in range(0, T, STEPS):
            count = min(STEPS, T - t)
            now, at = (b * T + t) * H, (b * capacity + M0 + t) * H
            if t == 0:
                copy(before, 0, h, b * H, H)
                copy(before, H, memory, at, (count - 1) * H)
            else:
                copy(before, 0, memory, at - H, count * H)
            for j in range(0, count * H, LANES):
                store(states, j, load(memory, at + j) - load(summary, now + j))
            of_gates, of_queries = d_gates[b, t : t + count], d_queries[b, t : t + count]
            of_keys = d_keys[b, M0 + t : M0 + t + count]
            outer(count, of_gates, G, G, before, front, H, H, d_hh, front, H)
            outer(count, x[b, t : t + count], inputs, inputs, of_gates, front, G, G,
                  d_ih, front, G)  # fmt: skip
            outer(count, of_queries, H, H, states, front, H, H, d_W2, front, H)
            outer(count, of_keys, H, H, memory, at, H, H, d_W1, front, H)
