"""The forward kernel: one launch runs all steps of a chunk, one program per example.

`sabtune.ops.triton.autograd` explains the names.
"""

import triton
import triton.language as tl

from sabtune.ops.triton.tile import DOT, SEPARABLE, four, product, sigmoid, tanh


@triton.jit
def gate_sums(i, f, g, o, h, W, H: tl.constexpr, HP: tl.constexpr, ROWS: tl.constexpr):
    """Add h W to the four pre-activations (HP), for h (H) and W (H, 4H) in memory."""
    units = tl.arange(0, HP)
    for first in range(0, H, ROWS):
        row = first + tl.arange(0, ROWS)
        part = tl.load(h + row, mask=row < H, other=0.0).to(tl.float32)[:, None]
        mask = (row < H)[:, None] & (units < H)[None, :]
        at = W + row[:, None] * (4 * H) + units[None, :]
        w_i = tl.load(at, mask=mask, other=0.0, eviction_policy="evict_last")
        w_f = tl.load(at + H, mask=mask, other=0.0, eviction_policy="evict_last")
        w_g = tl.load(at + 2 * H, mask=mask, other=0.0, eviction_policy="evict_last")
        w_o = tl.load(at + 3 * H, mask=mask, other=0.0, eviction_policy="evict_last")
        i += tl.sum(part * w_i.to(tl.float32), axis=0)
        f += tl.sum(part * w_f.to(tl.float32), axis=0)
        g += tl.sum(part * w_g.to(tl.float32), axis=0)
        o += tl.sum(part * w_o.to(tl.float32), axis=0)
    return i, f, g, o


@triton.jit
def take_in(values, rows, a, first, KP: tl.constexpr, MEMORIES: tl.constexpr):
    """Merge the scores a (MEMORIES) into the top scores so far and their rows, each (KP).

    The loop runs once per score that exceeds the lowest top score, which becomes rare as more
    memories are seen.
    """
    slots = tl.arange(0, KP)
    places = tl.arange(0, MEMORIES)
    high, place = tl.max(a, axis=0, return_indices=True)
    low, slot = tl.min(values, axis=0, return_indices=True)
    while high > low:
        values = tl.where(slots == slot, high, values)
        rows = tl.where(slots == slot, first + place, rows)
        a = tl.where(places == place, float("-inf"), a)
        high, place = tl.max(a, axis=0, return_indices=True)
        low, slot = tl.min(values, axis=0, return_indices=True)
    return values, rows


@triton.jit
def highest(
    keys, q, w3, M, K,
    SCORING: tl.constexpr, H: tl.constexpr, HP: tl.constexpr, KP: tl.constexpr,
    MEMORIES: tl.constexpr,
):  # fmt: skip
    """Return the K highest of the scores of M keys in memory, and their rows, each (KP)."""
    slots, units = tl.arange(0, KP), tl.arange(0, HP)
    values = tl.where(slots < K, float("-inf"), float("inf"))
    rows = tl.zeros([KP], dtype=tl.int32)
    for first in range(0, M, MEMORIES):
        row = first + tl.arange(0, MEMORIES)
        mask = (row < M)[:, None] & (units < H)[None, :]
        key = tl.load(keys + row[:, None] * H + units[None, :], mask=mask, other=0.0)
        if SCORING == DOT:
            a = tl.sum(key * q[None, :], axis=1)
        else:
            a = tl.sum(tanh(key + q[None, :]) * w3[None, :], axis=1)
        a = tl.where(row < M, a, float("-inf"))
        values, rows = take_in(values, rows, a, first, KP, MEMORIES)
    return values, rows


@triton.jit
def weigh(values, K, epsilon, SOFTMAX: tl.constexpr, KP: tl.constexpr):
    """Return the weights p (KP) of the K top scores, and their divisor. NaN scores give NaN."""
    theta = tl.min(values, axis=0)
    a = tl.where(tl.arange(0, KP) < K, values, theta)
    if SOFTMAX:
        w = tl.exp(a - tl.max(a, axis=0)) * (a > theta).to(tl.float32)
        divisor = tl.maximum(tl.sum(w, axis=0), 1.0)
    else:
        w = a - theta
        divisor = tl.sum(w, axis=0) + epsilon
    return w / divisor, divisor


@triton.jit(do_not_specialize=["start", "end", "M0", "since", "most", "k_att", "room"])
def forward_kernel(
    x_gates, hidden, summary, c_end, cells, queries, weights, rows, divisors, memory, keys,
    W_hh, W1, W2, w3,
    start, end, M0, since, most, k_att, room, epsilon, scale,
    SCORING: tl.constexpr, SOFTMAX: tl.constexpr, KEEP: tl.constexpr,
    H: tl.constexpr, HP: tl.constexpr, KP: tl.constexpr,
    ROWS: tl.constexpr, MEMORIES: tl.constexpr,
):  # fmt: skip
    """Run the steps from `start` to `end` - 1 of the example whose index is the program id."""
    b, B = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    slots, units = tl.arange(0, KP), tl.arange(0, HP)
    inside = units < H
    memory += b * room * H
    keys += b * room * H
    query = queries + b * H
    c = tl.load(c_end + b * H + units, mask=inside, other=0.0)
    w = tl.zeros([HP], dtype=tl.float32)
    if SCORING != DOT:
        w = tl.load(w3 + units, mask=inside, other=0.0).to(tl.float32)
    for t in range(start, end):
        now = t * B + b  # hidden[0] is the state before the call, so h_{t-1} is at `now`
        i, f, g, o = four(x_gates + ((t - start) * B + b) * 4 * H, units, H)
        i, f, g, o = gate_sums(i, f, g, o, hidden + now * H, W_hh, H, HP, ROWS // 4)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        q = tl.zeros([HP], dtype=tl.float32)
        if SCORING != SEPARABLE:
            tl.store(query + units, h, mask=inside)
            tl.debug_barrier()
            q = product(q, query, W2, H, H, HP, ROWS) * scale
        M = M0 + (since + t) // k_att
        K = tl.minimum(most, M)
        values, chosen = highest(keys, q, w, M, K, SCORING, H, HP, KP, MEMORIES)
        p, divisor = weigh(values, K, epsilon, SOFTMAX, KP)
        at = memory + chosen.to(tl.int64)[:, None] * H + units[None, :]
        recalled = tl.load(at, mask=(slots < K)[:, None] & inside[None, :], other=0.0)
        s = tl.sum(p[:, None] * recalled, axis=0)
        h += s
        tl.store(hidden + (now + B) * H + units, h, mask=inside)
        tl.store(summary + now * H + units, s, mask=inside)
        if KEEP:
            tl.store(cells + (now + B) * H + units, c, mask=inside)
            tl.store(weights + now * most + slots, p, mask=slots < K)
            tl.store(rows + now * most + slots, chosen, mask=slots < K)
            tl.store(divisors + now, divisor)
        if (since + t + 1) % k_att == 0:
            tl.store(memory + M * H + units, h, mask=inside)
            tl.debug_barrier()
            key = product(tl.zeros([HP], dtype=tl.float32), memory + M * H, W1, H, H, HP, ROWS)
            tl.store(keys + M * H + units, key, mask=inside)
        tl.debug_barrier()
    tl.store(c_end + b * H + units, c, mask=inside)
