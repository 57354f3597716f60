"""How the scores of all memories become weights, and the gradient of the scores.

The functions equal those of `sabtune.ops.normalizers`, but find the threshold τ by iteration
instead of by sorting. Let z be the scores minus the highest one. The sum of the weights decreases
in τ, is convex, and is at least 1 at τ = -1, so Newton's method from there rises to the threshold
without passing it. It ends when τ rises no more.

With g_i = p_i (softmax, of all scores or of the k_top highest), [p_i > 0] (sparsemax) or √p_i
(entmax-1.5), the gradient of every normalizer is dL/da_i = g_i (dL/dp_i - Σ g dL/dp / Σ g).

M is the number of memories. Rows of scores are padded with -inf to whole vectors, and the padding
of sparse weights is zero. In the early form, the scores are the weights, and the padding is any
number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sabtune.ops.compiled.common import Array
from sabtune.ops.compiled.dense_score import softmax
from sabtune.ops.compiled.simd import (
    LANES,
    Number,
    at_least,
    called,
    compiled,
    exp,
    lanes_of,
    largest,
    load,
    root,
    store,
    total,
    where_less,
)

KINDS = ("softmax", "sparsemax", "entmax15", "top_k", "early")
SOFTMAX, SPARSEMAX, ENTMAX15, TOP_K, EARLY = range(5)

MOST_ITERATIONS = 100
"""The most iterations of Newton's method; it needs about ten."""


class Weighting(NamedTuple):
    """How scores become weights: one of the kinds, and the number of memories that top-k keeps."""

    kind: int
    k_top: int


@compiled
def highest(M: int, a: Array, at: int) -> Any:
    """Return the highest of M scores in all lanes."""
    most = load(a, at)
    for i in range(LANES, M, LANES):
        most = at_least(most, load(a, at + i))
    return lanes_of(largest(most))


@called
def sparsemax(M: int, a: Array, at: int) -> None:
    """Replace M scores by their sparsemax, max(z - τ, 0)."""
    one = a.dtype.type(1)
    zeros, ones = lanes_of(one - one), lanes_of(one)
    top = highest(M, a, at)
    tau = -one
    for _ in range(MOST_ITERATIONS):
        bound = lanes_of(tau)
        sums, counts = zeros, zeros
        for i in range(0, M, LANES):
            z = load(a, at + i) - top
            sums = sums + where_less(bound, z, z, zeros)
            counts = counts + where_less(bound, z, ones, zeros)
        higher = (total(sums) - one) / total(counts)
        if not higher > tau:
            break
        tau = higher
    bound = lanes_of(tau)
    for i in range(0, M, LANES):
        store(a, at + i, at_least(zeros, load(a, at + i) - top - bound))


@called
def entmax15(M: int, a: Array, at: int) -> None:
    """Replace M scores by their entmax with α = 1.5, max(z / 2 - τ, 0)²."""
    one = a.dtype.type(1)
    zeros, half = lanes_of(one - one), lanes_of(a.dtype.type(0.5))
    top = highest(M, a, at)
    tau = -one
    for _ in range(MOST_ITERATIONS):
        bound = lanes_of(tau)
        sums, squares = zeros, zeros
        for i in range(0, M, LANES):
            r = at_least(zeros, (load(a, at + i) - top) * half - bound)
            sums = sums + r
            squares = squares + r * r
        slope = total(sums)
        higher = tau + (total(squares) - one) / (slope + slope)
        if not higher > tau:
            break
        tau = higher
    bound = lanes_of(tau)
    for i in range(0, M, LANES):
        r = at_least(zeros, (load(a, at + i) - top) * half - bound)
        store(a, at + i, r * r)


@called
def top_k(M: int, k_top: int, a: Array, at: int) -> None:
    """Replace M scores by the softmax of the k_top highest, for k_top < M.

    Of equal scores at the k_top-th place, those of the first memories are kept.
    """
    number = a.dtype.type
    zeros, ones = lanes_of(number(0)), lanes_of(number(1))
    least = lanes_of(number(-np.inf))
    top = highest(M, a, at)
    cut = top  # the k_top-th highest score, in the end
    kept = 0  # the number of scores that are at least `cut`
    while True:
        counts = zeros
        for i in range(0, M, LANES):
            counts = counts + where_less(load(a, at + i), cut, zeros, ones)
        kept = int(total(counts))
        if kept >= k_top:
            break
        most = least
        for i in range(0, M, LANES):
            v = load(a, at + i)
            most = at_least(most, where_less(v, cut, v, least))
        cut = lanes_of(largest(most))
    if kept > k_top:
        flat = a.reshape(-1)
        lowest = largest(cut)
        for i in range(M - 1, -1, -1):
            if kept > k_top and flat[at + i] == lowest:
                flat[at + i] = number(-np.inf)
                kept -= 1
    sums = zeros
    for i in range(0, M, LANES):
        v = load(a, at + i)
        p = where_less(v, cut, zeros, exp(v - top))
        sums = sums + p
        store(a, at + i, p)
    share = lanes_of(number(1) / total(sums))
    for i in range(0, M, LANES):
        store(a, at + i, load(a, at + i) * share)


@compiled
def add_constant(M: int, w: Array, a: Array, at: int) -> None:
    """Add Σ w3 to M scores, which normalizers do without; w is -2 w3."""
    sums = lanes_of(w.dtype.type(0))
    for j in range(0, w.shape[0], LANES):
        sums = sums + load(w, j)
    constant = lanes_of(w.dtype.type(-0.5) * total(sums))
    for i in range(0, M, LANES):
        store(a, at + i, load(a, at + i) + constant)


@compiled
def normalize(weighting: Weighting, M: int, w: Array, a: Array, at: int) -> None:
    """Replace M scores by their weights."""
    kind = weighting.kind
    if kind == SPARSEMAX:
        sparsemax(M, a, at)
    elif kind == ENTMAX15:
        entmax15(M, a, at)
    elif kind == TOP_K and weighting.k_top < M:
        top_k(M, weighting.k_top, a, at)
    elif kind == EARLY:
        add_constant(M, w, a, at)
    else:
        softmax(M, a, at)


@compiled
def softmax_backward(M: int, p: Array, at: int, mean: Number, da: Array) -> None:
    """Replace dL/dp by dL/da in `da`; `mean` is Σ p dL/dp."""
    by = lanes_of(mean)
    for i in range(0, M, LANES):
        store(da, i, load(p, at + i) * (load(da, i) - by))


@called
def sparsemax_backward(M: int, p: Array, at: int, da: Array) -> None:
    """Replace dL/dp by dL/da in `da`."""
    one = p.dtype.type(1)
    zeros, ones = lanes_of(one - one), lanes_of(one)
    sums, counts = zeros, zeros
    for i in range(0, M, LANES):
        v = load(p, at + i)
        sums = sums + where_less(zeros, v, load(da, i), zeros)
        counts = counts + where_less(zeros, v, ones, zeros)
    mean = lanes_of(total(sums) / total(counts))
    for i in range(0, M, LANES):
        store(da, i, where_less(zeros, load(p, at + i), load(da, i) - mean, zeros))


@called
def entmax15_backward(M: int, p: Array, at: int, da: Array) -> None:
    """Replace dL/dp by dL/da in `da`."""
    zeros = lanes_of(p.dtype.type(0))
    sums, norm = zeros, zeros
    for i in range(0, M, LANES):
        g = root(load(p, at + i))
        sums = sums + g * load(da, i)
        norm = norm + g
    mean = lanes_of(total(sums) / total(norm))
    for i in range(0, M, LANES):
        store(da, i, root(load(p, at + i)) * (load(da, i) - mean))


@compiled
def add_score_sum(M: int, da: Array, d_w3: Array) -> None:
    """Add Σ da, dL/d of the sum of w3, to the gradient of every w3; `da` is padded with zeros."""
    sums = lanes_of(da.dtype.type(0))
    for i in range(0, M, LANES):
        sums = sums + load(da, i)
    by = lanes_of(total(sums))
    for j in range(0, d_w3.shape[0], LANES):
        store(d_w3, j, load(d_w3, j) + by)


@compiled
def normalize_backward(
    weighting: Weighting, M: int, p: Array, at: int, mean: Number, da: Array, d_w3: Array
) -> None:
    """Replace dL/dp by dL/da in `da`; `mean` is Σ p dL/dp. The early form also adds to d_w3."""
    kind = weighting.kind
    if kind == SPARSEMAX:
        sparsemax_backward(M, p, at, da)
    elif kind == ENTMAX15:
        entmax15_backward(M, p, at, da)
    elif kind == EARLY:
        add_score_sum(M, da, d_w3)
    else:
        softmax_backward(M, p, at, mean, da)
