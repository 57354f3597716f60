"""The forward pass of SAB for a range of the batch, compiled: one call runs every step.

`sabtune.ops.compiled.common` has the legend. TILE examples go through the whole sequence together,
so that what they work on stays in the processor's own cache; no thread waits for another.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sabtune.ops.compiled.cell import cell
from sabtune.ops.compiled.common import (
    DOT,
    REACH,
    SEPARABLE,
    TILE,
    Array,
    Flags,
    Scratch,
    Shape,
    Whole,
    copy,
    fetch,
    filled,
    furthest,
    kernel,
    widen,
)
from sabtune.ops.compiled.product import ROWS, padded, product
from sabtune.ops.compiled.score import rise, rise_of_products, weigh, wide_score
from sabtune.ops.compiled.simd import (
    LANES,
    Number,
    at_least,
    at_most,
    compiled,
    exp,
    lanes_of,
    load,
    store,
)
from sabtune.ops.compiled.top_k import (
    FEW,
    PAUSE,
    choose_dot,
    choose_tame,
    choose_wide,
    offer,
    recall,
)


@compiled
def add_input(S: Array, at: int, G: int, factor: Number, W_ih: Array, j: int, inputs: int) -> None:
    """Adds to the gates' sums what one input gives."""
    by = lanes_of(factor)
    for n in range(0, G, LANES):
        store(S, at + n, load(S, at + n) + by * load(W_ih, n * inputs + j * LANES))


def scratch(
    examples: int, H: int, inputs: int, O: int, capacity: int, k_top: int, real: Any
) -> list[Shape]:
    """The arrays that a call works in, for so many examples and O outputs, filled up."""
    rows, most = min(TILE, -(-examples // ROWS) * ROWS), min(k_top + 1, capacity)
    # one vector longer than need be: rows at a power of two would share cache lines
    return [
        ((rows, 2 * H + LANES), real),  # carried: s_t, h_t
        ((rows, inputs), real),  # X: x_t
        ((rows, H), real),  # states: h'_t
        ((rows, O), real),  # y
        ((rows, H), real),  # q: W2 h'_t
        ((rows, H), real),  # q0: of the step before
        ((rows, H), real),  # e0: e^{2 q0}
        ((H,), real),  # e: e^{2q}
        ((rows, 4 * H), real),  # S: the gates' sums
        ((rows, H), real),  # lowest: of the keys
        ((rows, H), real),  # highest
        ((rows, filled(capacity)), real),  # bound: of the scores
        ((rows, most), real),  # top: the highest scores, where they are the memories' own
        ((rows,), np.float64),  # drift: of the bounds
        ((rows,), np.int64),  # pause: steps to go without bounds
        ((rows, most), np.int32),  # which: whose `top` are
    ]


@kernel
def forward(
    low: int,
    high: int,
    scoring: int,
    softmax: bool,
    step: int,
    k_top: int,
    k_att: int,
    epsilon: Number,
    keep: bool,
    sparse: bool,
    x: Array,
    gates: Array,
    h: Array,
    c: Array,
    hidden: Array,
    summary: Array,
    logits: Array,
    cells: Array,
    queries: Array,
    M0: int,
    memory: Array,
    keys: Array,
    wide: Flags,
    chosen: Whole,
    weights: Array,
    sums: Array,
    starts: Whole,
    W_ih: Array,
    W_hh: Array,
    bias: Array,
    W1: Array,
    W2: Array,
    w3: Array,
    V: Array,
    b_out: Array,
    scratch: Scratch,
) -> None:
    """x (B, T, I); h, c (B, H): the state before and, then, after. `step` were taken before.

    Of W_ih (I, G), W_hh (H, G) and bias (G,) the cell's gate is doubled. V (2H, O filled up): V2
    above V1; without a readout O is 0. `keep`: leave behind what the backward pass needs;
    otherwise hidden, summary, gates, cells, queries and sums may have no steps and are then not
    touched, and chosen and weights hold one step only. `sparse`: of x, which is mostly zeros, only
    the other numbers are looked at. scratch: as `scratch` has it.
    """
    everyone, T, inputs = x.shape
    H = h.shape[1]
    G = 4 * H
    O = logits.shape[2]
    shown = hidden.shape[0] > 0
    front, at_h = 0, H  # in a row of `carried`
    number = w3.dtype.type
    zero = number(0)
    capacity = keys.shape[1]
    most = min(k_top + 1, capacity)
    carried, X, states, y, q, q0, e0, e, S, lowest, highest, bound, top, drift, pause, which = (
        scratch
    )
    across, span = carried.shape[1], bound.shape[1]
    carried[:] = zero
    X[:] = zero
    states[:] = zero
    e[:] = zero
    all_w3 = zero
    size = zero  # no score of w3 · tanh is further from 0
    for j in range(H):
        all_w3 += w3[j]
        size += abs(w3[j])
    chosen_flat = chosen.reshape(-1)
    weights_flat = weights.reshape(-1)
    bounds = bound.reshape(-1)
    top_flat = top.reshape(-1)
    which_flat = which.reshape(-1)
    for first in range(low, high, TILE):
        B = min(TILE, high - first)
        rows = padded(B)
        bound[:] = number(-np.inf)
        bound[:, :M0] = number(np.inf)
        drift[:] = 0.0
        pause[:] = 0
        for r in range(B):
            copy(carried, r * across + at_h, h, (first + r) * H, H)
            at = (first + r) * capacity * H
            copy(lowest, r * H, keys, at, H)
            copy(highest, r * H, keys, at, H)
            for i in range(1, M0):
                for j in range(0, H, LANES):
                    v = load(keys, at + i * H + j)
                    store(lowest, r * H + j, at_most(v, load(lowest, r * H + j)))
                    store(highest, r * H + j, at_least(v, load(highest, r * H + j)))
            if scoring == SEPARABLE:
                for m in range(M0):
                    a = wide_score(keys, at + m * H, e, 0, w3, all_w3)
                    offer(a, m, min(m, most), most, top_flat, which_flat, r * most)
        known = 0
        for t in range(T):
            M = M0 + (step + t) // k_att - step // k_att
            K = min(k_top + 1, M)
            for r in range(rows):
                copy(S, r * G, bias, 0, G)
            for r in range(B):
                for j in range(inputs):
                    number_in = x[first + r, t, j]
                    if not sparse:
                        X[r, j] = number_in
                    elif number_in != 0:
                        add_input(S, r * G, G, number_in, W_ih, j, inputs)
            if not sparse:
                product(rows, X, front, inputs, inputs, W_ih, G, S, front, G)
            product(rows, carried, at_h, across, H, W_hh, G, S, front, G)
            for r in range(B):
                b = first + r
                now = t * everyone + b
                cell(S, r * G, c, b * H, H, keep, gates, now * G, states, r * H)
                if keep:
                    copy(cells, now * H, c, b * H, H)
            if scoring != SEPARABLE:
                q[:rows] = zero
                product(rows, states, front, H, H, W2, H, q, front, H)
            for r in range(B):
                b = first + r
                now = t * everyone + b
                if keep:  # what the next step will write
                    fetch(gates, (now + everyone) * G, G)
                    fetch(cells, (now + everyone) * H, H)
                if keep and scoring != SEPARABLE:
                    copy(queries, now * H, q, r * H, H)
                at = b * chosen.shape[1]
                if keep:
                    at += starts[t]
                if scoring == SEPARABLE:
                    for i in range(K):
                        weights_flat[at + i] = top[r, i]
                        chosen_flat[at + i] = which[r, i]
                else:
                    before = at - known if keep else at
                    if not wide[b] and furthest(q, r * H, H) > REACH:
                        wide[b] = True
                        widen(keys, b * capacity * H, M * H)
                    tame = scoring != DOT and not wide[b]
                    for j in range(0, H, LANES):
                        v = load(q, r * H + j)
                        store(e, j, exp(v + v) if tame else v)
                    bounded = M > FEW * K and (tame or scoring == DOT) and t > 0 and pause[r] == 0
                    far = size  # no score of this example is further from 0
                    if bounded:
                        if scoring == DOT:
                            more, far = rise_of_products(lowest, highest, r * H, q, q0, H)
                            drift[r] += more
                        else:
                            drift[r] += rise(lowest, highest, r * H, e, q, e0, q0, w3)
                    # NaN and Inf bound nothing
                    if not (bounded and abs(drift[r]) <= 4 * far and far < np.inf):
                        bound[r, :M] = number(np.inf)
                        drift[r] = 0.0
                        far = zero
                    # nearer, two scores differ by rounding alone
                    tie = number(4) * np.finfo(w3.dtype).eps * far
                    if tame:
                        scored = choose_tame(
                            K, M, known, before, keys, b * capacity * H, e, w3, all_w3,
                            bounds, r * span, drift[r], tie, chosen_flat, weights_flat, at,
                        )  # fmt: skip
                    elif scoring == DOT:
                        scored = choose_dot(
                            K, M, known, before, keys, b * capacity * H, e, w3, all_w3,
                            bounds, r * span, drift[r], tie, chosen_flat, weights_flat, at,
                        )  # fmt: skip
                    else:
                        scored = choose_wide(
                            K, M, known, before, keys, b * capacity * H, e, w3, all_w3,
                            bounds, r * span, drift[r], tie, chosen_flat, weights_flat, at,
                        )  # fmt: skip
                    if bounded and 2 * scored > M:
                        pause[r] = PAUSE
                    elif pause[r] > 0:
                        pause[r] -= 1
                    copy(q0, r * H, q, r * H, H)
                    copy(e0, r * H, e, 0, H)
                divisor = weigh(K, softmax, epsilon, weights_flat, at)
                if keep:
                    sums[b, t] = divisor
                row = r * across
                recall(K, chosen_flat, weights_flat, at, memory, b * capacity * H, H, carried, row)
                for j in range(0, H, LANES):
                    v = load(carried, row + j)
                    store(carried, row + at_h + j, load(states, r * H + j) + v)
                if shown:
                    copy(summary, now * H, carried, row, H)
                    copy(hidden, now * H, carried, row + at_h, H)
            known = K
            if O > 0:
                for r in range(rows):
                    copy(y, r * O, b_out, 0, O)
                product(rows, carried, front, across, 2 * H, V, O, y, front, O)
                for r in range(B):
                    copy(logits, ((first + r) * T + t) * O, y, r * O, O)
            if (step + t + 1) % k_att == 0:
                q[:rows] = zero
                product(rows, carried, at_h, across, H, W1, H, q, front, H)
                for r in range(B):
                    b = first + r
                    at = (b * capacity + M) * H
                    copy(memory, at, carried, r * across + at_h, H)
                    bound[r, M] = number(np.inf)
                    if not wide[b] and furthest(q, r * H, H) > REACH:
                        wide[b] = True
                        widen(keys, b * capacity * H, M * H)
                    for j in range(0, H, LANES):
                        v = load(q, r * H + j)
                        v = v if wide[b] else exp(v + v)
                        store(keys, at + j, v)
                        store(lowest, r * H + j, at_most(v, load(lowest, r * H + j)))
                        store(highest, r * H + j, at_least(v, load(highest, r * H + j)))
                    if scoring == SEPARABLE:
                        a = wide_score(keys, at, e, 0, w3, all_w3)
                        offer(a, M, min(M, most), most, top_flat, which_flat, r * most)
        for r in range(B):
            copy(h, (first + r) * H, carried, r * across + at_h, H)
