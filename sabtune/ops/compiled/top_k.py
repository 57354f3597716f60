"""Which memories a step recalls: the K highest scores, without making most of the others.

A score moves little from one step to the next. How far it may have risen is bounded by `rise`, from
the range that all keys of an example lie in; `drift` adds that up over the steps, so that

    a_i now <= bound[i] + drift,    bound[i] = a_i - drift when it was last made,

and only the memories of which this passes the K-th highest score so far are scored again. The
result is that of scoring all: scores nearer than their own rounding, `tie`, are ties, and any
choice among ties is right. Where more than half must be scored all the same, as under noise, the
bound is left alone for some steps, for it costs as much as four scores. Where a memory's score is
its own whatever the query, nothing is scored again: the highest so far stay, and a new one is
`offered` a place among them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sabtune.ops.compiled.common import Array, Whole
from sabtune.ops.compiled.score import dot_score, tame_score, wide_score
from sabtune.ops.compiled.simd import (
    LANES,
    F,
    Number,
    any_above,
    called,
    compiled,
    lanes_of,
    load,
    spread,
    store,
)

PAUSE = 8  # steps for which all are scored after a step in which more than half were
FEW = 1  # times K memories are simply scored


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


def chooser(score: F) -> Callable[..., int]:
    """`choose` by one way of scoring: a choice for every score would cost as much as the score."""

    @compiled
    def choose(
        K: int,
        M: int,
        known: int,
        before: int,
        keys: Array,
        first: int,
        query: Array,
        w3: Array,
        all_w3: Number,
        bound: Array,
        row: int,
        drift: Number,
        tie: Number,
        chosen: Whole,
        weights: Array,
        at: int,
    ) -> int:
        """Leaves the K memories of M with the highest scores, as a heap, in chosen and weights.

        It begins with those of the step before, the `known` from chosen[before] on, and the last
        memories. Returns how many were scored.
        """
        H = w3.shape[0]
        nothing = w3.dtype.type(-np.inf)
        for i in range(K):
            m = chosen[before + i] if i < known else M - K + i
            chosen[at + i] = m
            weights[at + i] = score(keys, first + m * H, query, 0, w3, all_w3)
            bound[row + m] = nothing
        for i in range(K // 2 - 1, -1, -1):
            sink(weights, chosen, at, K, i)
        scored = K
        limit = w3.dtype.type(weights[at] + tie - drift)
        for block in range(0, M, LANES):
            if not any_above(load(bound, row + block), limit):
                continue
            for m in range(block, min(block + LANES, M)):
                if bound[row + m] > limit:
                    a = score(keys, first + m * H, query, 0, w3, all_w3)
                    scored += 1
                    if a > weights[at]:
                        bound[row + chosen[at]] = weights[at] - drift
                        weights[at] = a
                        chosen[at] = m
                        bound[row + m] = nothing
                        sink(weights, chosen, at, K, 0)
                        limit = w3.dtype.type(weights[at] + tie - drift)
                    else:
                        bound[row + m] = a - drift
        for i in range(K):
            bound[row + chosen[at + i]] = weights[at + i] - drift
        return scored

    return choose


choose_tame, choose_wide, choose_dot = map(chooser, (tame_score, wide_score, dot_score))


@called
def offer(a: Number, m: int, held: int, most: int, scores: Array, which: Whole, at: int) -> None:
    """Memory m, with score a, among the `most` highest; a heap, of which `held` are there."""
    if held < most:
        scores[at + held] = a
        which[at + held] = m
        for i in range((held + 1) // 2 - 1, -1, -1):
            sink(scores, which, at, held + 1, i)
    elif a > scores[at]:
        scores[at] = a
        which[at] = m
        sink(scores, which, at, most, 0)


@compiled
def recall(
    K: int, chosen: Whole, weights: Array, at: int, memory: Array, first: int, H: int,
    summary: Array, to: int,
) -> None:  # fmt: skip
    """s = Σ p_i m_i of a step's K memories; the first of them is θ's own, without a weight."""
    for j in range(0, H, LANES):
        v = lanes_of(weights.dtype.type(0))
        for i in range(1, K):
            v = v + spread(weights, at + i) * load(memory, first + chosen[at + i] * H + j)
        store(summary, to + j, v)
