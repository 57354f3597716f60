"""What the two compiled passes share.

B batch, T steps, I inputs, H hidden (a multiple of LANES: the caller pads with zeros, and a zero
stays zero), G = 4H, M memories, K kept = min(k_top + 1, M): the scores above θ and θ itself.

    gates    (T, B, G)   σ of input, forget, cell and output gate. The cell's was taken of twice its
                         sum: tanh(x) = 2σ(2x) - 1
    hidden, summary (T, B, H)   h_t and s_t
    cells    (T, B, H)   c_t
    queries  (T, B, H)   W2 h'_t, where a score depends on it
    memory   (B, …, H)   m_i; the first M0 were there before this call
    keys     (B, …, H)   e^{2 W1 m}; W1 m itself in the examples that are `wide`: all of them where
                         scores are a dot product or the memory's alone
    chosen, weights      the K memories of every step and their p_i, θ's own first, rows packed one
                         step behind the other from `starts` on
    sums (B, T)          what weights were divided by: Σ w + ε
    W_ih, W_hh, W1, W2   as `kernel_layout.Layout.panels` has them
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, cast

import numba
import numpy as np
from numpy.typing import NDArray

from sabtune.ops.compiled.simd import (
    BARE,
    CHECKED,
    LANES,
    F,
    Number,
    at_least,
    compiled,
    lanes_of,
    largest,
    load,
    prefetch,
    store,
)

TILE = 32  # examples that go through the sequence together, sharing the loads of the weights
REACH = 21.5  # e^{2·21.5} squared is 5e37, still a float32
MLP, DOT, SEPARABLE = range(3)  # ways of scoring

Array = NDArray[np.floating]
Whole = NDArray[np.integer]
Flags = NDArray[np.bool_]
Shape = tuple[tuple[int, ...], Any]  # an array's shape and dtype
Scratch = tuple[NDArray[Any], ...]


def filled(count: int) -> int:
    """The next multiple of LANES."""
    return -(-count // LANES) * LANES


def _digest() -> str:
    """Of the text of all kernels: numba itself looks only at the file that a function is in.

    The checked build has a name of its own, so that neither build loads what the other cached.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    return digest + "_checked" * CHECKED


SOURCES = _digest()


def kernel(function: F) -> F:
    """A function that Python calls: compiled once for a dtype, run without the GIL.

    The code is kept on disk, beside the package or in the user's cache, under the name of the
    function and SOURCES. Where neither can be written each process compiles for itself.
    """
    function.__qualname__ += f"_{SOURCES}"
    try:
        return cast(F, numba.njit(nogil=True, cache=True, **BARE)(function))
    except RuntimeError:  # no place for a cache
        return cast(F, numba.njit(nogil=True, **BARE)(function))


@compiled
def copy(target: Array, at: int, source: Array, start: int, count: int) -> None:
    for j in range(0, count, LANES):
        store(target, at + j, load(source, start + j))


@compiled
def fetch(a: Array, at: int, count: int) -> None:
    """Asks for what will be read soon."""
    for j in range(0, count, LANES):
        prefetch(a, at + j)


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
def widen(keys: Array, at: int, count: int) -> None:
    """e^{2k} -> k."""
    flat = keys.reshape(-1)
    for j in range(at, at + count):
        flat[j] = 0.5 * math.log(flat[j])
