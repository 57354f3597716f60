"""The forward pass of SAB for a range of the batch, compiled: one call runs every step.

The examples `low` … `high` are taken TILE at a time through the whole sequence, so that what a tile
works on stays in the processor's own cache while the products with the weights share their loads.

B batch, T steps, H hidden (a multiple of LANES: the caller pads with zeros, and a zero stays zero),
M memories, K kept = min(k_top + 1, M): the scores above θ and θ itself.

    gates    (B, S, 4H)  in: x_t's part of the S steps from `begin` on; out: σ of input, forget,
                         cell and output gate. The cell's comes doubled: tanh(x) = 2σ(2x) - 1
    hidden, summary, cells, queries (B, T, H)   h_t, s_t, c_t and W2 h'_t
    old      (B, M0, H)  the memories that were there before step 0 of this call; those made since
                         are the rows of `hidden` where they were made
    keys     (B, M, H)   e^{2 W1 m}, or W1 m itself in the examples that are `wide`
    chosen, weights      the K memories of every step and their p_i, θ's own first, rows packed one
                         step behind the other from `starts` on; sums (B, T): Σ w + 1e-7
    W_hh, W1, W2         as `fused.packed` lays them out

tanh(k + q) = 1 - 2 / (1 + e^{2k}·e^{2q}), with e^{2k} made once for a memory: a score takes a
multiplication and a division for each unit, and two units share the division. An example in which
some |k| or |q| passes REACH would overflow; it turns `wide`: exact, at a third of the speed.
"""

from __future__ import annotations

import math
from typing import cast

import numba
import numpy as np
from numpy.typing import NDArray

from sabtune.ops.kernel_simd import (
    LANES,
    F,
    Number,
    at_least,
    at_most,
    compiled,
    exp,
    lanes_of,
    largest,
    load,
    spread,
    store,
    total,
)

TILE = 32
ROWS = 4  # of a product at once: 4 × 16 sums fill AVX2's registers
DEPTH = 128  # of a product at once: its 128 × 16 weights stay in the first-level cache
REACH = 21.5  # e^{2·21.5} squared is 5e37, still a float32
SATURATED = 1e18  # 1 + x and the product of two of them: finite, and 1 - 2/x is 1
EPSILON = 1e-7

Array = NDArray[np.floating]
Whole = NDArray[np.integer]


def kernel(function: F) -> F:
    """A function that Python calls: compiled for a dtype, kept on disk, run without the GIL."""
    return cast(F, numba.njit(error_model="numpy", nogil=True, cache=True)(function))


@compiled
def padded(rows: int) -> int:
    return (rows + ROWS - 1) // ROWS * ROWS


@compiled
def product(rows: int, a: Array, depth: int, w: Array, width: int, c: Array) -> None:
    """c += a @ w for `rows` rows, a multiple of ROWS: c (rows, width), a (rows, depth)."""
    for k0 in range(0, depth, DEPTH):
        k1 = min(k0 + DEPTH, depth)
        for n in range(0, width, LANES):
            for r in range(0, rows, ROWS):
                at = r * width + n
                c0 = load(c, at)
                c1 = load(c, at + width)
                c2 = load(c, at + 2 * width)
                c3 = load(c, at + 3 * width)
                a0 = r * depth
                a1 = a0 + depth
                a2 = a1 + depth
                a3 = a2 + depth
                for k in range(k0, k1):
                    wk = load(w, n * depth + k * LANES)
                    c0 = c0 + spread(a, a0 + k) * wk
                    c1 = c1 + spread(a, a1 + k) * wk
                    c2 = c2 + spread(a, a2 + k) * wk
                    c3 = c3 + spread(a, a3 + k) * wk
                store(c, at, c0)
                store(c, at + width, c1)
                store(c, at + 2 * width, c2)
                store(c, at + 3 * width, c3)


@compiled
def copy(target: Array, at: int, source: Array, start: int, count: int) -> None:
    for j in range(0, count, LANES):
        store(target, at + j, load(source, start + j))


@compiled
def add(target: Array, at: int, factor: Number, source: Array, start: int, count: int) -> None:
    by = lanes_of(factor)
    for j in range(0, count, LANES):
        store(target, at + j, load(target, at + j) + by * load(source, start + j))


@compiled
def furthest(a: Array, at: int, count: int) -> Number:
    """The largest |a_j|."""
    most = load(a, at) - load(a, at)
    for j in range(0, count, LANES):
        v = load(a, at + j)
        most = at_least(most, at_least(v, most - most - v))
    return largest(most)


@compiled
def squash(a: Array, count: int) -> None:
    """σ of the first `count` elements."""
    one = lanes_of(a.dtype.type(1))
    zero = lanes_of(a.dtype.type(0))
    for j in range(0, count, LANES):
        store(a, j, one / (one + exp(zero - load(a, j))))


@compiled
def score(key: Array, at: int, query: Array, q: int, w3: Array, H: int, wide: bool) -> Number:
    """Σ w3 / (1 + e^{2(k+q)}), of which a = Σ w3 - 2·score; two units share one division."""
    one = lanes_of(w3.dtype.type(1))
    most = lanes_of(w3.dtype.type(SATURATED))
    sums = one - one
    if wide:
        for j in range(0, H, LANES):
            u = load(key, at + j) + load(query, q + j)
            sums = sums + load(w3, j) / (one + exp(u + u))
        return total(sums)
    half = H // LANES // 2 * LANES
    for j in range(0, half, LANES):
        x = one + at_most(most, load(key, at + j) * load(query, q + j))
        y = one + at_most(most, load(key, at + half + j) * load(query, q + half + j))
        sums = sums + (load(w3, j) * y + load(w3, half + j) * x) / (x * y)
    for j in range(2 * half, H, LANES):
        x = one + at_most(most, load(key, at + j) * load(query, q + j))
        sums = sums + load(w3, j) / x
    return total(sums)


@compiled
def sink(a: Array, which: Whole, at: int, count: int, i: int) -> None:
    """Lets entry i of the heap a[at : at + count], least first, down to its place."""
    value = a[at + i]
    index = which[at + i]
    while True:
        child = 2 * i + 1
        if child >= count:
            break
        if child + 1 < count and a[at + child + 1] < a[at + child]:
            child += 1
        if not a[at + child] < value:
            break
        a[at + i] = a[at + child]
        which[at + i] = which[at + child]
        i = child
    a[at + i] = value
    which[at + i] = index


@compiled
def made_at(j: int, step: int, k_att: int) -> int:
    """The step of this call, from 0, whose h_t became its j-th memory."""
    return (step // k_att + 1 + j) * k_att - step - 1


@compiled
def widen(keys: Array, at: int, count: int) -> None:
    """e^{2k} -> k."""
    for j in range(at, at + count):
        keys[j] = 0.5 * math.log(keys[j])


@kernel
def forward(
    low: int,
    high: int,
    begin: int,
    end: int,
    step: int,
    k_top: int,
    k_att: int,
    keep: bool,
    gates: Array,
    h: Array,
    c: Array,
    hidden: Array,
    summary: Array,
    cells: Array,
    queries: Array,
    old: Array,
    keys: Array,
    wide: NDArray[np.bool_],
    chosen: Whole,
    weights: Array,
    sums: Array,
    starts: Whole,
    W_hh: Array,
    W1: Array,
    W2: Array,
    w3: Array,
) -> None:
    """Steps `begin` … `end` of a call; h, c (B, H) are the state before and, then, after them.

    `step` were taken before the call. `keep`: leave behind what the backward pass needs; otherwise
    cells, queries and sums are not touched, and chosen and weights hold one step only.
    """
    T, H = hidden.shape[1], hidden.shape[2]
    G = 4 * H
    number = w3.dtype.type
    one = lanes_of(number(1))
    two = lanes_of(number(2))
    M0, capacity = old.shape[1], keys.shape[1]
    packed = chosen.shape[1]
    rows = padded(min(TILE, high - low))
    a = np.empty(capacity, w3.dtype)
    carried = np.zeros((rows, H), w3.dtype)
    states = np.zeros((rows, H), w3.dtype)
    q = np.empty((rows, H), w3.dtype)
    e = np.empty(H, w3.dtype)
    S = np.zeros((rows, G), w3.dtype)
    all_w3 = number(0)
    for j in range(H):
        all_w3 += w3[j]
    # flat views: one offset addresses all
    flat_keys = keys.reshape(-1)
    flat_chosen = chosen.reshape(-1)
    flat_weights = weights.reshape(-1)
    for first in range(low, high, TILE):
        B = min(TILE, high - first)
        rows = padded(B)
        for r in range(B):
            copy(carried, r * H, h, (first + r) * H, H)
        for t in range(begin, end):
            M = M0 + (step + t) // k_att - step // k_att
            K = min(k_top + 1, M)
            for r in range(B):
                row = ((first + r) * gates.shape[1] + t - begin) * G
                copy(S, r * G, gates, row, G)
            product(rows, carried, H, W_hh, G, S)
            squash(S, rows * G)
            for r in range(B):
                b = first + r
                at = r * G
                for j in range(0, H, LANES):
                    i = load(S, at + j)
                    f = load(S, at + H + j)
                    g = two * load(S, at + 2 * H + j) - one
                    o = load(S, at + 3 * H + j)
                    v = f * load(c, b * H + j) + i * g
                    store(c, b * H + j, v)
                    store(states, r * H + j, o * (one - two / (one + exp(v + v))))
                if keep:
                    copy(gates, (b * gates.shape[1] + t - begin) * G, S, at, G)
                    copy(cells, (b * T + t) * H, c, b * H, H)
            q[:rows] = number(0)
            product(rows, states, H, W2, H, q)
            for r in range(B):
                b = first + r
                now = (b * T + t) * H
                if keep:
                    copy(queries, now, q, r * H, H)
                if not wide[b] and furthest(q, r * H, H) > REACH:
                    wide[b] = True
                    widen(flat_keys, b * capacity * H, M * H)
                for j in range(0, H, LANES):
                    v = load(q, r * H + j)
                    store(e, j, v if wide[b] else exp(v + v))
                for i in range(M):
                    half = score(keys, (b * capacity + i) * H, e, 0, w3, H, wide[b])
                    a[i] = all_w3 - half - half
                at = b * packed + (starts[t] if keep else 0)
                for i in range(K):
                    flat_weights[at + i] = a[i]
                    flat_chosen[at + i] = i
                for i in range(K // 2 - 1, -1, -1):
                    sink(flat_weights, flat_chosen, at, K, i)
                for i in range(K, M):
                    if a[i] > flat_weights[at]:
                        flat_weights[at] = a[i]
                        flat_chosen[at] = i
                        sink(flat_weights, flat_chosen, at, K, 0)
                theta = flat_weights[at]
                w = number(EPSILON)
                for i in range(K):
                    flat_weights[at + i] -= theta
                    w += flat_weights[at + i]
                if keep:
                    sums[b, t] = w
                for j in range(0, H, LANES):
                    store(summary, now + j, one - one)
                for i in range(K):
                    p = flat_weights[at + i] / w
                    flat_weights[at + i] = p
                    if p != 0:
                        j = flat_chosen[at + i]
                        if j < M0:
                            add(summary, now, p, old, (b * M0 + j) * H, H)
                        else:
                            j = made_at(j - M0, step, k_att)
                            add(summary, now, p, hidden, (b * T + j) * H, H)
                for j in range(0, H, LANES):
                    v = load(states, r * H + j) + load(summary, now + j)
                    store(carried, r * H + j, v)
                    store(hidden, now + j, v)
            if (step + t + 1) % k_att == 0:
                q[:rows] = number(0)
                product(rows, carried, H, W1, H, q)
                for r in range(B):
                    b = first + r
                    at = (b * capacity + M) * H
                    if not wide[b] and furthest(q, r * H, H) > REACH:
                        wide[b] = True
                        widen(flat_keys, b * capacity * H, M * H)
                    for j in range(0, H, LANES):
                        v = load(q, r * H + j)
                        store(keys, at + j, v if wide[b] else exp(v + v))
        for r in range(B):
            copy(h, (first + r) * H, carried, r * H, H)
