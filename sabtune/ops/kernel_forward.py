"""The forward pass of SAB for a range of the batch, compiled: one call runs every step.

The legend is that of `sabtune.ops.kernel`. TILE examples go through the whole sequence together, so
that what they work on stays in the processor's own cache; no thread waits for another.
"""

from __future__ import annotations

import numpy as np

from sabtune.ops.kernel import (
    DOT,
    REACH,
    SEGMENT,
    SEPARABLE,
    TILE,
    Array,
    Flags,
    Whole,
    copy,
    furthest,
    kernel,
    widen,
)
from sabtune.ops.kernel_product import padded, product
from sabtune.ops.kernel_recall import (
    FEW,
    PAUSE,
    choose_dot,
    choose_tame,
    choose_wide,
    listed,
    offer,
    recall,
)
from sabtune.ops.kernel_score import rise, rise_of_products, weigh, wide_score
from sabtune.ops.kernel_simd import (
    LANES,
    Number,
    at_least,
    at_most,
    called,
    exp,
    lanes_of,
    load,
    store,
)


@called
def cell(
    S: Array, at: int, c: Array, c_at: int, H: int, keep: bool, gates: Array, gates_at: int,
    states: Array, to: int,
) -> None:  # fmt: skip
    """c_t and h'_t of one example from the sums S of its gates."""
    one = lanes_of(S.dtype.type(1))
    two = one + one
    zero = one - one
    for j in range(0, H, LANES):
        i = one / (one + exp(zero - load(S, at + j)))
        f = one / (one + exp(zero - load(S, at + H + j)))
        g = one / (one + exp(zero - load(S, at + 2 * H + j)))
        o = one / (one + exp(zero - load(S, at + 3 * H + j)))
        if keep:
            store(gates, gates_at + j, i)
            store(gates, gates_at + H + j, f)
            store(gates, gates_at + 2 * H + j, g)
            store(gates, gates_at + 3 * H + j, o)
        v = f * load(c, c_at + j) + i * (two * g - one)
        store(c, c_at + j, v)
        store(states, to + j, o * (one - two / (one + exp(v + v))))


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
    x: Array,
    gates: Array,
    h: Array,
    c: Array,
    hidden: Array,
    summary: Array,
    cells: Array,
    M0: int,
    old: Array,
    keys: Array,
    wide: Flags,
    chosen: Whole,
    weights: Array,
    sums: Array,
    starts: Whole,
    W_in: Array,
    bias: Array,
    W1: Array,
    W2: Array,
    w3: Array,
) -> None:
    """x (B, T, I); h, c (B, H): the state before and, then, after. `step` were taken before.

    W_in (I + H, G): W_ih and W_hh above each other, the cell's gate of both, and of bias (G,),
    doubled. `keep`: leave behind what the backward pass needs; otherwise gates, cells and sums
    are not touched, and chosen and weights hold one step only.
    """
    T, inputs = x.shape[1], x.shape[2]
    H = hidden.shape[2]
    G = 4 * H
    depth = inputs + H
    number = w3.dtype.type
    zero = number(0)
    capacity = keys.shape[1]
    span = (capacity + LANES - 1) // LANES * LANES
    most = min(k_top + 1, capacity)
    rows = padded(min(TILE, high - low))
    carried = np.zeros((rows, depth), w3.dtype)  # x_t, then h_{t-1}
    states = np.zeros((rows, H), w3.dtype)  # h'_t
    q = np.empty((rows, H), w3.dtype)
    q0 = np.empty((rows, H), w3.dtype)  # of the step before
    e0 = np.empty((rows, H), w3.dtype)
    e = np.zeros(H, w3.dtype)
    S = np.zeros((rows, G), w3.dtype)
    lowest = np.empty((rows, H), w3.dtype)  # the range of the keys
    highest = np.empty((rows, H), w3.dtype)
    bound = np.empty((rows, span), w3.dtype)
    drift = np.empty(rows, np.float64)
    pause = np.empty(rows, np.int64)
    which = np.empty(most, np.int64)
    p = np.empty(most, w3.dtype)
    top = np.empty((rows, most), w3.dtype)  # the highest scores, where they are the memories' own
    top_which = np.empty((rows, most), chosen.dtype)
    all_w3 = zero
    size = zero  # no score is further from 0
    for j in range(H):
        all_w3 += w3[j]
        size += abs(w3[j])
    chosen_flat = chosen.reshape(-1)
    weights_flat = weights.reshape(-1)
    bounds = bound.reshape(-1)
    top_flat = top.reshape(-1)
    top_which_flat = top_which.reshape(-1)
    for first in range(low, high, TILE):
        B = min(TILE, high - first)
        rows = padded(B)
        bound[:] = number(-np.inf)
        bound[:, :M0] = number(np.inf)
        drift[:] = 0.0
        pause[:] = 0
        for r in range(B):
            copy(carried, r * depth + inputs, h, (first + r) * H, H)
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
                    offer(a, m, min(m, most), most, top_flat, top_which_flat, r * most)
        known = 0
        for t in range(T):
            M = M0 + (step + t) // k_att - step // k_att
            K = min(k_top + 1, M)
            for r in range(rows):
                copy(S, r * G, bias, 0, G)
            for r in range(B):
                for j in range(inputs):
                    carried[r, j] = x[first + r, t, j]
            product(rows, carried, 0, depth, depth, W_in, G, S)
            for r in range(B):
                b = first + r
                if keep and t % SEGMENT == 0:
                    copy(cells, (b * cells.shape[1] + t // SEGMENT) * H, c, b * H, H)
                cell(S, r * G, c, b * H, H, keep, gates, (b * T + t) * G, states, r * H)
            if scoring != SEPARABLE:
                q[:rows] = zero
                product(rows, states, 0, H, H, W2, H, q)
            for r in range(B):
                b = first + r
                now = (b * T + t) * H
                at = b * chosen.shape[1]
                if keep:
                    at += starts[t]
                if scoring == SEPARABLE:
                    for i in range(K):
                        weights_flat[at + i] = top[r, i]
                        chosen_flat[at + i] = top_which[r, i]
                else:
                    if keep:
                        for i in range(known):  # the step before's are the first to be tried
                            chosen_flat[at + i] = chosen_flat[at - known + i]
                    if not wide[b] and furthest(q, r * H, H) > REACH:
                        wide[b] = True
                        widen(keys, b * capacity * H, M * H)
                    tame = scoring != DOT and not wide[b]
                    for j in range(0, H, LANES):
                        v = load(q, r * H + j)
                        store(e, j, exp(v + v) if tame else v)
                    bounded = M > FEW * K and (tame or scoring == DOT) and t > 0 and pause[r] == 0
                    if bounded:
                        if scoring == DOT:
                            more, size = rise_of_products(lowest, highest, r * H, q, q0, H)
                            drift[r] += more
                        else:
                            drift[r] += rise(lowest, highest, r * H, e, q, e0, q0, w3)
                    if not bounded or abs(drift[r]) > 4 * size:
                        bound[r, :M] = number(np.inf)
                        drift[r] = 0.0
                    # nearer, two scores differ by rounding alone
                    tie = number(4) * np.finfo(w3.dtype).eps * size
                    if tame:
                        scored = choose_tame(
                            K, M, known, keys, b * capacity * H, e, w3, all_w3,
                            bounds, r * span, drift[r], tie, chosen_flat, weights_flat, at,
                        )  # fmt: skip
                    elif scoring == DOT:
                        scored = choose_dot(
                            K, M, known, keys, b * capacity * H, e, w3, all_w3,
                            bounds, r * span, drift[r], tie, chosen_flat, weights_flat, at,
                        )  # fmt: skip
                    else:
                        scored = choose_wide(
                            K, M, known, keys, b * capacity * H, e, w3, all_w3,
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
                front, count = listed(K, M0, False, chosen_flat, weights_flat, at, which, p)
                recall(
                    front, count, which, p, old, b * old.shape[1] * H, hidden, b * T * H,
                    M0, step, k_att, H, summary, now,
                )  # fmt: skip
                for j in range(0, H, LANES):
                    v = load(states, r * H + j) + load(summary, now + j)
                    store(carried, r * depth + inputs + j, v)
                    store(hidden, now + j, v)
            known = K
            if (step + t + 1) % k_att == 0:
                q[:rows] = zero
                product(rows, carried, inputs, depth, H, W1, H, q)
                for r in range(B):
                    b = first + r
                    at = (b * capacity + M) * H
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
                        offer(a, M, min(M, most), most, top_flat, top_which_flat, r * most)
        for r in range(B):
            copy(h, (first + r) * H, carried, r * depth + inputs, H)
