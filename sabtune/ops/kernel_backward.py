"""The backward pass of SAB for a range of the batch, compiled: from the last step to the first.

The legend is that of `sabtune.ops.kernel`. Credit for a memory gathers in `d_memory` and `d_keys`
(B, N + 1, H), N memories made in this call, as the steps that recalled it go by; when the pass
comes to the step that made it, all of it is there and joins dL/dh_t. The last row takes what would
go to memories from before the call, and is not read.

The weights' gradients are summed up step by step, while their factors are at hand: dL/dW_hh is the
outer product of the gates' gradients and h_{t-1}, and so on. That is quicker than one large product
at the end, which would have to fetch all of them again, and it needs no memory.
"""

from __future__ import annotations

import numpy as np

from sabtune.ops.kernel import (
    DOT,
    SEGMENT,
    SEPARABLE,
    TILE,
    Array,
    Flags,
    Whole,
    add,
    copy,
    kernel,
    made_at,
)
from sabtune.ops.kernel_credit import (
    of_own_score,
    of_products,
    of_scores,
    of_sum,
    of_weights,
)
from sabtune.ops.kernel_product import outer, padded, product
from sabtune.ops.kernel_recall import listed
from sabtune.ops.kernel_simd import LANES, called, exp, lanes_of, load, store


@called
def cells_again(
    c: Array, row: int, cells: Array, cells_at: int, gates: Array, gates_at: int, count: int, H: int
) -> None:
    """c of the `count` first steps of a segment, behind the one before them."""
    one = lanes_of(c.dtype.type(1))
    copy(c, row, cells, cells_at, H)
    for u in range(count):
        at = gates_at + u * 4 * H
        for j in range(0, H, LANES):
            i = load(gates, at + j)
            f = load(gates, at + H + j)
            g = load(gates, at + 2 * H + j)
            v = f * load(c, row + u * H + j) + i * (g + g - one)
            store(c, row + (u + 1) * H + j, v)


@called
def of_cell(
    dh: Array, dc: Array, at: int, c: Array, c_at: int, gates: Array, gates_at: int, H: int,
    S: Array, to: int,
) -> None:  # fmt: skip
    """From dL/dh'_t and dL/dc_t those of the gates' sums, in S, and of c_{t-1}, in dc's place."""
    one = lanes_of(c.dtype.type(1))
    two = one + one
    for j in range(0, H, LANES):
        i = load(gates, gates_at + j)
        f = load(gates, gates_at + H + j)
        g = two * load(gates, gates_at + 2 * H + j) - one
        o = load(gates, gates_at + 3 * H + j)
        v = load(c, c_at + H + j)
        tanh_c = one - two / (one + exp(v + v))
        d_h = load(dh, at + j)
        d_c = load(dc, at + j) + d_h * o * (one - tanh_c * tanh_c)
        store(dc, at + j, d_c * f)
        store(S, to + j, d_c * g * i * (one - i))
        store(S, to + H + j, d_c * load(c, c_at + j) * f * (one - f))
        store(S, to + 2 * H + j, d_c * i * (one - g * g))
        store(S, to + 3 * H + j, d_h * tanh_c * o * (one - o))


@kernel
def backward(
    low: int,
    high: int,
    scoring: int,
    softmax: bool,
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
    capacity, N = keys.shape[1], d_memory.shape[1] - 1
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
    most = min(k_top + 1, M0 + N)
    which = np.empty(most, np.int64)
    where = np.empty(most, np.int64)  # in old or hidden
    from_ = np.empty(most + 1, np.int64)  # in keys
    to = np.empty(most + 1, np.int64)  # in d_keys and d_memory
    p = np.empty(most + 1, w3.dtype)
    da = np.empty(most + 1, w3.dtype)
    d_a = np.zeros((rows, capacity if scoring == SEPARABLE else 0), w3.dtype)
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
        d_a[:] = zero
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
                    at = (b * (N + 1) + M - M0) * H
                    add(dh, r * H, number(1), d_memory, at, H)
                    if scoring == SEPARABLE:
                        key = (b * capacity + M) * H
                        of_own_score(d_a[r, M], keys, key, w3, H, d, r * H_step, d_w3)
                    else:
                        copy(d, r * H_step, d_keys, at, H)
                    copy(m_t, r * H_step, hidden, (b * T + t) * H, H)
                outer(B, d, H_step, H, m_t, H_step, H, d_W1)
                product(rows, d, 0, H_step, H, W1, H, dh)
            for r in range(B):
                now = ((first + r) * T + t) * H
                for j in range(0, H, LANES):
                    store(states, r * H_step + j, load(hidden, now + j) - load(summary, now + j))
            if scoring != SEPARABLE:
                q[:rows] = zero
                product(rows, states, 0, H_step, H, W_query, H, q)
            d[:rows] = zero
            for r in range(B):
                b = first + r
                at = b * summary_strides[0] + t * summary_strides[1]
                for j in range(0, H, LANES):
                    store(ds, j, load(d_summary, at + j) + load(dh, r * H + j))
                at = b * chosen.shape[1] + starts[t]
                front, count = listed(K, M0, True, chosen_flat, weights_flat, at, which, p)
                for i in range(count):
                    m = which[i]
                    from_[i] = (b * capacity + m) * H
                    to[i] = (b * (N + 1) + (m - M0 if m >= M0 else N)) * H
                    if m < M0:
                        where[i] = (b * old.shape[1] + m) * H
                    else:
                        where[i] = (b * T + made_at(m - M0, step, k_att)) * H
                of_weights(front, count, where, p, old, hidden, ds, H, softmax, sums[b, t], da)
                if scoring == SEPARABLE:
                    for i in range(count):
                        d_a[r, which[i]] += da[i]
                    of_sum(count, p, to, ds, H, d_memory)
                elif scoring == DOT:
                    copy(e, 0, q, r * H, H)
                    of_products(count, da, from_, to, keys, e, H, d, r * H_step, d_keys)
                    of_sum(count, p, to, ds, H, d_memory)
                else:
                    for j in range(0, H, LANES):
                        v = load(q, r * H + j)
                        store(e, j, v if wide[b] else exp(v + v))
                    from_[count], to[count] = from_[0], (b * (N + 1) + N) * H
                    p[count], da[count] = zero, zero
                    of_scores(
                        count, da, p, from_, to, keys, wide[b], e, ds, w3, H,
                        d, r * H_step, d_w3, d_keys, d_memory,
                    )  # fmt: skip
            if scoring != SEPARABLE:
                outer(B, d, H_step, H, states, H_step, H, d_W2)
                product(rows, d, 0, H_step, H, W2, H, dh)
            of_segment = t % SEGMENT
            for r in range(B):
                b = first + r
                now = (b * T + t) * H
                at = (b * T + t) * G
                row = r * (SEGMENT + 1) * H
                if t == T - 1 or of_segment == SEGMENT - 1:
                    from_cells = (b * cells.shape[1] + t // SEGMENT) * H
                    from_gates = at - of_segment * G
                    cells_again(c, row, cells, from_cells, gates, from_gates, of_segment + 1, H)
                row += of_segment * H
                of_cell(dh, dc, r * H, c, row, gates, at, H, S, r * S_step)
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
        if scoring == SEPARABLE:
            for r in range(B):
                for m in range(M0):
                    key = ((first + r) * capacity + m) * H
                    of_own_score(d_a[r, m], keys, key, w3, H, e, 0, d_w3)
