"""What a step's recall gives back: dL/d of the weights p_i, and from there of scores and memories.

Only the K chosen scores have a gradient, so their tanh is made again here and nothing of size
(B, M, H) is kept a step. Credit for a memory gathers in `d_memory` and `d_keys` (or, where its
score is its own, as one number in `d_a`) as the steps that recalled it go by.

H hidden, K kept; the other names are those of `sabtune.ops.compiled.common`.
"""

from __future__ import annotations

from collections.abc import Callable

from sabtune.ops.compiled.common import Array, Whole, add
from sabtune.ops.compiled.score import dot
from sabtune.ops.compiled.simd import (
    LANES,
    F,
    Number,
    called,
    compiled,
    exp,
    inverse,
    lanes_of,
    load,
    ones,
    spread,
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
def tame_half(key: Number, query: Number) -> Number:
    """z, tanh(k + q) being 1 - 2z, from e^{2k} and e^{2q}."""
    return inverse(ones(key) + key * query)


@compiled
def wide_half(key: Number, query: Number) -> Number:
    """The same from k and q."""
    u = key + query
    return inverse(ones(key) + exp(u + u))


@compiled
def give(
    z: Number, a: Number, w: Number, p: Number, of_s: Number, d_keys: Array, d_memory: Array,
    at: int,
) -> tuple[Number, Number]:  # fmt: skip
    """Adds a memory's part of dL/d of keys and memories; returns a z and a (z - z²).

    a: dL/d of its score; w: 4 w3, the slope of tanh being 4 (z - z²).
    """
    az = a * z
    slope = az - az * z
    store(d_keys, at, load(d_keys, at) + slope * w)
    store(d_memory, at, load(d_memory, at) + p * of_s)
    return az, slope


def make_score_backward(half: F) -> Callable[..., None]:
    """`of_scores` by one way of scoring: a choice within its loops would cost as much as they."""

    @compiled
    def of_scores(
        count: int, da: Array, p: Array, from_: Whole, to: Whole, keys: Array, e: Array,
        ds: Array, ds_at: int, w3: Array, H: int, d: Array, at: int, d_w3: Array, d_keys: Array,
        d_memory: Array,
    ) -> None:  # fmt: skip
        """Adds dL/d of w3, keys (in `from_`, to go `to`) and memories, and to d dL/dq.

        All memories for two vectors of units, then for the next two: what they share stays in
        registers. An odd last one counts as both, the second time without credit.
        """
        gain = da[0] - da[0]
        for i in range(count):
            gain += da[i]
        all_gain = lanes_of(gain)
        for j0 in range(0, H, 2 * LANES):
            j1 = min(j0 + LANES, H - LANES)
            q0 = load(e, j0)
            q1 = load(e, j1)
            s0 = load(ds, ds_at + j0)
            s1 = load(ds, ds_at + j1)
            w0 = load(w3, j0)
            w1 = load(w3, j1)
            w0 = w0 + w0
            w0 = w0 + w0
            w1 = w1 + w1
            w1 = w1 + w1
            if j1 == j0:
                w1 = w1 - w1
                s1 = s1 - s1
            z0 = w0 - w0
            z1 = z0
            v0 = z0
            v1 = z0
            for i in range(count):
                a = spread(da, i)
                share = spread(p, i)
                k = to[i]
                z = half(load(keys, from_[i] + j0), q0)
                az, v = give(z, a, w0, share, s0, d_keys, d_memory, k + j0)
                z0 = z0 + az
                v0 = v0 + v
                z = half(load(keys, from_[i] + j1), q1)
                az, v = give(z, a, w1, share, s1, d_keys, d_memory, k + j1)
                z1 = z1 + az
                v1 = v1 + v
            store(d, at + j0, load(d, at + j0) + v0 * w0)
            store(d, at + j1, load(d, at + j1) + v1 * w1)
            store(d_w3, j0, load(d_w3, j0) + (all_gain - (z0 + z0)))
            if j1 > j0:
                store(d_w3, j1, load(d_w3, j1) + (all_gain - (z1 + z1)))

    return of_scores


of_tame_scores, of_wide_scores = map(make_score_backward, (tame_half, wide_half))


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
