"""Products of a few rows with packed weights, and sums of outer products.

Both add up tiles of six rows by LANES columns, whose sums fill twelve of AVX2's sixteen registers:
as many independent additions as hide the latency of each, and few enough loads to feed them. Rows
that sixes leave over go in fours. 90 % of what the processor's multipliers can do at best.
"""

from __future__ import annotations

from typing import Any

from sabtune.ops.kernel_simd import LANES, called, compiled, load, spread, store

ROWS = 4  # the rows of a product come in multiples of it
DEPTH = 256  # of a product at once: its 256 × 16 weights stay in the first-level cache
COLUMNS = 64  # of an outer product's left factor at once: they stay there, too

Array = Any


@compiled
def padded(rows: int) -> int:
    return (rows + ROWS - 1) // ROWS * ROWS


@compiled
def in_sixes(rows: int) -> int:
    """How many of `rows`, a multiple of 4, to take six at a time; 0, 4 or 8 are left."""
    return rows - 2 * (-rows % 6)


@compiled
def six(
    a: Array, at: int, row: int, step: int, b: Array, b_at: int, b_step: int, count: int,
    c: Array, c_at: int, c_row: int,
) -> None:  # fmt: skip
    """c_i += Σ_k a_ik b_k for six i: a number, a_ik, times LANES neighbours, b_k.

    c_i: LANES neighbours, i times c_row behind c_at; a_ik: i times `row` and k times `step` behind
    `at`; b_k: k times b_step behind b_at.
    """
    c0 = load(c, c_at)
    c1 = load(c, c_at + c_row)
    c2 = load(c, c_at + 2 * c_row)
    c3 = load(c, c_at + 3 * c_row)
    c4 = load(c, c_at + 4 * c_row)
    c5 = load(c, c_at + 5 * c_row)
    for k in range(count):
        bk = load(b, b_at + k * b_step)
        ak = at + k * step
        c0 = c0 + spread(a, ak) * bk
        c1 = c1 + spread(a, ak + row) * bk
        c2 = c2 + spread(a, ak + 2 * row) * bk
        c3 = c3 + spread(a, ak + 3 * row) * bk
        c4 = c4 + spread(a, ak + 4 * row) * bk
        c5 = c5 + spread(a, ak + 5 * row) * bk
    store(c, c_at, c0)
    store(c, c_at + c_row, c1)
    store(c, c_at + 2 * c_row, c2)
    store(c, c_at + 3 * c_row, c3)
    store(c, c_at + 4 * c_row, c4)
    store(c, c_at + 5 * c_row, c5)


@compiled
def four(
    a: Array, at: int, row: int, step: int, b: Array, b_at: int, b_step: int, count: int,
    c: Array, c_at: int, c_row: int,
) -> None:  # fmt: skip
    """`six` for four i."""
    c0 = load(c, c_at)
    c1 = load(c, c_at + c_row)
    c2 = load(c, c_at + 2 * c_row)
    c3 = load(c, c_at + 3 * c_row)
    for k in range(count):
        bk = load(b, b_at + k * b_step)
        ak = at + k * step
        c0 = c0 + spread(a, ak) * bk
        c1 = c1 + spread(a, ak + row) * bk
        c2 = c2 + spread(a, ak + 2 * row) * bk
        c3 = c3 + spread(a, ak + 3 * row) * bk
    store(c, c_at, c0)
    store(c, c_at + c_row, c1)
    store(c, c_at + 2 * c_row, c2)
    store(c, c_at + 3 * c_row, c3)


@called
def product(
    rows: int, a: Array, start: int, step: int, depth: int, w: Array, width: int, c: Array
) -> None:
    """c (rows, width) += a @ w, for a multiple of ROWS; a row of a: `depth` of its `step`."""
    sixes = in_sixes(rows)
    pieces = (depth + DEPTH - 1) // DEPTH
    for piece in range(pieces):
        k = depth * piece // pieces
        count = depth * (piece + 1) // pieces - k
        for n in range(0, width, LANES):
            panel = n * depth + k * LANES
            at = start + k
            for r in range(0, sixes, 6):
                six(a, at + r * step, step, 1, w, panel, LANES, count, c, r * width + n, width)
            for r in range(sixes, rows, 4):
                four(a, at + r * step, step, 1, w, panel, LANES, count, c, r * width + n, width)


@called
def outer(
    rows: int, a: Array, a_step: int, a_width: int, b: Array, b_step: int, b_width: int, c: Array
) -> None:
    """c (a_width, b_width) += aᵀ @ b over `rows` rows, each the first of its `step`."""
    for block in range(0, a_width, COLUMNS):
        end = min(block + COLUMNS, a_width)
        sixes = block + in_sixes(end - block)
        for n in range(0, b_width, LANES):
            for m in range(block, sixes, 6):
                six(a, m, 1, a_step, b, n, b_step, rows, c, m * b_width + n, b_width)
            for m in range(sixes, end, 4):
                four(a, m, 1, a_step, b, n, b_step, rows, c, m * b_width + n, b_width)
