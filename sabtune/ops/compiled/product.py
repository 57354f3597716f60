"""Products of a few rows with packed weights, and sums of outer products.

Both add up tiles whose sums stay in registers: as many independent additions as hide the latency of
each, and few enough loads to feed them. With AVX-512's 32 registers a tile has eight rows by two
vectors: 235 to 260 GFLOP/s on a core on which torch.mm reaches 110. With AVX2's 16, of half the
width, it has six rows by one. What is left over goes in fours.
"""

from __future__ import annotations

from typing import Any

from sabtune.ops.compiled.simd import LANES, WIDE_REGISTERS, called, compiled
from sabtune.ops.compiled.tile import tile

ROWS = 4  # the rows of a product come in multiples of it
DEPTH = 256  # of a product at once: its weights stay in the first-level cache
COLUMNS = 64  # of an outer product's left factor at once: they stay there, too

TALL = 8 if WIDE_REGISTERS else 6  # rows of a tile
BROAD = 2 if WIDE_REGISTERS else 1  # vectors
ACROSS = BROAD * LANES

whole_tile = tile(TALL, BROAD)
thin_tile = tile(TALL, 1)
low_tile = tile(ROWS, BROAD)
least_tile = tile(ROWS, 1)

Array = Any


@compiled
def padded(rows: int) -> int:
    return (rows + ROWS - 1) // ROWS * ROWS


@compiled
def in_tall(rows: int) -> int:
    """How many of `rows`, a multiple of 4, to take TALL at a time; 0, 4 or 8 are left."""
    return rows - rows % TALL if TALL % ROWS == 0 else rows - 2 * (-rows % TALL)


@compiled
def strip(
    rows: int, a: Array, at: int, row: int, step: int, b: Array, b_at: int, b_step: int,
    b_next: int, vectors: int, count: int, c: Array, c_at: int, c_row: int,
) -> None:  # fmt: skip
    """`tile` for BROAD vectors of c, or for one, down all `rows`."""
    tall = in_tall(rows)
    if vectors == BROAD:
        for r in range(0, tall, TALL):
            whole_tile(a, at + r * row, row, step, b, b_at, b_step, b_next, count,
                       c, c_at + r * c_row, c_row)  # fmt: skip
        for r in range(tall, rows, ROWS):
            low_tile(a, at + r * row, row, step, b, b_at, b_step, b_next, count,
                     c, c_at + r * c_row, c_row)  # fmt: skip
    else:
        for r in range(0, tall, TALL):
            thin_tile(a, at + r * row, row, step, b, b_at, b_step, b_next, count,
                      c, c_at + r * c_row, c_row)  # fmt: skip
        for r in range(tall, rows, ROWS):
            least_tile(a, at + r * row, row, step, b, b_at, b_step, b_next, count,
                       c, c_at + r * c_row, c_row)  # fmt: skip


@called
def product(
    rows: int, a: Array, start: int, step: int, depth: int, w: Array, width: int,
    c: Array, c_start: int, c_step: int,
) -> None:  # fmt: skip
    """c (rows, width) += a (rows, depth) @ w, for a multiple of ROWS.

    A row of a is every `step` numbers from `start` on, one of c likewise.
    """
    pieces = (depth + DEPTH - 1) // DEPTH
    for piece in range(pieces):
        k = depth * piece // pieces
        count = depth * (piece + 1) // pieces - k
        for n in range(0, width, ACROSS):
            vectors = min(BROAD, (width - n) // LANES)
            panel = n * depth + k * LANES
            strip(rows, a, start + k, step, 1, w, panel, LANES, depth * LANES, vectors, count,
                  c, c_start + n, c_step)  # fmt: skip


@called
def outer(
    rows: int, a: Array, a_step: int, a_width: int, b: Array, b_start: int, b_step: int,
    b_width: int, c: Array, c_start: int, c_step: int,
) -> None:  # fmt: skip
    """c (a_width, b_width) += aᵀ @ b over `rows` rows.

    A row of a is every a_step numbers, one of b and of c likewise from their starts on.
    """
    for block in range(0, a_width, COLUMNS):
        end = min(block + COLUMNS, a_width)
        for n in range(0, b_width, ACROSS):
            vectors = min(BROAD, (b_width - n) // LANES)
            strip(end - block, a, block, 1, a_step, b, b_start + n, b_step, LANES, vectors, rows,
                  c, c_start + block * c_step + n, c_step)  # fmt: skip
