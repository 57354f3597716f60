"""What the two compiled passes share: products, scores, and where a memory lies.

B batch, T steps, I inputs, H hidden (a multiple of LANES: the caller pads with zeros, and a zero
stays zero), G = 4H, M memories, K kept = min(k_top + 1, M): the scores above θ and θ itself.

    gates    (B, T, G)   σ of input, forget, cell and output gate. The cell's was taken of twice its
                         sum: tanh(x) = 2σ(2x) - 1
    hidden, summary (B, T, H)   h_t and s_t
    cells    (B, …, H)   c before every SEGMENT-th step; the way back makes those between again
    old      (B, …, H)   the M0 memories that were there before this call; those made since are the
                         rows of `hidden` where they were made
    keys     (B, …, H)   e^{2 W1 m}, or W1 m itself in the examples that are `wide`
    chosen, weights      the K memories of every step and their p_i, θ's own first, rows packed one
                         step behind the other from `starts` on; sums (B, T): Σ w + ε
    W_in, W_hh, W1, W2   as `kernel_layout.packed` lays them out

tanh(k + q) = 1 - 2 / (1 + e^{2k}·e^{2q}), with e^{2k} made once for a memory: a score takes a
multiplication and a division for each unit, and two units share the division: 0.13 ns a unit. An
example in which some |k| or |q| passes REACH would overflow; it turns `wide`: exact, but slower.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import cast

import numba
import numpy as np
from numpy.typing import NDArray

from sabtune.ops.kernel_simd import (
    LANES,
    F,
    Number,
    at_least,
    at_most,
    compiled,
    exp,
    lanes_of,
    largest,
    load,
    spread,
    store,
    total,
)

TILE = 32  # examples that go through the sequence together, sharing the loads of the weights
ROWS = 4  # of a product at once: 4 × 16 sums fill AVX2's registers
DEPTH = 256  # of a product at once: its 256 × 16 weights stay in the first-level cache
SEGMENT = 16  # steps
REACH = 21.5  # e^{2·21.5} squared is 5e37, still a float32
SATURATED = 1e18  # 1 + x and the product of two of them: finite, and 1 - 2/x is 1

Array = NDArray[np.floating]
Whole = NDArray[np.integer]
Flags = NDArray[np.bool_]


def _digest() -> str:
    """Of the text of all kernels: numba itself looks only at the file that a function is in."""
    files = sorted(Path(__file__).parent.glob("kernel*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


SOURCES = _digest()


def kernel(function: F) -> F:
    """A function that Python calls: compiled once for a dtype, run without the GIL.

    The code is kept on disk, beside the package or in the user's cache, under the name of the
    function and SOURCES. Where neither can be written each process compiles for itself.
    """
    function.__qualname__ += f"_{SOURCES}"
    try:
        return cast(F, numba.njit(error_model="numpy", nogil=True, cache=True)(function))
    except RuntimeError:  # no place for a cache
        return cast(F, numba.njit(error_model="numpy", nogil=True)(function))


@compiled
def padded(rows: int) -> int:
    return (rows + ROWS - 1) // ROWS * ROWS


@compiled
def product(
    rows: int, a: Array, start: int, step: int, depth: int, w: Array, width: int, c: Array
) -> None:
    """c (rows, width) += a @ w, for a multiple of ROWS; a row of a: `depth` of its `step`."""
    pieces = (depth + DEPTH - 1) // DEPTH
    for piece in range(pieces):
        k0 = depth * piece // pieces
        k1 = depth * (piece + 1) // pieces
        for n in range(0, width, LANES):
            for r in range(0, rows, ROWS):
                at = r * width + n
                c0 = load(c, at)
                c1 = load(c, at + width)
                c2 = load(c, at + 2 * width)
                c3 = load(c, at + 3 * width)
                a0 = start + r * step
                a1 = a0 + step
                a2 = a1 + step
                a3 = a2 + step
                for k in range(k0, k1):
                    wk = load(w, n * depth + k * LANES)
                    c0 = c0 + spread(a, a0 + k) * wk
                    c1 = c1 + spread(a, a1 + k) * wk
                    c2 = c2 + spread(a, a2 + k) * wk
                    c3 = c3 + spread(a, a3 + k) * wk
                store(c, at, c0)
                store(c, at + width, c1)
                store(c, at + 2 * width, c2)
                store(c, at + 3 * width, c3)


@compiled
def outer(
    rows: int, a: Array, a_step: int, a_width: int, b: Array, b_step: int, b_width: int, c: Array
) -> None:
    """c (a_width, b_width) += aᵀ @ b over `rows` rows, each the first of its `step`."""
    for n in range(0, b_width, LANES):
        for m in range(0, a_width, ROWS):
            at = m * b_width + n
            c0 = load(c, at)
            c1 = load(c, at + b_width)
            c2 = load(c, at + 2 * b_width)
            c3 = load(c, at + 3 * b_width)
            for r in range(rows):
                by = load(b, r * b_step + n)
                ar = r * a_step + m
                c0 = c0 + spread(a, ar) * by
                c1 = c1 + spread(a, ar + 1) * by
                c2 = c2 + spread(a, ar + 2) * by
                c3 = c3 + spread(a, ar + 3) * by
            store(c, at, c0)
            store(c, at + b_width, c1)
            store(c, at + 2 * b_width, c2)
            store(c, at + 3 * b_width, c3)


@compiled
def copy(target: Array, at: int, source: Array, start: int, count: int) -> None:
    for j in range(0, count, LANES):
        store(target, at + j, load(source, start + j))


@compiled
def add(target: Array, at: int, factor: Number, source: Array, start: int, count: int) -> None:
    by = lanes_of(factor)
    for j in range(0, count, LANES):
        store(target, at + j, load(target, at + j) + by * load(source, start + j))


@compiled
def furthest(a: Array, at: int, count: int) -> Number:
    """The largest |a_j|."""
    most = load(a, at) - load(a, at)
    for j in range(0, count, LANES):
        v = load(a, at + j)
        most = at_least(most, at_least(v, most - most - v))
    return largest(most)


@compiled
def squash(a: Array, count: int) -> None:
    """σ of the first `count` elements."""
    one = lanes_of(a.dtype.type(1))
    zero = lanes_of(a.dtype.type(0))
    for j in range(0, count, LANES):
        store(a, j, one / (one + exp(zero - load(a, j))))


@compiled
def score(key: Array, at: int, query: Array, q: int, w3: Array, H: int, wide: bool) -> Number:
    """Σ w3 / (1 + e^{2(k+q)}), of which a = Σ w3 - 2·score; two units share one division."""
    one = lanes_of(w3.dtype.type(1))
    most = lanes_of(w3.dtype.type(SATURATED))
    sums = one - one
    if wide:
        for j in range(0, H, LANES):
            u = load(key, at + j) + load(query, q + j)
            sums = sums + load(w3, j) / (one + exp(u + u))
        return total(sums)
    half = H // LANES // 2 * LANES
    for j in range(0, half, LANES):
        x = one + at_most(most, load(key, at + j) * load(query, q + j))
        y = one + at_most(most, load(key, at + half + j) * load(query, q + half + j))
        sums = sums + (load(w3, j) * y + load(w3, half + j) * x) / (x * y)
    for j in range(2 * half, H, LANES):
        x = one + at_most(most, load(key, at + j) * load(query, q + j))
        sums = sums + load(w3, j) / x
    return total(sums)


@compiled
def made_at(j: int, step: int, k_att: int) -> int:
    """The step of this call, from 0, whose h_t became its j-th memory."""
    return (step // k_att + 1 + j) * k_att - step - 1


@compiled
def widen(keys: Array, at: int, count: int) -> None:
    """e^{2k} -> k."""
    flat = keys.reshape(-1)
    for j in range(at, at + count):
        flat[j] = 0.5 * math.log(flat[j])
