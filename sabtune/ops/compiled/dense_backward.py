"""The backward pass of the LSTM with full self-attention: from the last step to the first.

The legend is that of `kernel_dense_forward`. Credit for a memory gathers in `d_memory` and `d_keys`
as the steps that recalled it go by; when the pass comes to the step that made it, all of it is
there. To `d_memory` it goes for BLOCK steps at once, which is one product instead of as many ways
through it; what the block's own steps owe each other is added as it is needed. tanh is made again
from keys and queries, so that nothing of M numbers for a unit and a step is kept.

What the gradients of the weights are products of is left behind: dL/d of the gates' sums in the
place of the gates, of the queries in theirs, and d_keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sabtune.ops.compiled.cell import of_cell
from sabtune.ops.compiled.common import (
    Array,
    Flags,
    Scratch,
    Shape,
    Whole,
    add,
    copy,
    fetch,
    filled,
    kernel,
)
from sabtune.ops.compiled.dense_forward import TILE, exponentials
from sabtune.ops.compiled.dense_score import (
    QUAD,
    inner,
    products,
    recall,
    tame_denominator,
    wide_denominator,
)
from sabtune.ops.compiled.product import ROWS, outer, padded, product
from sabtune.ops.compiled.score import SATURATED, SATURATED_FLOAT
from sabtune.ops.compiled.simd import (
    LANES,
    F,
    Number,
    at_most,
    called,
    compiled,
    lanes_of,
    load,
    spread,
    store,
    total,
)

BLOCK = 16  # steps whose credit for memories is added up at once


def make_score_backward(denominator: F) -> Callable[..., None]:
    """`credit` from keys and queries of one kind."""

    @called
    def credit(
        M: int, da: Array, keys: Array, first: int, query: Array, q: int, w: Array, d: Array,
        at: int, d_w3: Array, d_keys: Array,
    ) -> None:  # fmt: skip
        """What a step's scores give back, from dL/da.

        Adds to d_w3, and to d_keys what dL/dk is but for its factor 4 w3; leaves dL/dq in d. tanh
        is 1 - 2z, its slope 4(z - z²), with z = 1 / (1 + e^{2(k+q)}); Σ da is zero.
        """
        number = w.dtype.type
        one = lanes_of(number(1))
        zero = one - one
        most = lanes_of(number(SATURATED_FLOAT if w.itemsize == 4 else SATURATED))
        H = w.shape[0]
        fours = H // (4 * LANES) * 4 * LANES
        for j0 in range(0, fours, 4 * LANES):
            j1, j2, j3 = j0 + LANES, j0 + 2 * LANES, j0 + 3 * LANES
            q0, q1 = load(query, q + j0), load(query, q + j1)
            q2, q3 = load(query, q + j2), load(query, q + j3)
            a0, a1, a2, a3 = zero, zero, zero, zero  # Σ da z
            d0, d1, d2, d3 = zero, zero, zero, zero  # Σ da (z - z²)
            for i in range(M):
                by = spread(da, i)
                k0 = first + i * H + j0
                k1, k2, k3 = k0 + LANES, k0 + 2 * LANES, k0 + 3 * LANES
                x0 = at_most(most, denominator(keys, k0, q0))
                x1 = at_most(most, denominator(keys, k1, q1))
                x2 = at_most(most, denominator(keys, k2, q2))
                x3 = at_most(most, denominator(keys, k3, q3))
                x01 = x0 * x1
                x23 = x2 * x3
                all_ = one / (x01 * x23)
                y01 = all_ * x23
                y23 = all_ * x01
                z0, z1, z2, z3 = y01 * x1, y01 * x0, y23 * x3, y23 * x2
                u0, u1, u2, u3 = by * z0, by * z1, by * z2, by * z3
                a0, a1, a2, a3 = a0 + u0, a1 + u1, a2 + u2, a3 + u3
                v0, v1, v2, v3 = u0 - u0 * z0, u1 - u1 * z1, u2 - u2 * z2, u3 - u3 * z3
                d0, d1, d2, d3 = d0 + v0, d1 + v1, d2 + v2, d3 + v3
                store(d_keys, k0, load(d_keys, k0) + v0)
                store(d_keys, k1, load(d_keys, k1) + v1)
                store(d_keys, k2, load(d_keys, k2) + v2)
                store(d_keys, k3, load(d_keys, k3) + v3)
            of_units(a0, d0, w, j0, d, at, d_w3)
            of_units(a1, d1, w, j1, d, at, d_w3)
            of_units(a2, d2, w, j2, d, at, d_w3)
            of_units(a3, d3, w, j3, d, at, d_w3)
        for j in range(fours, H, LANES):
            q0 = load(query, q + j)
            a0, d0 = zero, zero
            for i in range(M):
                k0 = first + i * H + j
                z0 = one / at_most(most, denominator(keys, k0, q0))
                u0 = spread(da, i) * z0
                a0 = a0 + u0
                v0 = u0 - u0 * z0
                d0 = d0 + v0
                store(d_keys, k0, load(d_keys, k0) + v0)
            of_units(a0, d0, w, j, d, at, d_w3)

    return credit


@compiled
def of_units(a: Any, d: Any, w: Array, j: int, d_q: Array, at: int, d_w3: Array) -> None:
    """dL/dw3 = -2 Σ da z and dL/dq = 4 w3 Σ da (z - z²), for LANES units."""
    store(d_w3, j, load(d_w3, j) - (a + a))
    v = load(w, j) * d
    store(d_q, at + j, lanes_of(w.dtype.type(0)) - (v + v))


credit_tame, credit_wide = (
    make_score_backward(tame_denominator),
    make_score_backward(wide_denominator),
)


@compiled
def of_softmax(M: int, p: Array, at: int, mean: Number, da: Array) -> None:
    """da from dL/dp, in its place; `mean` is Σ p dL/dp."""
    by = lanes_of(mean)
    for i in range(0, M, LANES):
        store(da, i, load(p, at + i) * (load(da, i) - by))


@compiled
def for_next(
    at: int, H: int, gates: Array, cells: Array, queries: Array, summary: Array, d_hidden: Array,
    d_summary: Array,
) -> None:  # fmt: skip
    """Asks for what the next step back will read of an example."""
    fetch(gates, 4 * at, 4 * H)
    fetch(cells, at - H, H)
    fetch(queries, at, H)
    fetch(summary, at, H)
    fetch(d_hidden, at, H)
    fetch(d_summary, at, H)


def scratch(examples: int, H: int, memories: int, real: Any) -> list[Shape]:
    """The arrays that a call works in, for so many examples and up to so many memories."""
    rows = min(TILE, -(-examples // ROWS) * ROWS)
    # one vector longer than need be: rows at a power of two would share cache lines
    return [
        ((rows, H + LANES), real),  # dh
        ((rows, H), real),  # dc
        ((rows, 4 * H + LANES), real),  # S: dL/d of the gates' sums
        ((rows, H + LANES), real),  # dk: of a key
        ((rows, H + LANES), real),  # dq: of a query
        ((H,), real),  # e: e^{2q}
        ((memories + LANES,), real),  # da
        ((rows, BLOCK, H), real),  # ds: of a block's steps
        ((rows, BLOCK, filled(memories)), real),  # p: likewise
        ((rows, filled(memories), H), real),  # d_memory
        ((QUAD, LANES), real),  # quads
    ]


@kernel
def backward(
    low: int,
    high: int,
    M0: int,
    d_hidden: Array,
    d_summary: Array,
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
    W_hh: Array,
    W1: Array,
    W2: Array,
    w: Array,
    d_keys: Array,
    d_bias: Array,
    d_w3: Array,
    scratch: Scratch,
) -> None:
    """d_hidden, d_summary (B, T, H); c (B, H): before the first step.

    The weights are transposed before they are packed. d_keys: as keys are; what goes to memories
    from before the call is not read. d_bias (G,) and d_w3 (H,) are sums over this call's examples.
    scratch: as `scratch` has it.
    """
    T, H = d_hidden.shape[1:]
    G = 4 * H
    front, across, S_row = 0, H + LANES, G + LANES
    capacity = memory.shape[1]
    number = w.dtype.type
    zero = number(0)
    dh, dc, S, dk, dq, e, da, ds, p, d_memory, quads = scratch
    span = p.shape[2]
    for array in (S, dk, dq):  # rows that no example fills
        array[:] = zero
    d_bias[:] = zero
    d_w3[:] = zero
    for first in range(low, high, TILE):
        B = min(TILE, high - first)
        rows = padded(B)
        dh[:] = zero
        dc[:] = zero
        d_memory[:] = zero
        d_keys[first : first + B] = zero
        for t in range(T - 1, -1, -1):
            M = M0 + t
            k = t % BLOCK
            later = min(BLOCK - k, T - t) - 1  # steps of the block
            for r in range(B):
                b = first + r
                row, at = r * across, (b * capacity + M) * H
                now = (b * T + t) * H
                for_next(now - H, H, gates, cells, queries, summary, d_hidden, d_summary)
                add(dh, row, number(1), d_hidden, now, H)
                add(dh, row, number(1), d_memory, (r * span + M) * H, H)
                then = r * BLOCK + k + 1
                recall(later, p, then * span + M, span, ds, then * H, H, dh, row)
                for j in range(0, H, LANES):
                    v = load(w, j) * load(d_keys, at + j)
                    v = lanes_of(zero) - (v + v)
                    store(d_keys, at + j, v)
                    store(dk, row + j, v)
            product(rows, dk, front, across, H, W1, H, dh, front, across)
            for r in range(B):
                b = first + r
                row, now = r * across, (b * T + t) * H
                step = r * BLOCK + k
                of_s = step * H
                copy(ds, of_s, dh, row, H)
                add(ds, of_s, number(1), d_summary, now, H)
                if M > 0:
                    at, memories = b * weights.shape[1] + starts[t], b * capacity * H
                    copy(p, step * span, weights, at, M)
                    products(M, memory, memories, ds, of_s, w, zero, quads, da, 0)
                    of_softmax(M, weights, at, total(inner(ds, of_s, summary, now, w)), da)
                    if wide[b]:
                        credit_wide(
                            M, da, raw, memories, queries, now, w, dq, row, d_w3, d_keys
                        )  # fmt: skip
                    else:
                        exponentials(queries, now, H, e, 0)
                        credit_tame(
                            M, da, keys, memories, e, 0, w, dq, row, d_w3, d_keys
                        )  # fmt: skip
                else:
                    dq[r] = zero
                copy(queries, now, dq, row, H)
                if k == 0:
                    outer(
                        later + 1, p[r], span, padded(M), ds, of_s, H, H, d_memory, r * span * H, H
                    )
            product(rows, dq, front, across, H, W2, H, dh, front, across)
            for r in range(B):
                b = first + r
                now, to = b * T + t, r * S_row
                if t > 0:
                    of_cell(
                        dh, r * across, dc, r * H, cells, now * H, cells, (now - 1) * H,
                        gates, now * G, H, S, to,
                    )  # fmt: skip
                else:
                    of_cell(
                        dh, r * across, dc, r * H, cells, now * H, c, b * H,
                        gates, now * G, H, S, to,
                    )  # fmt: skip
                copy(gates, now * G, S, to, G)
                add(d_bias, 0, number(1), S, to, G)
            dh[:] = zero
            product(rows, S, front, S_row, G, W_hh, H, dh, front, across)
