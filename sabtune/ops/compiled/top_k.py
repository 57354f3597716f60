"""The memories that a step recalls: the K highest scores, without computing most of the others.

A score changes little from one step to the next. `rise` bounds how far it may have risen, from the
range of all keys of an example. `drift` is the sum of these bounds over the steps, so that

    a_i now <= bound[i] + drift,    bound[i] = a_i - drift when it was last computed,

and only the memories whose bound exceeds the K-th highest score so far are scored again. The result
is the same as if all memories were scored. Scores that differ by less than their rounding, `tie`,
are ties, and any choice among ties is right. If more than half of the memories must still be
scored, as under noise, some steps do without bounds, because bounds cost as much as four scores. If
scores depend on the memory alone, no memory is scored again: the highest scores so far are kept,
and `offer` inserts a new score if it is among the highest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sabtune.ops.compiled.common import Array, Row, Step, Whole
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

PAUSE = 8  # steps that score all memories, after a step that scored more than half of them
FEW = 1  # if there are at most FEW times K memories, all are scored


class Scorer(NamedTuple):
    """w3, Σ w3 and Σ |w3|; a score w3 · tanh(k + q) is no further from 0 than Σ |w3|."""

    w3: Array
    total: Number
    size: Number


class Bounds(NamedTuple):
    """The bounds of an example's scores, their drift, and the difference that is a tie."""

    bound: Array
    drift: Number
    tie: Number


class Choice(NamedTuple):
    """The memories that an example selects, and their weights; a step's begin at `at`."""

    chosen: Whole
    weights: Array
    at: int


@compiled
def sink(a: Array, which: Whole, at: int, count: int, i: int) -> None:
    """Move entry i of the min-heap a[at : at + count] down to its place, and `which` with it."""
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
    """Return `choose` for one way of scoring; a branch would cost as much as a score."""

    @compiled
    def choose(
        step: Step, before: int, keys: Row, query: Array, scorer: Scorer, bounds: Bounds,
        choice: Choice,
    ) -> int:  # fmt: skip
        """Write the K of M memories with the highest scores to `choice`, as a min-heap.

        Starts with the memories of the previous step, which are `step.known` memories from
        chosen[before] on, and with the newest memories. Returns how many memories were scored.
        """
        K, M, at = step.K, step.M, choice.at
        chosen, weights, bound = choice.chosen, choice.weights, bounds.bound
        w3, all_w3, drift, tie = scorer.w3, scorer.total, bounds.drift, bounds.tie
        H = w3.shape[0]
        nothing = w3.dtype.type(-np.inf)
        for i in range(K):
            m = chosen[before + i] if i < step.known else M - K + i
            chosen[at + i] = m
            weights[at + i] = score(keys.array, keys.at + m * H, query, 0, w3, all_w3)
            bound[m] = nothing
        for i in range(K // 2 - 1, -1, -1):
            sink(weights, chosen, at, K, i)
        scored = K
        limit = w3.dtype.type(weights[at] + tie - drift)
        for block in range(0, M, LANES):
            if not any_above(load(bound, block), limit):
                continue
            for m in range(block, min(block + LANES, M)):
                if bound[m] > limit:
                    a = score(keys.array, keys.at + m * H, query, 0, w3, all_w3)
                    scored += 1
                    if a > weights[at]:
                        bound[chosen[at]] = weights[at] - drift
                        weights[at] = a
                        chosen[at] = m
                        bound[m] = nothing
                        sink(weights, chosen, at, K, 0)
                        limit = w3.dtype.type(weights[at] + tie - drift)
                    else:
                        bound[m] = a - drift
        for i in range(K):
            bound[chosen[at + i]] = weights[at + i] - drift
        return scored

    return choose


choose_tame, choose_wide, choose_dot = map(chooser, (tame_score, wide_score, dot_score))


@called
def offer(a: Number, m: int, held: int, scores: Array, which: Whole) -> None:
    """Keep memory m, with score a, if its score is among the highest.

    scores: a min-heap of the highest scores, of which `held` are there.
    """
    if held < scores.shape[0]:
        scores[held] = a
        which[held] = m
        for i in range((held + 1) // 2 - 1, -1, -1):
            sink(scores, which, 0, held + 1, i)
    elif a > scores[0]:
        scores[0] = a
        which[0] = m
        sink(scores, which, 0, held, 0)


@compiled
def recall(K: int, choice: Choice, memory: Row, H: int, summary: Row) -> None:
    """Compute s = Σ p_i m_i of the K memories. The first, that of θ, has weight 0."""
    for j in range(0, H, LANES):
        v = lanes_of(choice.weights.dtype.type(0))
        for i in range(1, K):
            at = choice.at + i
            p = spread(choice.weights, at)
            v = v + p * load(memory.array, memory.at + choice.chosen[at] * H + j)
        store(summary.array, summary.at + j, v)
