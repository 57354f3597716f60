"""Which memories a step recalls: the K highest scores, without making most of the others.

A score moves little from one step to the next. How far it may have risen is bounded: with every
e^{2k} of an example between two known numbers, w3·(tanh(k+q') - tanh(k+q)) is highest at one end of
that range or, if the range holds the point where tanh is steepest, at most w3·(q' - q). `drift`
adds that up over the units and the steps, so that

    a_i now <= bound[i] + drift,    bound[i] = a_i - drift when it was last made,

and only the memories of which this passes the K-th highest score so far are scored again. The
result is that of scoring all: scores nearer than their own rounding, `tie`, are ties, and any
choice among ties is right. Where more than half must be scored all the same, as under noise, the
bound is left alone for some steps, for it costs as much as four scores.
"""

from __future__ import annotations

import numpy as np

from sabtune.ops.kernel import Array, Whole, score
from sabtune.ops.kernel_simd import (
    LANES,
    Number,
    any_above,
    at_least,
    compiled,
    lanes_of,
    load,
    total,
    where_less,
)

PAUSE = 8  # steps for which all are scored after a step in which more than half were
FEW = 3  # times K memories are simply scored


@compiled
def sink(a: Array, which: Whole, at: int, count: int, i: int) -> None:
    """Lets entry i of the heap a[at : at + count], least first, down to its place."""
    value = a[at + i]
    index = which[at + i]
    while True:
        child = 2 * i + 1
        if child >= count:
            break
        if child + 1 < count and a[at + child + 1] < a[at + child]:
            child += 1
        if not a[at + child] < value:
            break
        a[at + i] = a[at + child]
        which[at + i] = which[at + child]
        i = child
    a[at + i] = value
    which[at + i] = index


@compiled
def rise(
    lowest: Array, highest: Array, row: int, e: Array, q: Array, e0: Array, q0: Array, w3: Array
) -> Number:
    """How far, at most, the scores of an example rise as its query goes from q0 to q.

    lowest, highest: the range of its e^{2k}; e, e0: e^{2q}, e^{2 q0}; all (rows, H), at `row`.
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
        # the steepest point, k = -(q + q')/2, lies within: e^{2k} e^{q+q'} is 1 there
        within = (x0 * x1 - one) * (y0 * y1 - one)
        inside = where_less(within, zero, at_least(most + most, steep), most + most)
        sums = sums + inside
        sizes = sizes + at_least(inside, zero - inside)
    return total(sums) + number(8) * np.finfo(w3.dtype).eps * total(sizes)  # and its rounding


@compiled
def choose(
    K: int,
    M: int,
    known: int,
    keys: Array,
    first: int,
    e: Array,
    w3: Array,
    all_w3: Number,
    wide: bool,
    bound: Array,
    row: int,
    drift: Number,
    tie: Number,
    chosen: Whole,
    weights: Array,
    at: int,
) -> int:
    """Leaves the K memories of M with the highest scores, as a heap, in chosen and weights.

    chosen[at : at + K] holds those to begin with (the step before's), `known` of them valid; the
    rest are filled up with the last memories. Returns how many were scored.
    """
    H = w3.shape[0]
    nothing = w3.dtype.type(-np.inf)
    for i in range(known, K):
        chosen[at + i] = M - K + i
    for i in range(K):
        m = chosen[at + i]
        half = score(keys, first + m * H, e, 0, w3, H, wide)
        weights[at + i] = all_w3 - half - half
        bound[row + m] = nothing
    for i in range(K // 2 - 1, -1, -1):
        sink(weights, chosen, at, K, i)
    scored = K
    for block in range(0, M, LANES):
        if not any_above(load(bound, row + block), weights[at] + tie - drift):
            continue
        for m in range(block, min(block + LANES, M)):
            if bound[row + m] > weights[at] + tie - drift:
                half = score(keys, first + m * H, e, 0, w3, H, wide)
                a = all_w3 - half - half
                scored += 1
                if a > weights[at]:
                    bound[row + chosen[at]] = weights[at] - drift
                    weights[at] = a
                    chosen[at] = m
                    bound[row + m] = nothing
                    sink(weights, chosen, at, K, 0)
                else:
                    bound[row + m] = a - drift
    for i in range(K):
        bound[row + chosen[at + i]] = weights[at + i] - drift
    return scored


@compiled
def weigh(K: int, epsilon: Number, weights: Array, at: int) -> Number:
    """Scores -> p_i = (a_i - θ) / (Σ + ε), θ being the first; returns the divisor."""
    theta = weights[at]
    w = weights.dtype.type(epsilon)
    for i in range(K):
        weights[at + i] -= theta
        w += weights[at + i]
    for i in range(K):
        weights[at + i] /= w
    return w
