"""The backward pass of SAB for a range of the batch, compiled: from the last step to the first.

The legend is that of `sabtune.ops.kernel`. Credit for a memory gathers in `d_memory` and `d_keys`
(B, N, H), N memories made in this call, as the steps that recalled it go by; when the pass comes to
the step that made it, all of it is there and joins dL/dh_t. Only the K chosen scores have a
gradient, so their tanh is made again here and nothing of size (B, M, H) is kept a step.

The weights' gradients are summed up step by step, while their factors are at hand: dL/dW_hh is the
outer product of the gates' gradients and h_{t-1}, and so on. That is quicker than one large product
at the end, which would have to fetch all of them again, and it needs no memory.
"""

from __future__ import annotations

import numpy as np

from sabtune.ops.kernel import (
    SATURATED,
    SEGMENT,
    TILE,
    Array,
    Flags,
    Whole,
    add,
    copy,
    kernel,
    made_at,
    outer,
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
    x: Array,
    gates: Array,
    cells: Array,
    hidden: Array,
    summary: Array,
    h: Array,
    M0: int,
    old: Array,
    keys: Array,
    wide: Flags,
    chosen: Whole,
    weights: Array,
    sums: Array,
    starts: Whole,
    W_query: Array,
    W_ih: Array,
    W_hh: Array,
    W1: Array,
    W2: Array,
    w3: Array,
    d_memory: Array,
    d_keys: Array,
    d_x: Array,
    d_in: Array,
    d_bias: Array,
    d_W1: Array,
    d_W2: Array,
    d_w3: Array,
) -> None:
    """x (B, T, I), d_x the same or (0, 0, 0) where nobody asks; h (B, H) is that before step 1.

    W_query is W2 as in `forward`; the other weights are transposed before they are packed, W_ih
    with its rows filled up to whole vectors. d_hidden, d_summary: dL/d of the outputs, flat, with
    the strides of batch and step. d_in (G, H + I filled up): W_hh beside W_ih; it, d_bias (G,),
    d_W1, d_W2 (H, H) and d_w3 (H,) are sums over this call's examples.
    """
    T, inputs = x.shape[1], x.shape[2]
    H = hidden.shape[2]
    G = 4 * H
    across = d_in.shape[1]  # of h_{t-1} and x_t beside each other
    # rows one vector longer than they need be: at a power of two they would share cache lines
    S_step = G + LANES
    H_step = H + LANES
    x_width = across - H
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
    q = np.zeros((rows, H), w3.dtype)
    states = np.zeros((rows, H_step), w3.dtype)
    d = np.zeros((rows, H_step), w3.dtype)
    m_t = np.zeros((rows, H_step), w3.dtype)
    before = np.zeros((rows, across), w3.dtype)
    S = np.zeros((rows, S_step), w3.dtype)
    dx = np.zeros((rows, x_width), w3.dtype)
    c = np.empty((rows, SEGMENT + 1, H), w3.dtype)  # from the one before a segment's first step on
    ds = np.empty(H, w3.dtype)
    e = np.empty(H, w3.dtype)
    da = np.empty(min(k_top + 1, M0 + N), w3.dtype)
    chosen_flat = chosen.reshape(-1)
    weights_flat = weights.reshape(-1)
    d_in[:] = zero
    d_bias[:] = zero
    d_W1[:] = zero
    d_W2[:] = zero
    d_w3[:] = zero
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
                    copy(d, r * H_step, d_keys, at, H)
                    copy(m_t, r * H_step, hidden, (b * T + t) * H, H)
                outer(B, d, H_step, H, m_t, H_step, H, d_W1)
                product(rows, d, 0, H_step, H, W1, H, dh)
            for r in range(B):
                now = ((first + r) * T + t) * H
                for j in range(0, H, LANES):
                    store(states, r * H_step + j, load(hidden, now + j) - load(summary, now + j))
            q[:rows] = zero
            product(rows, states, 0, H_step, H, W_query, H, q)
            d[:rows] = zero
            for r in range(B):
                b = first + r
                at = b * summary_strides[0] + t * summary_strides[1]
                for j in range(0, H, LANES):
                    store(ds, j, load(d_summary, at + j) + load(dh, r * H + j))
                    v = load(q, r * H + j)
                    store(e, j, v if wide[b] else exp(v + v))
                at = b * chosen.shape[1] + starts[t]
                mean = zero
                for i in range(K):
                    m = chosen_flat[at + i]
                    p = weights_flat[at + i]
                    da[i] = zero
                    if p != 0:
                        if m < M0:
                            da[i] = dot(ds, 0, old, (b * old.shape[1] + m) * H, H)
                        else:
                            m = made_at(m - M0, step, k_att)
                            da[i] = dot(ds, 0, hidden, (b * T + m) * H, H)
                        mean += p * da[i]
                # p_i = (a_i - θ) / Σ: θ, the first of the chosen, takes what the others give
                for i in range(1, K):
                    if weights_flat[at + i] != 0:
                        da[i] = (da[i] - mean) / sums[b, t]
                        da[0] -= da[i]
                for i in range(K):
                    if da[i] == 0 and weights_flat[at + i] == 0:
                        continue
                    m = chosen_flat[at + i]
                    key = (b * capacity + m) * H
                    to = (b * N + m - M0) * H
                    gain = lanes_of(da[i])
                    p = lanes_of(weights_flat[at + i])
                    for j in range(0, H, LANES):
                        if wide[b]:
                            u = load(keys, key + j) + load(e, j)
                            u = exp(u + u)
                        else:
                            u = at_most(most, load(keys, key + j) * load(e, j))
                        z = one / (one + u)
                        store(d_w3, j, load(d_w3, j) + gain * (one - two * z))
                        v = gain * load(w3, j) * (four * (z - z * z))
                        store(d, r * H_step + j, load(d, r * H_step + j) + v)
                        if m >= M0:
                            store(d_keys, to + j, load(d_keys, to + j) + v)
                            store(d_memory, to + j, load(d_memory, to + j) + p * load(ds, j))
            outer(B, d, H_step, H, states, H_step, H, d_W2)
            product(rows, d, 0, H_step, H, W2, H, dh)
            of_segment = t % SEGMENT
            for r in range(B):
                b = first + r
                now = (b * T + t) * H
                at = (b * T + t) * G
                row = r * (SEGMENT + 1) * H
                if t == T - 1 or of_segment == SEGMENT - 1:
                    copy(c, row, cells, (b * cells.shape[1] + t // SEGMENT) * H, H)
                    for u in range(of_segment + 1):
                        from_gates = at - (of_segment - u) * G
                        for j in range(0, H, LANES):
                            i = load(gates, from_gates + j)
                            f = load(gates, from_gates + H + j)
                            g = two * load(gates, from_gates + 2 * H + j) - one
                            v = f * load(c, row + u * H + j) + i * g
                            store(c, row + (u + 1) * H + j, v)
                row += of_segment * H
                for j in range(0, H, LANES):
                    i = load(gates, at + j)
                    f = load(gates, at + H + j)
                    g = two * load(gates, at + 2 * H + j) - one
                    o = load(gates, at + 3 * H + j)
                    v = load(c, row + H + j)
                    tanh_c = one - two / (one + exp(v + v))
                    d_h = load(dh, r * H + j)
                    d_c = load(dc, r * H + j) + d_h * o * (one - tanh_c * tanh_c)
                    c_before = load(c, row + j)
                    store(dc, r * H + j, d_c * f)
                    to = r * S_step + j
                    store(S, to, d_c * g * i * (one - i))
                    store(S, to + H, d_c * c_before * f * (one - f))
                    store(S, to + 2 * H, d_c * i * (one - g * g))
                    store(S, to + 3 * H, d_h * tanh_c * o * (one - o))
                add(d_bias, 0, number(1), S, r * S_step, G)
                if t > 0:
                    copy(before, r * across, hidden, now - H, H)
                else:
                    copy(before, r * across, h, b * H, H)
                for j in range(inputs):
                    before[r, H + j] = x[b, t, j]
            outer(B, S, S_step, G, before, across, across, d_in)
            if d_x.size > 0:
                dx[:rows] = zero
                product(rows, S, 0, S_step, G, W_ih, x_width, dx)
                for r in range(B):
                    for j in range(inputs):
                        d_x[first + r, t, j] = dx[r, j]
            dh[:] = zero
            if t > 0 and k_trunc > 0 and (step + t) % k_trunc == 0:
                dc[:] = zero
            elif t > 0:
                product(rows, S, 0, S_step, G, W_hh, H, dh)
