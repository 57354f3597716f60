"""The forward pass of the LSTM with self-attention, compiled: one call runs every step.

TILE examples go through the whole sequence together, so that their memories stay in the cache.

Notation of the dense kernels: B batch, T steps, I inputs, H hidden (a multiple of LANES: the caller
pads with zeros, and a zero stays zero), G = 4H, M memories: M0 from before the call and one for
every step. ĥ_t, q_t, dL/d of A and vectors are as in `sabtune.ops.compiled.common`.

    gates    (B, T, G)   σ of the input, forget, cell and output gate. For the cell gate it is σ of
                         twice the gate's sum
    cells, queries, summary (B, T, H)   c_t, W2 ĥ_t and s_t
    memory, raw, keys (B, M0 + T, H)    h_i, W1 h_i and e^{2 W1 h_i}
    weights  (B, …)      p_i, one row per step, padded to whole vectors; `starts` says where each
                         row begins
    W_ih, W_hh, W1, W2   packed by `layout.Layout.panels`
    w        (H,)        -2 w3
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sabtune.ops.compiled.cell import cell
from sabtune.ops.compiled.common import (
    REACH,
    Array,
    Flags,
    Row,
    Shape,
    Whole,
    copy,
    fetch,
    kernel,
    largest_magnitude,
)
from sabtune.ops.compiled.dense_normalize import EARLY, Weighting, normalize
from sabtune.ops.compiled.dense_score import QUAD, ScoreRow, recall, tame_scores, wide_scores
from sabtune.ops.compiled.product import ROWS, padded, product
from sabtune.ops.compiled.simd import LANES, compiled, exp, load, phase, store
from sabtune.ops.compiled.tile import Rows

TILE = 4  # examples that go through the sequence together


class Tape(NamedTuple):
    """The arrays that the forward pass saves for the backward pass.

    wide: (B,), which examples are scored from `raw`; false at first.
    """

    gates: Array
    cells: Array
    queries: Array
    summary: Array
    memory: Array
    raw: Array
    keys: Array
    wide: Flags
    weights: Array
    starts: Whole


class Weights(NamedTuple):
    """The weights of the forward pass. In W_ih, W_hh and bias (G,), the cell gate is doubled."""

    W_ih: Array
    W_hh: Array
    bias: Array
    W1: Array
    W2: Array
    w: Array


class Scratch(NamedTuple):
    """The arrays that a call works in, or their shapes."""

    X: Any  # x_t
    S: Any  # the sums of the gates
    states: Any  # ĥ_t
    carried: Any  # h_t
    q: Any  # W2 ĥ_t, then W1 h_t
    s: Any  # s_t
    e: Any  # e^{2q}
    quads: Any


class Tile(NamedTuple):
    """The examples that go through the sequence together: B of them, from `first` on.

    rows: B rounded up to a multiple of ROWS. M0: the number of memories from before the call.
    T: the number of steps of the call.
    """

    first: int
    B: int
    rows: int
    M0: int
    T: int


@compiled
def exponentials(raw: Array, start: int, count: int, keys: Array, to: int) -> None:
    """Write e^{2k} of `count` numbers k of `raw` to `keys`."""
    for j in range(0, count, LANES):
        v = load(raw, start + j)
        store(keys, to + j, exp(v + v))


def scratch(examples: int, H: int, inputs: int, real: Any) -> Scratch:
    """Return the shapes of the arrays for a call on `examples` examples."""
    rows = min(TILE, -(-examples // ROWS) * ROWS)
    across = H + LANES  # rows at a power of two would share cache lines
    shapes: dict[str, Shape] = {
        "X": ((rows, inputs), real),
        "S": ((rows, 4 * H + LANES), real),
        "states": ((rows, across), real),
        "carried": ((rows, across), real),
        "q": ((rows, across), real),
        "s": ((rows, across), real),
        "e": ((H,), real),
        "quads": ((QUAD, LANES), real),
    }
    return Scratch(**shapes)


@phase
def start_tile(tile: Tile, h: Array, tape: Tape, work: Scratch) -> None:
    """Load h, and compute the keys of the memories, from before the call."""
    H, across = h.shape[1], work.carried.shape[1]
    for r in range(tile.B):
        b = tile.first + r
        copy(work.carried, r * across, h, b * H, H)
        at = b * tape.memory.shape[1] * H
        exponentials(tape.raw, at, tile.M0 * H, tape.keys, at)


@phase
def step_cell(
    tile: Tile, t: int, keep: bool, x: Array, c: Array, tape: Tape, w: Weights, work: Scratch
) -> None:
    """Compute ĥ_t and c_t."""
    inputs, H = x.shape[2], c.shape[1]
    across, S_row = work.states.shape[1], work.S.shape[1]
    G = 4 * H
    for r in range(tile.rows):
        copy(work.S, r * S_row, w.bias, 0, G)
    for r in range(tile.B):
        for j in range(inputs):
            work.X[r, j] = x[tile.first + r, t, j]
    sums = Rows(work.S, 0, S_row)
    product(tile.rows, Rows(work.X, 0, inputs), inputs, w.W_ih, sums, G)
    product(tile.rows, Rows(work.carried, 0, across), H, w.W_hh, sums, G)
    for r in range(tile.B):
        b = tile.first + r
        now = b * tile.T + t
        gates, state = Row(tape.gates, now * G), Row(work.states, r * across)
        cell(Row(work.S, r * S_row), Row(c, b * H), H, keep, gates, state)
        if keep:
            copy(tape.cells, now * H, c, b * H, H)
            fetch(tape.gates, (now + 1) * G, G)  # what the next step will write
            fetch(tape.cells, (now + 1) * H, H)


@phase
def attend(
    b: int, r: int, t: int, M: int, weighting: Weighting, tape: Tape, w: Array, work: Scratch
) -> None:  # fmt: skip
    """Compute s_t of example b, which is row r of its tile, over M memories, for M > 0."""
    H, row = w.shape[0], r * work.q.shape[1]
    at = b * tape.weights.shape[1] + tape.starts[t]
    memories = b * tape.memory.shape[1] * H
    if largest_magnitude(work.q, row, H) > REACH:
        tape.wide[b] = True
    filler = w.dtype.type(0) if weighting.kind == EARLY else w.dtype.type(-np.inf)
    out = ScoreRow(tape.weights, at, filler, work.quads)
    if tape.wide[b]:
        wide_scores(M, Row(tape.raw, memories), Row(work.q, row), w, out)
    else:
        exponentials(work.q, row, H, work.e, 0)
        tame_scores(M, Row(tape.keys, memories), Row(work.e, 0), w, out)
    normalize(weighting, M, w, tape.weights, at)
    recall(M, Row(tape.weights, at), 1, Row(tape.memory, memories), H, Row(work.s, row))


@phase
def step_attention(
    tile: Tile, t: int, keep: bool, weighting: Weighting, tape: Tape, w: Weights, work: Scratch
) -> None:  # fmt: skip
    """Compute s_t and h_t from ĥ_t."""
    H, across = w.w.shape[0], work.q.shape[1]
    zero = w.w.dtype.type(0)
    work.q[: tile.rows] = zero
    work.s[: tile.rows] = zero
    product(tile.rows, Rows(work.states, 0, across), H, w.W2, Rows(work.q, 0, across), H)
    for r in range(tile.B):
        b = tile.first + r
        now = (b * tile.T + t) * H
        row = r * across
        if keep:
            copy(tape.queries, now, work.q, row, H)
        if tile.M0 + t > 0:
            attend(b, r, t, tile.M0 + t, weighting, tape, w.w, work)
        copy(tape.summary, now, work.s, row, H)
        if weighting.kind == EARLY:
            copy(work.carried, row, work.states, row, H)
        else:
            for j in range(row, row + H, LANES):
                store(work.carried, j, load(work.states, j) + load(work.s, j))


@phase
def remember(tile: Tile, t: int, tape: Tape, W1: Array, work: Scratch) -> None:
    """Append h_t to the memories, and its key to the keys."""
    H, across = tape.memory.shape[2], work.q.shape[1]
    work.q[: tile.rows] = work.e.dtype.type(0)
    product(tile.rows, Rows(work.carried, 0, across), H, W1, Rows(work.q, 0, across), H)
    for r in range(tile.B):
        row = r * across
        at = ((tile.first + r) * tape.memory.shape[1] + tile.M0 + t) * H
        copy(tape.memory, at, work.carried, row, H)
        copy(tape.raw, at, work.q, row, H)
        exponentials(work.q, row, H, tape.keys, at)


@kernel
def forward(
    low: int, high: int, keep: bool, M0: int, weighting: Weighting, x: Array, h: Array, c: Array,
    tape: Tape, w: Weights, work: Scratch,
) -> None:  # fmt: skip
    """Run examples `low` to `high` - 1 of x (B, T, I) through all steps.

    h, c (B, H): the state before the call, which is replaced by the state after it. tape: its
    memory and raw hold the memories from before the call; the pass writes the keys of all memories.
    keep: write what the backward pass needs. Otherwise the tape's gates, cells and queries may have
    no steps.
    """
    T, H = x.shape[1], h.shape[1]
    zero = w.w.dtype.type(0)
    work.X[:] = zero  # rows that no example fills
    work.states[:] = zero
    work.carried[:] = zero
    for first in range(low, high, TILE):
        B = min(TILE, high - first)
        tile = Tile(first, B, padded(B), M0, T)
        start_tile(tile, h, tape, work)
        for t in range(T):
            step_cell(tile, t, keep, x, c, tape, w, work)
            step_attention(tile, t, keep, weighting, tape, w, work)
            remember(tile, t, tape, w.W1, work)
        for r in range(B):
            copy(h, (first + r) * H, work.carried, r * work.carried.shape[1], H)
