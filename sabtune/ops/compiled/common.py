"""Types, constants and small operations that the compiled kernels share.

Notation of the forward and the backward pass: B batch, T steps, I inputs, H hidden (a multiple of
LANES: the caller pads with zeros, and a zero stays zero), G = 4H, M memories, K = min(k_top + 1, M)
selected memories: those with a score above θ, and the one whose score is θ. ĥ_t is the query, h'_t
of `ops.reference`, and q_t is W2 ĥ_t. dL/d of A is the gradient of the loss L with respect to A.
A vector is LANES neighboring numbers.

    gates    (T, B, G)   σ of the input, forget, cell and output gate. For the cell gate it is σ of
                         twice the gate's sum, because tanh(x) = 2σ(2x) - 1
    hidden, summary (T, B, H)   h_t and s_t
    cells    (T, B, H)   c_t
    queries  (T, B, H)   W2 ĥ_t, if scores depend on it
    memory   (B, …, H)   m_i; the first M0 were there before the call
    keys     (B, …, H)   e^{2 W1 m}. For `wide` examples, W1 m itself; if scores are a dot product
                         or depend on the memory alone, all examples are wide
    chosen, weights      the K selected memories of every step and their p_i, that of θ first. The
                         rows of the steps follow each other; `starts` says where each begins
    sums     (B, T)      the divisor of the weights of every step
    W_ih, W_hh, W1, W2   packed by `layout.Layout.panels`
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple, cast

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
MLP, DOT, SEPARABLE = range(3)  # the scoring functions of `Rule`

Array = NDArray[np.floating]
Whole = NDArray[np.integer]
Flags = NDArray[np.bool_]
Shape = tuple[tuple[int, ...], Any]  # an array's shape and dtype


class Row(NamedTuple):
    """A vector within an array: it begins at the flat offset `at`."""

    array: Any
    at: int


def filled(count: int) -> int:
    """Return the next multiple of LANES."""
    return -(-count // LANES) * LANES


def _digest() -> str:
    """Return a digest of the source text of all kernels.

    numba itself looks only at the file that a function is in. The checked build has its own suffix,
    so that neither build loads what the other one cached.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    return digest + "_checked" * CHECKED


SOURCES = _digest()


def kernel(function: F) -> F:
    """Compile a function that Python calls, once for each dtype. It runs without the GIL.

    numba caches the machine code on disk, next to the package or in the user's cache, under the
    function's name and SOURCES. If neither folder is writable, each process compiles the function.
    """
    function.__qualname__ += f"_{SOURCES}"
    try:
        return cast(F, numba.njit(nogil=True, cache=True, **BARE)(function))
    except RuntimeError:  # no writable folder for a cache
        return cast(F, numba.njit(nogil=True, **BARE)(function))


class Settings(NamedTuple):
    """The numbers of a call.

    step: the number of steps before the call. cut: the number of steps by which the cuts of
    truncated back-propagation are early. M0: the number of memories from before the call. sparse:
    whether x is mostly zeros, so that the kernels skip those.
    """

    scoring: int  # MLP, DOT or SEPARABLE
    softmax: bool
    epsilon: float
    step: int
    k_top: int
    k_att: int
    k_trunc: int
    cut: int
    M0: int
    sparse: bool


class Inputs(NamedTuple):
    """x (B, T, I), and the state before the call: h and c (B, H)."""

    x: Array
    h: Array
    c: Array


class Tape(NamedTuple):
    """The arrays that the forward pass saves for the backward pass.

    wide: (B,), which examples are wide.
    """

    gates: Array
    cells: Array
    queries: Array
    memory: Array
    keys: Array
    wide: Flags
    chosen: Whole
    weights: Array
    sums: Array
    starts: Whole


class Tile(NamedTuple):
    """The examples that go through the sequence together: B of them, from `first` on.

    rows: B rounded up to a multiple of `product.ROWS`.
    """

    first: int
    B: int
    rows: int


class Step(NamedTuple):
    """Step t of a call, with M memories, of which it selects K.

    known: the number of memories that the previous step selected.
    """

    t: int
    M: int
    K: int
    known: int


@compiled
def memories_at(s: Settings, t: int) -> int:
    """Return the number of memories at step t of the call."""
    return s.M0 + (s.step + t) // s.k_att - s.step // s.k_att


@compiled
def copy(target: Array, at: int, source: Array, start: int, count: int) -> None:
    """Copy `count` numbers, a multiple of LANES."""
    for j in range(0, count, LANES):
        store(target, at + j, load(source, start + j))


@compiled
def fetch(a: Array, at: int, count: int) -> None:
    """Prefetch `count` numbers that will be accessed soon."""
    for j in range(0, count, LANES):
        prefetch(a, at + j)


@compiled
def add(target: Array, at: int, factor: Number, source: Array, start: int, count: int) -> None:
    """Add `factor` times `count` numbers of `source`, a multiple of LANES, to `target`."""
    by = lanes_of(factor)
    for j in range(0, count, LANES):
        store(target, at + j, load(target, at + j) + by * load(source, start + j))


@compiled
def largest_magnitude(a: Array, at: int, count: int) -> Number:
    """Return the largest |a_j| of `count` numbers, a multiple of LANES."""
    most = load(a, at) - load(a, at)
    for j in range(0, count, LANES):
        v = load(a, at + j)
        most = at_least(most, at_least(v, most - most - v))
    return largest(most)


@compiled
def widen(keys: Array, at: int, count: int) -> None:
    """Replace e^{2k} by k in `count` numbers."""
    flat = keys.reshape(-1)
    for j in range(at, at + count):
        flat[j] = 0.5 * math.log(flat[j])
