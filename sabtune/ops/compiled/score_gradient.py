"""The backward pass of a step's recall: gradients of the weights p_i, of scores and of memories.

Only the K selected scores have a gradient. Their tanh is recomputed here, so no array of size
(B, M, H) is kept for a step. The gradient of a memory accumulates in `d_memory` and `d_keys` as the
pass visits the steps that recalled it. If scores depend on the memory alone, it accumulates in
`d_memory` and, for the score, as one number in `d_a`.

H hidden, K selected memories; the other names are those of `sabtune.ops.compiled.common`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sabtune.ops.compiled.common import Array, Row, Whole, add
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


class Recalled(NamedTuple):
    """The K memories that a step recalled.

    p: their weights. da: dL/d of their scores. source: their flat offsets in memory and keys.
    target: their flat offsets in d_memory and d_keys.
    """

    K: int
    p: Array
    da: Array
    source: Whole
    target: Whole


class MemoryGradients(NamedTuple):
    """dL/d of the memories and of their keys.

    The last row of an example takes the gradients of memories from before the call. It is not read.
    """

    memory: Array
    keys: Array


@compiled
def weights_backward(
    recalled: Recalled, memory: Array, ds: Row, H: int, softmax: bool, divisor: Number
) -> None:
    """Compute dL/da of a step's memories from dL/ds.

    If p_i = (a_i - θ) / divisor, then θ, the first score, gets minus the sum of the other
    gradients. Under softmax it gets none. Another score with weight 0 gets none either, because it
    differs from θ by rounding alone.
    """
    p, da = recalled.p, recalled.da
    mean = p.dtype.type(0)
    for i in range(1, recalled.K):
        da[i] = dot(ds.array, ds.at, memory, recalled.source[i], H)
        mean += p[i] * da[i]
    others = mean - mean
    for i in range(1, recalled.K):
        if softmax:
            da[i] = p[i] * (da[i] - mean)
        else:
            da[i] = (da[i] - mean) / divisor if p[i] != 0 else mean - mean
            others -= da[i]
    da[0] = others


@compiled
def tame_half(key: Number, query: Number) -> Number:
    """Return z from e^{2k} and e^{2q}; tanh(k + q) is 1 - 2z."""
    return inverse(ones(key) + key * query)


@compiled
def wide_half(key: Number, query: Number) -> Number:
    """Return z from k and q; tanh(k + q) is 1 - 2z."""
    u = key + query
    return inverse(ones(key) + exp(u + u))


@compiled
def accumulate(
    z: Number, a: Number, w: Number, p: Number, ds: Number, grads: MemoryGradients, at: int
) -> tuple[Number, Number]:
    """Add to dL/d of a memory and of its key; return a z and a (z - z²).

    a: dL/d of the memory's score. w: 4 w3. The slope of tanh is 4 (z - z²).
    """
    az = a * z
    slope = az - az * z
    store(grads.keys, at, load(grads.keys, at) + slope * w)
    store(grads.memory, at, load(grads.memory, at) + p * ds)
    return az, slope


def make_score_backward(half: F) -> Callable[..., None]:
    """Return `scores_backward` for one kind of keys, so that its loops contain no branch."""

    @compiled
    def scores_backward(
        recalled: Recalled, keys: Array, e: Array, ds: Row, w3: Array, dq: Row, d_w3: Array,
        grads: MemoryGradients,
    ) -> None:  # fmt: skip
        """Add to dL/d of w3, of keys, of memories and of the query.

        The outer loop is over pairs of vectors of units, and the inner loop over the memories, so
        that the values that all memories share stay in registers. A last vector without a partner
        is processed twice, the second time without a gradient.
        """
        H = w3.shape[0]
        p, da = recalled.p, recalled.da
        gain = da[0] - da[0]
        for i in range(recalled.K):
            gain += da[i]
        all_gain = lanes_of(gain)
        for j0 in range(0, H, 2 * LANES):
            j1 = min(j0 + LANES, H - LANES)
            q0 = load(e, j0)
            q1 = load(e, j1)
            s0 = load(ds.array, ds.at + j0)
            s1 = load(ds.array, ds.at + j1)
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
            for i in range(recalled.K):
                a = spread(da, i)
                share = spread(p, i)
                k = recalled.target[i]
                z = half(load(keys, recalled.source[i] + j0), q0)
                az, v = accumulate(z, a, w0, share, s0, grads, k + j0)
                z0 = z0 + az
                v0 = v0 + v
                z = half(load(keys, recalled.source[i] + j1), q1)
                az, v = accumulate(z, a, w1, share, s1, grads, k + j1)
                z1 = z1 + az
                v1 = v1 + v
            store(dq.array, dq.at + j0, load(dq.array, dq.at + j0) + v0 * w0)
            store(dq.array, dq.at + j1, load(dq.array, dq.at + j1) + v1 * w1)
            store(d_w3, j0, load(d_w3, j0) + (all_gain - (z0 + z0)))
            if j1 > j0:
                store(d_w3, j1, load(d_w3, j1) + (all_gain - (z1 + z1)))

    return scores_backward


tame_scores_backward, wide_scores_backward = map(make_score_backward, (tame_half, wide_half))


@called
def products_backward(
    recalled: Recalled, keys: Array, q: Array, H: int, dq: Row, d_keys: Array
) -> None:
    """Add to dL/d of the keys and of the query, for scores k·q."""
    for i in range(recalled.K):
        add(dq.array, dq.at, recalled.da[i], keys, recalled.source[i], H)
        add(d_keys, recalled.target[i], recalled.da[i], q, 0, H)


@called
def sum_backward(recalled: Recalled, ds: Row, H: int, d_memory: Array) -> None:
    """Add to dL/d of the memories, for s = Σ p_i m_i."""
    for i in range(recalled.K):
        add(d_memory, recalled.target[i], recalled.p[i], ds.array, ds.at, H)


@called
def own_score_backward(gain: Number, key: Row, w3: Array, dk: Row, d_w3: Array) -> None:
    """Add to dL/dw3 and write dL/dk, for a score w3 · tanh k, from `gain`, dL/d of the score."""
    one = lanes_of(w3.dtype.type(1))
    by = lanes_of(gain)
    for j in range(0, w3.shape[0], LANES):
        v = load(key.array, key.at + j)
        tanh = one - (one + one) / (one + exp(v + v))
        store(d_w3, j, load(d_w3, j) + by * tanh)
        store(dk.array, dk.at + j, by * load(w3, j) * (one - tanh * tanh))
