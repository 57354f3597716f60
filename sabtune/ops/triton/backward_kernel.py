"""The backward kernel: one launch runs all steps of a chunk, one program per example.

`sabtune.ops.triton.autograd` explains the names. The kernel sums nothing over examples. It stores
what the weights' gradients need at every step, and large products compute them afterwards.
"""

import triton
import triton.language as tl

from sabtune.ops.triton.tile import DOT, SEPARABLE, four, product, sigmoid, tanh


@triton.jit
def of_weights(dp, p, divisor, K, SOFTMAX: tl.constexpr, KP: tl.constexpr):
    """Return dL/da (KP) from dL/dp.

    The score that gives θ gets minus the sum of the other gradients. Under softmax it gets none.
    """
    da = dp - tl.sum(p * dp, axis=0)
    if SOFTMAX:
        da *= p
    else:
        slots = tl.arange(0, KP)
        da = tl.where(p != 0, da / divisor, 0.0)
        others = tl.sum(da, axis=0)
        _, theta = tl.min(tl.where(slots < K, p, float("inf")), axis=0, return_indices=True)
        da = tl.where(slots == theta, -others, da)  # any score that equals θ
    return da


@triton.jit
def of_scores(da, key, q, w3, scale, SCORING: tl.constexpr):
    """Return dL/d of K keys (KP, HP), and of q and w3, each (HP), from dL/da (KP)."""
    if SCORING == DOT:
        dk = da[:, None] * (q * scale)[None, :]
        dq = tl.sum(da[:, None] * key, axis=0) * scale
        dw = dq * 0
    else:
        u = tanh(key + q[None, :])
        dk = da[:, None] * (1.0 - u * u) * w3[None, :]
        dq = tl.sum(dk, axis=0)
        dw = tl.sum(da[:, None] * u, axis=0)
    return dk, dq, dw


@triton.jit
def cell(gates, cells, B, dh, dc, units, H: tl.constexpr):
    """Return dL/d of the four pre-activations (HP), and of the previous c."""
    inside = units < H
    i, f, g, o = four(gates, units, H)
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    before = tl.load(cells + units, mask=inside, other=0.0)
    now = tanh(tl.load(cells + B * H + units, mask=inside, other=0.0))
    dc += dh * o * (1.0 - now * now)
    d_i = dc * g * i * (1.0 - i)
    d_f = dc * before * f * (1.0 - f)
    d_g = dc * i * (1.0 - g * g)
    d_o = dh * now * o * (1.0 - o)
    return d_i, d_f, d_g, d_o, dc * f


AS_THEY_COME = ["start", "end", "M0", "since", "most", "k_att", "k_trunc", "cut", "room"]
STRIDES = ["hidden_b", "hidden_t", "summary_b", "summary_t"]


@triton.jit(do_not_specialize=AS_THEY_COME + STRIDES)
def backward_kernel(
    d_hidden, d_summary, gates, cells, q, weights, rows, divisors, memory, keys,
    d_memory, d_keys, d_gates, dq, dh_end, dc_end, dw_end,
    W_hh, W1, W2, w3,
    start, end, M0, since, most, k_att, k_trunc, cut, room,
    hidden_b, hidden_t, summary_b, summary_t, scale,
    SCORING: tl.constexpr, SOFTMAX: tl.constexpr,
    OF_HIDDEN: tl.constexpr, OF_SUMMARY: tl.constexpr,
    H: tl.constexpr, HP: tl.constexpr, KP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Run steps `end` - 1 to `start` backward for the example whose index is the program id."""
    b, B = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    slots, units = tl.arange(0, KP), tl.arange(0, HP)
    inside = units < H
    memory += b * room * H
    keys += b * room * H
    d_memory += b * room * H
    d_keys += b * room * H
    dh = tl.load(dh_end + b * H + units, mask=inside, other=0.0)
    dc = tl.load(dc_end + b * H + units, mask=inside, other=0.0)
    dw = tl.load(dw_end + b * H + units, mask=inside, other=0.0)
    w = tl.zeros([HP], dtype=tl.float32)
    if SCORING != DOT:
        w = tl.load(w3 + units, mask=inside, other=0.0).to(tl.float32)
    for back in range(0, end - start):
        t = end - 1 - back
        M = M0 + (since + t) // k_att
        K = tl.minimum(most, M)
        if OF_HIDDEN:
            at = d_hidden + b * hidden_b + t.to(tl.int64) * hidden_t + units
            dh += tl.load(at, mask=inside, other=0.0).to(tl.float32)
        if (since + t + 1) % k_att == 0:
            dh += tl.load(d_memory + M * H + units, mask=inside, other=0.0)
            dh = product(dh, d_keys + M * H, W1, H, H, HP, ROWS)
        ds = dh
        if OF_SUMMARY:
            at = d_summary + b * summary_b + t.to(tl.int64) * summary_t + units
            ds += tl.load(at, mask=inside, other=0.0).to(tl.float32)
        live = slots < K
        at = (t * B + b) * most + slots
        p = tl.load(weights + at, mask=live, other=0.0)
        chosen = tl.load(rows + at, mask=live, other=0).to(tl.int64)
        tile = chosen[:, None] * H + units[None, :]
        mask = live[:, None] & inside[None, :]
        recalled = tl.load(memory + tile, mask=mask, other=0.0)
        key = tl.load(keys + tile, mask=mask, other=0.0)
        dp = tl.sum(ds[None, :] * recalled, axis=1)
        da = of_weights(dp, p, tl.load(divisors + t * B + b), K, SOFTMAX, KP)
        u = ((t - start) * B + b) * H
        query = tl.zeros([HP], dtype=tl.float32)
        if SCORING != SEPARABLE:
            query = tl.load(q + u + units, mask=inside, other=0.0)
        dk, of_q, of_w = of_scores(da, key, query, w, scale, SCORING)
        dw += of_w
        dm = tl.load(d_memory + tile, mask=mask, other=0.0) + p[:, None] * ds[None, :]
        dk += tl.load(d_keys + tile, mask=mask, other=0.0)
        tl.debug_barrier()
        tl.store(d_memory + tile, dm, mask=mask)
        tl.store(d_keys + tile, dk, mask=mask)
        if SCORING != SEPARABLE:
            tl.store(dq + u + units, of_q, mask=inside)
            tl.debug_barrier()
            dh = product(dh, dq + u, W2, H, H, HP, ROWS)
        d_i, d_f, d_g, d_o, dc = cell(gates + 4 * u, cells + (t * B + b) * H, B, dh, dc, units, H)
        d_sums = d_gates + 4 * u
        tl.store(d_sums + units, d_i, mask=inside)
        tl.store(d_sums + H + units, d_f, mask=inside)
        tl.store(d_sums + 2 * H + units, d_g, mask=inside)
        tl.store(d_sums + 3 * H + units, d_o, mask=inside)
        tl.debug_barrier()
        dh = tl.zeros([HP], dtype=tl.float32)
        if (cut + t) % k_trunc != 0:
            dh = product(dh, d_sums, W_hh, 4 * H, H, HP, ROWS)
        else:
            dc = tl.zeros([HP], dtype=tl.float32)
        tl.debug_barrier()
    tl.store(dh_end + b * H + units, dh, mask=inside)
    tl.store(dc_end + b * H + units, dc, mask=inside)
    tl.store(dw_end + b * H + units, dw, mask=inside)
