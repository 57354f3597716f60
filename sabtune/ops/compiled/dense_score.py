"""The scores of all memories at once, their softmax, and the sum of the memories that it weighs.

Sixteen memories are scored together. Each leaves LANES partial sums. `fold` adds those up for two
vectors in three instructions, so that every score ends in its own lane.

With `w` = -2 w3 a score is Σ w / (1 + e^{2(k+q)}). This is w3 · tanh(k + q) without Σ w3, which is
the same for all memories and cancels in every normalizer. Both exponentials are clamped to the
range of `exp`. This has no effect while |q| is within REACH: a key beyond the range of `exp`
saturates by itself. If some |q| of an example exceeds REACH, the example is `wide` and is scored
from k and q.

H is the hidden size (whole vectors), M the number of memories.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types

from sabtune.ops.compiled.common import Array, Row
from sabtune.ops.compiled.score import SATURATED, SATURATED_FLOAT
from sabtune.ops.compiled.simd import (
    LANES,
    Code,
    F,
    Number,
    at_least,
    at_most,
    called,
    compiled,
    exp,
    instruction,
    lanes_of,
    largest,
    load,
    splat,
    store,
    total,
)
from sabtune.ops.compiled.tile import Left, Right, Rows, tile

QUAD = 4  # memories whose sums are folded in registers
ACROSS = 4  # vectors of a sum over memories

sum_tile = tile(1, ACROSS)
thin_sum_tile = tile(1, 1)


class ScoreRow(NamedTuple):
    """The place that a row of scores is written to: `array`, from the flat offset `at` on.

    filler: the number that pads the last vector. quads: an array (QUAD, LANES) to work in.
    """

    array: Array
    at: int
    filler: Number
    quads: Array


def fold(width: int) -> Code:
    """Return an operation on vectors a and b that consist of groups of `width` partial sums.

    It adds the halves of every group. In the result, the groups of a come before those of b.
    """
    half = width // 2

    def instruction_of(typing: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            starts = range(0, 2 * LANES, width)
            index = ir.VectorType(ir.IntType(32), LANES)
            low, high = (
                ir.Constant(index, [g + shift + n for g in starts for n in range(half)])
                for shift in (0, half)
            )
            parts = (builder.shuffle_vector(*args, lanes) for lanes in (low, high))
            return builder.fadd(*parts)

        return a(a, b), code

    return instruction(instruction_of)


fold16, fold8, fold4, fold2 = (fold(width) for width in (16, 8, 4, 2))


@instruction
def first_lanes(typing: Any, count: Any, a: Any, b: Any) -> Any:
    """Take the first `count` lanes of a and the others of b; all of a if count >= LANES."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = splat(builder, args[0])
        lanes = ir.Constant(number.type, list(range(LANES)))
        return builder.select(builder.icmp_signed("<", lanes, number), args[1], args[2])

    return a(types.intp, a, b), code


@compiled
def tame_denominator(key: Array, at: int, query: Any) -> Any:
    """Return 1 + e^{2(k+q)} from e^{2k} and e^{2q}."""
    one = lanes_of(key.dtype.type(1))
    return one + load(key, at) * query


@compiled
def wide_denominator(key: Array, at: int, query: Any) -> Any:
    """Return 1 + e^{2(k+q)} from k and q."""
    one = lanes_of(key.dtype.type(1))
    u = load(key, at) + query
    return one + exp(u + u)


def scorer(denominator: F) -> Callable[..., Any]:
    """Return a function that scores a memory as LANES partial sums. Four units share a division."""

    @compiled
    def score(key: Array, at: int, query: Array, q: int, w: Array) -> Any:
        most = lanes_of(w.dtype.type(SATURATED_FLOAT if w.itemsize == 4 else SATURATED))
        sums = most - most
        H = w.shape[0]
        fours = H // (4 * LANES) * 4 * LANES
        for j0 in range(0, fours, 4 * LANES):
            j1, j2, j3 = j0 + LANES, j0 + 2 * LANES, j0 + 3 * LANES
            x0 = at_most(most, denominator(key, at + j0, load(query, q + j0)))
            x1 = at_most(most, denominator(key, at + j1, load(query, q + j1)))
            x2 = at_most(most, denominator(key, at + j2, load(query, q + j2)))
            x3 = at_most(most, denominator(key, at + j3, load(query, q + j3)))
            x01 = x0 * x1
            x23 = x2 * x3
            w01 = load(w, j0) * x1 + load(w, j1) * x0
            w23 = load(w, j2) * x3 + load(w, j3) * x2
            sums = sums + (w01 * x23 + w23 * x01) / (x01 * x23)
        for j in range(fours, H, LANES):
            sums = sums + load(w, j) / at_most(most, denominator(key, at + j, load(query, q + j)))
        return sums

    return score


@compiled
def inner(memory: Array, at: int, vector: Array, v: int, w: Array) -> Any:
    """Return m · v as LANES partial sums."""
    sums = lanes_of(w.dtype.type(0))
    for j in range(0, w.shape[0], LANES):
        sums = sums + load(memory, at + j) * load(vector, v + j)
    return sums


def over_memories(one: Callable[..., Any]) -> Callable[..., None]:
    """Return a function that applies `one`, the partial sums of one memory, to all memories."""

    @called
    def score_row(M: int, keys: Row, query: Row, w: Array, out: ScoreRow) -> None:
        """Write M numbers to `out`, padded with its filler to whole vectors."""
        H = w.shape[0]
        key, q = keys.array, query.array
        last = keys.at + (M - 1) * H
        for i in range(0, M, LANES):
            begin = keys.at + i * H
            for n in range(min(QUAD, (M - i + QUAD - 1) // QUAD)):
                m = begin + n * QUAD * H
                a = fold16(one(key, m, q, query.at, w), one(key, min(m + H, last), q, query.at, w))
                b = fold16(
                    one(key, min(m + 2 * H, last), q, query.at, w),
                    one(key, min(m + 3 * H, last), q, query.at, w),
                )
                store(out.quads, n * LANES, fold8(a, b))
            a = fold4(load(out.quads, 0), load(out.quads, LANES))
            b = fold4(load(out.quads, 2 * LANES), load(out.quads, 3 * LANES))
            scores = first_lanes(M - i, fold2(a, b), lanes_of(out.filler))
            store(out.array, out.at + i, scores)

    return score_row


tame_scores = over_memories(scorer(tame_denominator))
wide_scores = over_memories(scorer(wide_denominator))
products = over_memories(inner)


@called
def softmax(M: int, a: Array, at: int) -> None:
    """Replace M scores, padded with -inf to whole vectors, by their softmax.

    The padding becomes the smallest number that `exp` returns, which is negligible.
    """
    most = load(a, at)
    for i in range(LANES, M, LANES):
        most = at_least(most, load(a, at + i))
    top = lanes_of(largest(most))
    sums = top - top
    for i in range(0, M, LANES):
        v = exp(load(a, at + i) - top)
        sums = sums + v
        store(a, at + i, v)
    share = lanes_of(a.dtype.type(1) / total(sums))
    for i in range(0, M, LANES):
        store(a, at + i, load(a, at + i) * share)


@called
def recall(M: int, p: Row, step: int, memory: Row, H: int, summary: Row) -> None:
    """Add Σ p_i m_i to `summary`; `step` is the offset from one p_i to the next."""
    left = Left(p.array, p.at, 0, step)
    broad = H // (ACROSS * LANES) * ACROSS * LANES
    for j in range(0, broad, ACROSS * LANES):
        right = Right(memory.array, memory.at + j, H, LANES)
        sum_tile(left, right, M, Rows(summary.array, summary.at + j, 0))
    for j in range(broad, H, LANES):
        right = Right(memory.array, memory.at + j, H, LANES)
        thin_sum_tile(left, right, M, Rows(summary.array, summary.at + j, 0))
