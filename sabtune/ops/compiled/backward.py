"""The backward pass of SAB for a range of the batch, compiled: from the last step to the first.

`sabtune.ops.compiled.common` has the legend. The gradient of a memory adds up in `d_memory` and
`d_keys` (B, N + 1, H), N memories made in this call, as the steps that recalled it go by; when the
pass comes to the step that made it, all of it is there and joins dL/dh_t. The last row takes what
would go to memories from before the call, and is not read.

The weights' gradients are summed up step by step, while their factors are at hand: dL/dW_hh is the
outer product of the gates' gradients and h_{t-1}, and so on. That is quicker than one large product
at the end, which would have to fetch all of them again, and it needs no memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sabtune.ops.compiled.cell import of_cell
from sabtune.ops.compiled.common import (
    DOT,
    SEPARABLE,
    TILE,
    Array,
    Flags,
    Scratch,
    Shape,
    Whole,
    add,
    copy,
    fetch,
    kernel,
)
from sabtune.ops.compiled.product import ROWS, outer, padded, product
from sabtune.ops.compiled.score_gradient import (
    of_own_score,
    of_products,
    of_sum,
    of_tame_scores,
    of_weights,
    of_wide_scores,
)
from sabtune.ops.compiled.simd import LANES, exp, load, store


def scratch(
    examples: int,
    H: int,
    inputs: int,
    O: int,
    capacity: int,
    k_top: int,
    separable: bool,
    real: Any,
) -> list[Shape]:
    """The arrays that a call works in, for so many examples; inputs and O outputs, filled up."""
    rows = min(TILE, -(-examples // ROWS) * ROWS)
    listed = min(k_top + 1, capacity)
    # one vector longer than need be: rows at a power of two would share cache lines
    return [
        ((rows, 2 * H + LANES), real),  # du: dL/ds_t, dL/dh_t
        ((rows, H), real),  # dc
        ((rows, inputs), real),  # dx
        ((rows, 4 * H + LANES), real),  # S: dL/d of the gates' sums
        ((rows, inputs + LANES), real),  # X: x_t
        ((rows, H + LANES), real),  # d: dL/dq
        ((rows, H + LANES), real),  # states: h'_t
        ((rows, O), real),  # dy
        ((rows, H + LANES), real),  # d_k: dL/d of a memory's key
        ((H,), real),  # e: e^{2q}
        ((rows, capacity if separable else 0), real),  # d_a: dL/d of the memories' own scores
        ((listed,), real),  # p
        ((listed,), real),  # da
        ((listed,), np.int64),  # from_: where the memories lie in memory and keys
        ((listed,), np.int64),  # to: and in d_memory and d_keys
    ]


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
    sparse: bool,
    d_hidden: Array,
    hidden_strides: tuple[int, int],
    d_summary: Array,
    summary_strides: tuple[int, int],
    d_logits: Array,
    x: Array,
    gates: Array,
    cells: Array,
    queries: Array,
    hidden: Array,
    summary: Array,
    h: Array,
    c: Array,
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
    W1: Array,
    W2: Array,
    w3: Array,
    V: Array,
    scratch: Scratch,
    d_memory: Array,
    d_keys: Array,
    d_x: Array,
    d_ih: Array,
    d_hh: Array,
    d_bias: Array,
    d_W1: Array,
    d_W2: Array,
    d_w3: Array,
    d_V: Array,
    d_b: Array,
) -> None:
    """x (B, T, I), d_x the same or (0, 0, 0) where nobody asks; h, c (B, H): before the first step.

    The weights are transposed before they are packed, W_ih with its rows filled up to whole
    vectors. d_hidden, d_summary: dL/d of the outputs, flat, with the strides of batch and step;
    empty for zeros. d_logits (B, T, O), or (0, 0, 0). d_ih (I filled up, G), d_hh (G, H), d_bias
    (G,), d_V (O filled up, 2H), which is V2 beside V1, d_b (O filled up,), d_W1, d_W2 (H, H) and
    d_w3 (H,) are sums over this call's examples. scratch: as `scratch` has it.
    """
    everyone, T, inputs = x.shape
    H = hidden.shape[2]
    G = 4 * H
    front, one_back = 0, everyone * H
    h_before = h.reshape(1, everyone, H)  # as `hidden` is
    outputs, O = d_logits.shape[2], d_b.shape[0]
    x_width = d_ih.shape[0]
    number = w3.dtype.type
    zero = number(0)
    capacity, N = keys.shape[1], d_memory.shape[1] - 1
    du, dc, dx, S, X, d, states, dy, d_k, e, d_a, p, da, from_, to = scratch
    S_step, H_step, u_step, X_step = S.shape[1], d.shape[1], du.shape[1], X.shape[1]
    for array in (dx, S, X, d, states, dy, d_k):  # what fills up counts, too
        array[:] = zero
    chosen_flat = chosen.reshape(-1)
    weights_flat = weights.reshape(-1)
    d_ih[:] = zero
    d_hh[:] = zero
    d_bias[:] = zero
    d_W1[:] = zero
    d_W2[:] = zero
    d_w3[:] = zero
    d_V[:] = zero
    d_b[:] = zero
    d_keys[low:high] = zero
    d_memory[low:high] = zero
    for first in range(low, high, TILE):
        B = min(TILE, high - first)
        rows = padded(B)
        du[:] = zero
        dc[:] = zero
        d_a[:] = zero
        for t in range(T - 1, -1, -1):
            M = M0 + (step + t) // k_att - step // k_att
            K = min(k_top + 1, M)
            step_at = (t * everyone + first) * H  # the tile's rows of hidden and summary
            before_at = step_at - one_back if t > 0 else first * H  # the step before's
            for r in range(B):
                b = first + r
                now = (t * everyone + b) * H
                for j in range(0, H, LANES):
                    store(states, r * H_step + j, load(hidden, now + j) - load(summary, now + j))
                if d_summary.size > 0:
                    at = b * summary_strides[0] + t * summary_strides[1]
                    copy(du, r * u_step, d_summary, at, H)
                if d_hidden.size > 0:
                    at = b * hidden_strides[0] + t * hidden_strides[1]
                    add(du, r * u_step + H, number(1), d_hidden, at, H)
                for o in range(outputs):
                    dy[r, o] = d_logits[b, t, o]
                add(d_b, 0, number(1), dy, r * O, O)
            product(rows, dy, front, O, O, V, 2 * H, du, front, u_step)
            outer(B, dy, O, O, summary, step_at, H, H, d_V, front, 2 * H)
            outer(B, dy, O, O, hidden, step_at, H, H, d_V, H, 2 * H)
            if (step + t + 1) % k_att == 0:
                for r in range(B):
                    b = first + r
                    at = (b * (N + 1) + M - M0) * H
                    add(du, r * u_step + H, number(1), d_memory, at, H)
                    to_key = r * H_step
                    if scoring == SEPARABLE:
                        key = (b * capacity + M) * H
                        of_own_score(d_a[r, M], keys, key, w3, H, d_k, to_key, d_w3)
                    else:
                        copy(d_k, to_key, d_keys, at, H)
                product(rows, d_k, front, H_step, H, W1, H, du, H, u_step)
                outer(B, d_k, H_step, H, hidden, step_at, H, H, d_W1, front, H)
            d[:] = zero
            for r in range(B):
                b = first + r
                ds = r * u_step
                for j in range(ds, ds + H, LANES):
                    store(du, j, load(du, j) + load(du, H + j))
                now = (t * everyone + b) * H
                fetch(gates, 4 * now, G)
                fetch(cells, now - one_back, H)
                fetch(hidden, now - one_back, H)
                at = b * chosen.shape[1] + starts[t]
                for i in range(K):
                    index = chosen_flat[at + i]
                    from_[i] = (b * capacity + index) * H
                    to[i] = (b * (N + 1) + (index - M0 if index >= M0 else N)) * H
                    p[i] = weights_flat[at + i]
                of_weights(K, from_, p, memory, du, ds, H, softmax, sums[b, t], da)
                if scoring == SEPARABLE:
                    for i in range(K):
                        d_a[r, chosen_flat[at + i]] += da[i]
                    of_sum(K, p, to, du, ds, H, d_memory)
                elif scoring == DOT:
                    copy(e, 0, queries, now, H)
                    of_products(K, da, from_, to, keys, e, H, d, r * H_step, d_keys)
                    of_sum(K, p, to, du, ds, H, d_memory)
                else:
                    for j in range(0, H, LANES):
                        v = load(queries, now + j)
                        store(e, j, v if wide[b] else exp(v + v))
                    if wide[b]:
                        of_wide_scores(
                            K, da, p, from_, to, keys, e, du, ds, w3, H,
                            d, r * H_step, d_w3, d_keys, d_memory,
                        )  # fmt: skip
                    else:
                        of_tame_scores(
                            K, da, p, from_, to, keys, e, du, ds, w3, H,
                            d, r * H_step, d_w3, d_keys, d_memory,
                        )  # fmt: skip
            if scoring != SEPARABLE:
                product(rows, d, front, H_step, H, W2, H, du, H, u_step)
                outer(B, d, H_step, H, states, front, H_step, H, d_W2, front, H)
            for r in range(B):
                b = first + r
                now = (t * everyone + b) * H
                to_S = r * S_step
                du_h = r * u_step + H
                if t > 0:
                    before_now = now - one_back
                    fetch(summary, before_now, H)
                    fetch(queries, before_now, H)
                    of_cell(
                        du, du_h, dc, r * H, cells, now, cells, before_now, gates, 4 * now, H,
                        S, to_S,
                    )  # fmt: skip
                else:
                    of_cell(
                        du, du_h, dc, r * H, cells, now, c, b * H, gates, 4 * now, H, S, to_S,
                    )  # fmt: skip
                add(d_bias, 0, number(1), S, to_S, G)
                for j in range(inputs):
                    number_in = x[b, t, j]
                    if not sparse:
                        X[r, j] = number_in
                    elif number_in != 0:
                        add(d_ih, j * G, number_in, S, to_S, G)
            outer(B, S, S_step, G, hidden if t > 0 else h_before, before_at, H, H, d_hh, front, H)
            if not sparse:
                outer(B, X, X_step, x_width, S, front, S_step, G, d_ih, front, G)
            if d_x.size > 0:
                dx[:rows] = zero
                product(rows, S, front, S_step, G, W_ih, x_width, dx, front, x_width)
                for r in range(B):
                    for j in range(inputs):
                        d_x[first + r, t, j] = dx[r, j]
            du[:] = zero
            if t > 0 and k_trunc > 0 and (step + t) % k_trunc == 0:
                dc[:] = zero
            elif t > 0:
                product(rows, S, front, S_step, G, W_hh, H, du, H, u_step)
        if scoring == SEPARABLE:
            for r in range(B):
                for i in range(M0):
                    key = ((first + r) * capacity + i) * H
                    of_own_score(d_a[r, i], keys, key, w3, H, e, 0, d_w3)
