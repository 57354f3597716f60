"""The backward pass of SAB for a range of the batch, compiled: from the last step to the first.

The legend is that of `sabtune.ops.kernel`. Credit for a memory gathers in `d_memory` and `d_keys`
(B, N, H), N memories made in this call, as the steps that recalled it go by; when the pass comes to
the step that made it, all of it is there and joins dL/dh_t. Only the K chosen scores have a
gradient, so their tanh is made again here and nothing of size (B, M, H) is kept a step.

What is left behind, each in the place of what it was made from, are the factors of the weights'
gradients, which the caller multiplies in one go:

    gates    -> dL/d the gates' sums   with h_{t-1} (W_hh) and x_t (W_ih)
    queries  -> dL/d W2 h'_t           with cells -> h'_t
    d_keys   -> dL/d W1 m              with d_memory -> m
"""

from __future__ import annotations

import numpy as np

from sabtune.ops.kernel import (
    SATURATED,
    TILE,
    Array,
    Flags,
    Whole,
    add,
    copy,
    kernel,
    made_at,
    padded,
    product,
)
from sabtune.ops.kernel_simd import (
    LANES,
    Number,
    at_most,
    compiled,
    exp,
    lanes_of,
    load,
    spread,
    store,
    total,
)


@compiled
def dot(a: Array, at: int, b: Array, start: int, count: int) -> Number:
    sums = load(a, at) * load(b, start)
    for j in range(LANES, count, LANES):
        sums = sums + load(a, at + j) * load(b, start + j)
    return total(sums)


@kernel
def backward(
    low: int,
    high: int,
    step: int,
    k_top: int,
    k_att: int,
    k_trunc: int,
    d_hidden: Array,
    hidden_strides: tuple[int, int],
    d_summary: Array,
    summary_strides: tuple[int, int],
    gates: Array,
    cells: Array,
    queries: Array,
    hidden: Array,
    summary: Array,
    c: Array,
    M0: int,
    old: Array,
    keys: Array,
    wide: Flags,
    chosen: Whole,
    weights: Array,
    sums: Array,
    starts: Whole,
    W_hh: Array,
    W1: Array,
    W2: Array,
    w3: Array,
    d_memory: Array,
    d_keys: Array,
    d_w3: Array,
    d_bias: Array,
) -> None:
    """c (B, H) is c_0; the weights are those of `forward` transposed, then packed.

    d_hidden, d_summary: dL/d of the outputs, flat, with the strides of batch and step.
    d_w3 (H,) and d_bias (4H,) are sums over this call's examples.
    """
    T, H = hidden.shape[1], hidden.shape[2]
    G = 4 * H
    number = w3.dtype.type
    zero = number(0)
    one = lanes_of(number(1))
    two = lanes_of(number(2))
    four = lanes_of(number(4))
    most = lanes_of(number(SATURATED))
    capacity, N = keys.shape[1], d_keys.shape[1]
    rows = padded(min(TILE, high - low))
    dh = np.zeros((rows, H), w3.dtype)
    dc = np.zeros((rows, H), w3.dtype)
    dq = np.zeros((rows, H), w3.dtype)
    ds = np.empty(H, w3.dtype)
    e = np.empty(H, w3.dtype)
    most_kept = min(k_top + 1, M0 + N)
    da = np.empty(most_kept, w3.dtype)
    key_at = np.empty(most_kept, np.int64)
    to = np.empty(most_kept, np.int64)
    S = np.zeros((rows, G), w3.dtype)
    flat_chosen = chosen.reshape(-1)
    flat_weights = weights.reshape(-1)
    d_w3[:] = zero
    d_bias[:] = zero
    d_keys[low:high] = zero
    d_memory[low:high] = zero
    for first in range(low, high, TILE):
        B = min(TILE, high - first)
        rows = padded(B)
        dh[:] = zero
        dc[:] = zero
        for t in range(T - 1, -1, -1):
            M = M0 + (step + t) // k_att - step // k_att
            K = min(k_top + 1, M)
            for r in range(B):
                b = first + r
                at = b * hidden_strides[0] + t * hidden_strides[1]
                add(dh, r * H, number(1), d_hidden, at, H)
            if (step + t + 1) % k_att == 0:
                for r in range(B):
                    b = first + r
                    at = (b * N + M - M0) * H
                    add(dh, r * H, number(1), d_memory, at, H)
                    copy(d_memory, at, hidden, (b * T + t) * H, H)
                    copy(dq, r * H, d_keys, at, H)
                product(rows, dq, 0, H, H, W1, H, dh)
            dq[:rows] = zero
            for r in range(B):
                b = first + r
                at = b * summary_strides[0] + t * summary_strides[1]
                now = (b * T + t) * H
                for j in range(0, H, LANES):
                    store(ds, j, load(d_summary, at + j) + load(dh, r * H + j))
                    v = load(queries, now + j)
                    store(e, j, v if wide[b] else exp(v + v))
                at = b * chosen.shape[1] + starts[t]
                mean = zero
                for i in range(K):
                    m = flat_chosen[at + i]
                    p = flat_weights[at + i]
                    da[i] = zero
                    key_at[i] = (b * capacity + m) * H
                    # what a memory from before this call is credited with, nobody reads
                    to[i] = (b * N + m - M0) * H if m >= M0 else -1
                    if p != 0:
                        if m < M0:
                            da[i] = dot(ds, 0, old, (b * old.shape[1] + m) * H, H)
                        else:
                            m = made_at(m - M0, step, k_att)
                            da[i] = dot(ds, 0, hidden, (b * T + m) * H, H)
                        mean += p * da[i]
                # p_i = (a_i - θ) / Σ: θ, the first of the chosen, takes what the others give
                for i in range(1, K):
                    if flat_weights[at + i] != 0:
                        da[i] = (da[i] - mean) / sums[b, t]
                        da[0] -= da[i]
                for j in range(0, H, LANES):
                    query = load(e, j)
                    w = four * load(w3, j)
                    d_s = load(ds, j)
                    d_q = one - one
                    d_w = load(d_w3, j)
                    for i in range(K):
                        if wide[b]:
                            u = load(keys, key_at[i] + j) + query
                            u = exp(u + u)
                        else:
                            u = at_most(most, load(keys, key_at[i] + j) * query)
                        z = one / (one + u)
                        gain = spread(da, i)
                        d_w = d_w + gain * (one - two * z)
                        v = gain * w * (z - z * z)
                        d_q = d_q + v
                        if to[i] >= 0:
                            d = to[i] + j
                            store(d_keys, d, load(d_keys, d) + v)
                            by = spread(flat_weights, at + i)
                            store(d_memory, d, load(d_memory, d) + by * d_s)
                    store(dq, r * H + j, d_q)
                    store(d_w3, j, d_w)
                copy(queries, now, dq, r * H, H)
            product(rows, dq, 0, H, H, W2, H, dh)
            for r in range(B):
                b = first + r
                now = (b * T + t) * H
                at = (b * T + t) * G
                for j in range(0, H, LANES):
                    i = load(gates, at + j)
                    f = load(gates, at + H + j)
                    g = two * load(gates, at + 2 * H + j) - one
                    o = load(gates, at + 3 * H + j)
                    v = load(cells, now + j)
                    tanh_c = one - two / (one + exp(v + v))
                    d = load(dh, r * H + j)
                    d_c = load(dc, r * H + j) + d * o * (one - tanh_c * tanh_c)
                    before = load(cells, now - H + j) if t > 0 else load(c, b * H + j)
                    store(dc, r * H + j, d_c * f)
                    at_S = r * G + j
                    store(S, at_S, d_c * g * i * (one - i))
                    store(S, at_S + H, d_c * before * f * (one - f))
                    store(S, at_S + 2 * H, d_c * i * (one - g * g))
                    store(S, at_S + 3 * H, d * tanh_c * o * (one - o))
                    store(cells, now + j, load(hidden, now + j) - load(summary, now + j))
                copy(gates, at, S, r * G, G)
                add(d_bias, 0, number(1), S, r * G, G)
            dh[:] = zero
            if t > 0 and k_trunc > 0 and (step + t) % k_trunc == 0:
                dc[:] = zero
            elif t > 0:
                product(rows, S, 0, G, G, W_hh, H, dh)
