"""What a step's recall gives back: dL/d of the weights p_i, and from there of scores and memories.

Only the K chosen scores have a gradient, so their tanh is made again here and nothing of size
(B, M, H) is kept a step. Credit for a memory gathers in `d_memory` and `d_keys` (or, where its
score is its own, as one number in `d_a`) as the steps that recalled it go by.

H hidden, K kept; the other names are those of `sabtune.ops.kernel`.
"""

from __future__ import annotations

from sabtune.ops.kernel import Array, Whole, add
from sabtune.ops.kernel_score import SATURATED, dot
from sabtune.ops.kernel_simd import (
    LANES,
    Number,
    at_most,
    called,
    compiled,
    exp,
    lanes_of,
    load,
    store,
)


@compiled
def of_weights(
    K: int, from_: Whole, p: Array, memory: Array, ds: Array, at: int, H: int, softmax: bool,
    divisor: Number, da: Array,
) -> None:  # fmt: skip
    """dL/da of a step's K memories, which lie at `from_`, from dL/ds.

    Σ lowered scores: p_i = (a_i - θ) / Σ, and θ, the first, takes what the others give. Under
    softmax it takes nothing. Another one without a weight lies below θ by rounding alone.
    """
    mean = p.dtype.type(0)
    for i in range(1, K):
        da[i] = dot(ds, at, memory, from_[i], H)
        mean += p[i] * da[i]
    others = mean - mean
    for i in range(1, K):
        if softmax:
            da[i] = p[i] * (da[i] - mean)
        else:
            da[i] = (da[i] - mean) / divisor if p[i] != 0 else mean - mean
            others -= da[i]
    da[0] = others


@compiled
def of_scores(
    count: int, da: Array, p: Array, from_: Whole, to: Whole, keys: Array, wide: bool, e: Array,
    ds: Array, ds_at: int, w3: Array, H: int, d: Array, at: int, d_w3: Array, d_keys: Array,
    d_memory: Array,
) -> None:  # fmt: skip
    """Adds dL/d of w3, keys (in `from_`, to go `to`) and memories, and to d dL/dq.

    The memories in pairs, each read and written from front to back: the processor fetches ahead.
    An odd one's partner is listed behind it, without credit.
    """
    number = w3.dtype.type
    one = lanes_of(number(1))
    two = one + one
    four = two + two
    most = lanes_of(number(SATURATED))
    for i in range(0, count, 2):
        from0, from1, to0, to1 = from_[i], from_[i + 1], to[i], to[i + 1]
        a0, a1 = lanes_of(da[i]), lanes_of(da[i + 1])
        p0, p1 = lanes_of(p[i]), lanes_of(p[i + 1])
        gain = a0 + a1
        for j in range(0, H, LANES):
            query = load(e, j)
            if wide:
                u0 = load(keys, from0 + j) + query
                u1 = load(keys, from1 + j) + query
                z0 = one / (one + exp(u0 + u0))
                z1 = one / (one + exp(u1 + u1))
            else:
                x0 = at_most(most, one + load(keys, from0 + j) * query)
                x1 = at_most(most, one + load(keys, from1 + j) * query)
                both = one / (x0 * x1)
                z0 = x1 * both
                z1 = x0 * both
            # tanh is 1 - 2z, its slope 4(z - z²)
            z = a0 * z0 + a1 * z1
            store(d_w3, j, load(d_w3, j) + (gain - (z + z)))
            w = four * load(w3, j)
            v0 = a0 * w * (z0 - z0 * z0)
            v1 = a1 * w * (z1 - z1 * z1)
            store(d, at + j, load(d, at + j) + (v0 + v1))
            of_s = load(ds, ds_at + j)
            store(d_keys, to0 + j, load(d_keys, to0 + j) + v0)
            store(d_memory, to0 + j, load(d_memory, to0 + j) + p0 * of_s)
            store(d_keys, to1 + j, load(d_keys, to1 + j) + v1)
            store(d_memory, to1 + j, load(d_memory, to1 + j) + p1 * of_s)


@called
def of_products(
    count: int, da: Array, from_: Whole, to: Whole, keys: Array, q: Array, H: int,
    d: Array, at: int, d_keys: Array,
) -> None:  # fmt: skip
    """Adds dL/d of the keys, and to d dL/dq, for scores k·q."""
    for i in range(count):
        add(d, at, da[i], keys, from_[i], H)
        add(d_keys, to[i], da[i], q, 0, H)


@called
def of_sum(count: int, p: Array, to: Whole, ds: Array, ds_at: int, H: int, d_memory: Array) -> None:
    """Adds dL/d of the memories, for s = Σ p_i m_i."""
    for i in range(count):
        add(d_memory, to[i], p[i], ds, ds_at, H)


@called
def of_own_score(
    gain: Number, keys: Array, key: int, w3: Array, H: int, d: Array, at: int, d_w3: Array
) -> None:
    """Of a = w3 · tanh k, from dL/da, the `gain`: adds dL/dw3, leaves dL/dk in d."""
    one = lanes_of(w3.dtype.type(1))
    by = lanes_of(gain)
    for j in range(0, H, LANES):
        v = load(keys, key + j)
        tanh = one - (one + one) / (one + exp(v + v))
        store(d_w3, j, load(d_w3, j) + by * tanh)
        store(d, at + j, by * load(w3, j) * (one - tanh * tanh))
