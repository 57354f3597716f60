"""Scores, how far they may rise from one step to the next, and the weights computed from them.

tanh(k + q) is computed as 1 - 2 / (1 + e^{2k}·e^{2q}), with e^{2k} computed once for a memory. Then
a score takes one multiplication per unit, and four units share a division. An example in which some
|k| or |q| exceeds REACH would overflow. It becomes `wide`, which is exact but slower.

H is the hidden size (whole vectors), K the number of selected memories.
"""

from __future__ import annotations

import math

import numpy as np

from sabtune.ops.compiled.common import Array
from sabtune.ops.compiled.simd import (
    LANES,
    Number,
    at_least,
    at_most,
    called,
    compiled,
    exp,
    lanes_of,
    load,
    total,
    where_less,
)

SATURATED = 1e18  # the limit of x = 1 + e^{2(k+q)}: 1 - 2/x is 1, and the product of four is finite
SATURATED_FLOAT = 1e9  # the same for float32


@compiled
def dot(a: Array, at: int, b: Array, start: int, count: int) -> Number:
    """Return Σ a·b, added up in two sums, one of the even vectors and one of the odd ones."""
    even = lanes_of(a.dtype.type(0))
    odd = even
    both = count // (2 * LANES) * 2 * LANES
    for j in range(0, both, 2 * LANES):
        even = even + load(a, at + j) * load(b, start + j)
        odd = odd + load(a, at + j + LANES) * load(b, start + j + LANES)
    if both < count:
        even = even + load(a, at + both) * load(b, start + both)
    return total(even + odd)


@compiled
def tame_score(key: Array, at: int, query: Array, q: int, w3: Array, all_w3: Number) -> Number:
    """Return the score of one memory from e^{2k}, at `at`, and e^{2q}; all_w3: Σ w3."""
    one = lanes_of(w3.dtype.type(1))
    most = lanes_of(w3.dtype.type(SATURATED_FLOAT if w3.itemsize == 4 else SATURATED))
    sums = one - one
    H = w3.shape[0]
    fours = H // (4 * LANES) * 4 * LANES
    for j0 in range(0, fours, 4 * LANES):
        j1, j2, j3 = j0 + LANES, j0 + 2 * LANES, j0 + 3 * LANES
        x0 = at_most(most, one + load(key, at + j0) * load(query, q + j0))
        x1 = at_most(most, one + load(key, at + j1) * load(query, q + j1))
        x2 = at_most(most, one + load(key, at + j2) * load(query, q + j2))
        x3 = at_most(most, one + load(key, at + j3) * load(query, q + j3))
        x01 = x0 * x1
        x23 = x2 * x3
        w01 = load(w3, j0) * x1 + load(w3, j1) * x0
        w23 = load(w3, j2) * x3 + load(w3, j3) * x2
        sums = sums + (w01 * x23 + w23 * x01) / (x01 * x23)
    for j in range(fours, H, LANES):
        x0 = at_most(most, one + load(key, at + j) * load(query, q + j))
        sums = sums + load(w3, j) / x0
    half = total(sums)
    return all_w3 - half - half


@compiled
def wide_score(key: Array, at: int, query: Array, q: int, w3: Array, all_w3: Number) -> Number:
    """Return the score of one memory from k and q; all_w3: Σ w3."""
    one = lanes_of(w3.dtype.type(1))
    sums = one - one
    for j in range(0, w3.shape[0], LANES):
        u = load(key, at + j) + load(query, q + j)
        sums = sums + load(w3, j) / (one + exp(u + u))
    half = total(sums)
    return all_w3 - half - half


@compiled
def dot_score(key: Array, at: int, query: Array, q: int, w3: Array, all_w3: Number) -> Number:
    """Return k·q."""
    return dot(key, at, query, q, w3.shape[0])


@compiled
def rise(
    lowest: Array, highest: Array, row: int, e: Array, q: Array, e0: Array, q0: Array, w3: Array
) -> Number:
    """Return how far, at most, the scores of an example rise as its query goes from q0 to q.

    lowest, highest: the range of its e^{2k}. e, e0: e^{2q} and e^{2 q0}. e is (H,), the others are
    (rows, H) and read at `row`. In each unit, w3·(tanh(k+q) - tanh(k+q0)) is at most its value at
    one end of the range of e^{2k} or, if the range contains the steepest point of tanh, at most
    w3·(q - q0).
    """
    number = w3.dtype.type
    one = lanes_of(number(1))
    zero = one - one
    sums = zero
    sizes = zero
    for j in range(0, w3.shape[0], LANES):
        w = load(w3, j)
        now = load(e, j)
        before = load(e0, row + j)
        low = load(lowest, row + j)
        high = load(highest, row + j)
        x0 = low * before
        x1 = low * now
        y0 = high * before
        y1 = high * now
        at_low = w * ((x1 - x0) / ((one + x0) * (one + x1)))
        at_high = w * ((y1 - y0) / ((one + y0) * (one + y1)))
        most = at_least(at_low, at_high)
        steep = w * (load(q, row + j) - load(q0, row + j))
        # the steepest point, k = -(q + q0)/2, lies within: e^{2k} e^{q+q0} is 1 there
        within = (x0 * x1 - one) * (y0 * y1 - one)
        inside = where_less(within, zero, at_least(most + most, steep), most + most)
        sums = sums + inside
        sizes = sizes + at_least(inside, zero - inside)
    return total(sums) + number(8) * np.finfo(w3.dtype).eps * total(sizes)  # and its rounding error


@called
def rise_of_products(
    lowest: Array, highest: Array, row: int, q: Array, q0: Array, H: int
) -> tuple[Number, Number]:
    """Return `rise` for scores k·q with k from `lowest` to `highest`, and the largest |k·q|."""
    number = q.dtype.type
    zero = lanes_of(number(0))
    sums = zero
    sizes = zero
    largest = zero
    for j in range(row, row + H, LANES):
        low = load(lowest, j)
        high = load(highest, j)
        now = load(q, j)
        change = now - load(q0, j)
        inside = at_least(low * change, high * change)
        sums = sums + inside
        sizes = sizes + at_least(inside, zero - inside)
        furthest = at_least(high, zero - low)
        largest = largest + furthest * at_least(now, zero - now)
    return total(sums) + number(8) * np.finfo(q.dtype).eps * total(sizes), total(largest)


@compiled
def weigh(K: int, softmax: bool, epsilon: Number, weights: Array, at: int) -> Number:
    """Replace K scores, θ first, by their weights p_i; return the divisor of the weights."""
    theta = weights[at]
    if softmax:
        most = theta
        for i in range(K):
            most = max(most, weights[at + i])
        w = theta - theta
        for i in range(K):
            a = weights[at + i]
            weights[at + i] = math.exp(a - most) if a > theta else w - w
            w += weights[at + i]
        w = max(w, weights.dtype.type(1))  # the largest weight, if any is kept, is 1
    else:
        w = weights.dtype.type(epsilon)
        for i in range(K):
            weights[at + i] -= theta
            w += weights[at + i]
    for i in range(K):
        weights[at + i] /= w
    return w
