"""The backward pass of the LSTM with self-attention, compiled: from last step to first.

The notation is that of `dense_forward`. The gradient of a memory accumulates in `d_memory` and
`d_keys` as the pass visits the steps that recalled it. When the pass reaches the step that made the
memory, the sum is complete. `d_memory` is updated for BLOCK steps at once, by one product instead
of one pass over the array per step. The gradients between the steps of the current block are
therefore added separately, at the step that needs them. tanh is recomputed from keys and queries,
so that no array of M numbers per unit and step is kept.

The pass leaves the factors of the weights' gradients behind: dL/d of the gates' sums in place of
the gates, dL/d of the queries in place of the queries, and d_keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sabtune.ops.compiled.cell import cell_backward
from sabtune.ops.compiled.common import (
    Array,
    Row,
    Shape,
    add,
    copy,
    fetch,
    filled,
    kernel,
)
from sabtune.ops.compiled.dense_forward import TILE, Tape, Tile, exponentials
from sabtune.ops.compiled.dense_normalize import EARLY, Weighting, normalize_backward
from sabtune.ops.compiled.dense_score import (
    QUAD,
    ScoreRow,
    inner,
    products,
    recall,
    tame_denominator,
    wide_denominator,
)
from sabtune.ops.compiled.product import ROWS, outer, padded, product
from sabtune.ops.compiled.score import SATURATED, SATURATED_FLOAT
from sabtune.ops.compiled.simd import (
    LANES,
    F,
    at_most,
    called,
    compiled,
    lanes_of,
    load,
    phase,
    spread,
    store,
    total,
)
from sabtune.ops.compiled.tile import Rows

BLOCK = 16  # steps whose gradients of memories are added up at once


class Outputs(NamedTuple):
    """dL/d of the outputs, (B, T, H)."""

    hidden: Array
    summary: Array


class Weights(NamedTuple):
    """The weights of the backward pass: matrices transposed and then packed, and w = -2 w3."""

    W_hh: Array
    W1: Array
    W2: Array
    w: Array


class Gradients(NamedTuple):
    """The gradients that the backward pass computes.

    keys: dL/d of the keys, in their shape; those of memories from before the call are not read.
    bias (G,), w3 (H,): sums over a call's examples.
    """

    keys: Array
    bias: Array
    w3: Array


class Scratch(NamedTuple):
    """The arrays that a call works in, or their shapes."""

    dh: Any
    dc: Any
    S: Any  # dL/d of the sums of the gates
    dk: Any  # dL/d of a key
    dq: Any  # dL/d of a query
    e: Any  # e^{2q}
    da: Any
    ds: Any  # of the steps of a block
    p: Any  # of the steps of a block
    d_memory: Any
    quads: Any


def scratch(examples: int, H: int, memories: int, real: Any) -> Scratch:
    """Return the shapes of the arrays for `examples` examples and up to `memories` memories."""
    rows = min(TILE, -(-examples // ROWS) * ROWS)
    across = H + LANES  # rows at a power of two would share cache lines
    shapes: dict[str, Shape] = {
        "dh": ((rows, across), real),
        "dc": ((rows, H), real),
        "S": ((rows, 4 * H + LANES), real),
        "dk": ((rows, across), real),
        "dq": ((rows, across), real),
        "e": ((H,), real),
        "da": ((memories + LANES,), real),
        "ds": ((rows, BLOCK, H), real),
        "p": ((rows, BLOCK, filled(memories)), real),
        "d_memory": ((rows, filled(memories), H), real),
        "quads": ((QUAD, LANES), real),
    }
    return Scratch(**shapes)


@compiled
def add_unit_gradients(a: Any, d: Any, w: Array, j: int, d_query: Row, d_w3: Array) -> None:
    """Add dL/dw3 = -2 Σ da z and write dL/dq = 4 w3 Σ da (z - z²), for LANES units."""
    store(d_w3, j, load(d_w3, j) - (a + a))
    v = load(w, j) * d
    store(d_query.array, d_query.at + j, lanes_of(w.dtype.type(0)) - (v + v))


def make_score_backward(denominator: F) -> Callable[..., None]:
    """Return the backward pass of a step's scores for one kind of keys and queries."""

    @called
    def score_backward(
        M: int, da: Array, keys: Row, query: Row, w: Array, d_query: Row, grads: Gradients
    ) -> None:
        """Compute the gradients of w3, of the keys and of the query from dL/da.

        Adds to d_w3. Adds dL/dk, without its factor 4 w3, to d_keys. Writes dL/dq to d_query. With
        z = 1 / (1 + e^{2(k+q)}), tanh is 1 - 2z and its slope is 4(z - z²). d_w3 is without Σ da,
        which is zero for every normalizer.
        """
        d_keys, d_w3 = grads.keys, grads.w3
        number = w.dtype.type
        one = lanes_of(number(1))
        zero = one - one
        most = lanes_of(number(SATURATED_FLOAT if w.itemsize == 4 else SATURATED))
        H = w.shape[0]
        fours = H // (4 * LANES) * 4 * LANES
        for j0 in range(0, fours, 4 * LANES):
            j1, j2, j3 = j0 + LANES, j0 + 2 * LANES, j0 + 3 * LANES
            q0, q1 = load(query.array, query.at + j0), load(query.array, query.at + j1)
            q2, q3 = load(query.array, query.at + j2), load(query.array, query.at + j3)
            a0, a1, a2, a3 = zero, zero, zero, zero  # Σ da z
            d0, d1, d2, d3 = zero, zero, zero, zero  # Σ da (z - z²)
            for i in range(M):
                by = spread(da, i)
                k0 = keys.at + i * H + j0
                k1, k2, k3 = k0 + LANES, k0 + 2 * LANES, k0 + 3 * LANES
                x0 = at_most(most, denominator(keys.array, k0, q0))
                x1 = at_most(most, denominator(keys.array, k1, q1))
                x2 = at_most(most, denominator(keys.array, k2, q2))
                x3 = at_most(most, denominator(keys.array, k3, q3))
                x01 = x0 * x1
                x23 = x2 * x3
                reciprocal = one / (x01 * x23)
                y01 = reciprocal * x23
                y23 = reciprocal * x01
                z0, z1, z2, z3 = y01 * x1, y01 * x0, y23 * x3, y23 * x2
                u0, u1, u2, u3 = by * z0, by * z1, by * z2, by * z3
                a0, a1, a2, a3 = a0 + u0, a1 + u1, a2 + u2, a3 + u3
                v0, v1, v2, v3 = u0 - u0 * z0, u1 - u1 * z1, u2 - u2 * z2, u3 - u3 * z3
                d0, d1, d2, d3 = d0 + v0, d1 + v1, d2 + v2, d3 + v3
                store(d_keys, k0, load(d_keys, k0) + v0)
                store(d_keys, k1, load(d_keys, k1) + v1)
                store(d_keys, k2, load(d_keys, k2) + v2)
                store(d_keys, k3, load(d_keys, k3) + v3)
            add_unit_gradients(a0, d0, w, j0, d_query, d_w3)
            add_unit_gradients(a1, d1, w, j1, d_query, d_w3)
            add_unit_gradients(a2, d2, w, j2, d_query, d_w3)
            add_unit_gradients(a3, d3, w, j3, d_query, d_w3)
        for j in range(fours, H, LANES):
            q0 = load(query.array, query.at + j)
            a0, d0 = zero, zero
            for i in range(M):
                k0 = keys.at + i * H + j
                z0 = one / at_most(most, denominator(keys.array, k0, q0))
                u0 = spread(da, i) * z0
                a0 = a0 + u0
                v0 = u0 - u0 * z0
                d0 = d0 + v0
                store(d_keys, k0, load(d_keys, k0) + v0)
            add_unit_gradients(a0, d0, w, j, d_query, d_w3)

    return score_backward


score_backward_tame, score_backward_wide = (
    make_score_backward(tame_denominator),
    make_score_backward(wide_denominator),
)


@phase
def prefetch_step(at: int, H: int, tape: Tape, d_out: Outputs) -> None:
    """Prefetch the numbers of an example that the next step of the backward pass will read."""
    fetch(tape.gates, 4 * at, 4 * H)
    fetch(tape.cells, at - H, H)
    fetch(tape.queries, at, H)
    fetch(tape.summary, at, H)
    fetch(d_out.hidden, at, H)
    fetch(d_out.summary, at, H)


@phase
def memory_backward(
    tile: Tile, t: int, d_out: Outputs, tape: Tape, w: Weights, d_keys: Array, work: Scratch
) -> None:
    """Complete dL/dh_t: add the gradients from the outputs and from the later steps."""
    H = w.w.shape[0]
    number = w.w.dtype.type
    zero = lanes_of(number(0))
    across, span, M = work.dh.shape[1], work.p.shape[2], tile.M0 + t
    k = t % BLOCK
    later = min(BLOCK - k, tile.T - t) - 1  # steps of the block
    for r in range(tile.B):
        b = tile.first + r
        row, at = r * across, (b * tape.memory.shape[1] + M) * H
        now = (b * tile.T + t) * H
        prefetch_step(now - H, H, tape, d_out)
        add(work.dh, row, number(1), d_out.hidden, now, H)
        add(work.dh, row, number(1), work.d_memory, (r * span + M) * H, H)
        then = r * BLOCK + k + 1
        weights, ds = Row(work.p, then * span + M), Row(work.ds, then * H)
        recall(later, weights, span, ds, H, Row(work.dh, row))
        for j in range(0, H, LANES):
            v = load(w.w, j) * load(d_keys, at + j)
            v = zero - (v + v)
            store(d_keys, at + j, v)
            store(work.dk, row + j, v)
    product(tile.rows, Rows(work.dk, 0, across), H, w.W1, Rows(work.dh, 0, across), H)


@phase
def attend_backward(
    b: int, t: int, M: int, weighting: Weighting, ds: Row, tape: Tape, w: Array, d_query: Row,
    grads: Gradients, work: Scratch,
) -> None:  # fmt: skip
    """Compute dL/dq, and add to dL/d of keys and w3, from dL/ds_t of example b, for M > 0."""
    H = w.shape[0]
    at = b * tape.weights.shape[1] + tape.starts[t]
    memories = b * tape.memory.shape[1] * H
    now = (b * tape.summary.shape[1] + t) * H
    out = ScoreRow(work.da, 0, w.dtype.type(0), work.quads)
    products(M, Row(tape.memory, memories), ds, w, out)
    mean = total(inner(ds.array, ds.at, tape.summary, now, w))
    normalize_backward(weighting, M, tape.weights, at, mean, work.da, grads.w3)
    if tape.wide[b]:
        keys, query = Row(tape.raw, memories), Row(tape.queries, now)
        score_backward_wide(M, work.da, keys, query, w, d_query, grads)
    else:
        exponentials(tape.queries, now, H, work.e, 0)
        score_backward_tame(M, work.da, Row(tape.keys, memories), Row(work.e, 0), w, d_query, grads)


@phase
def attention_backward(
    tile: Tile, t: int, weighting: Weighting, d_summary: Array, tape: Tape, w: Weights,
    grads: Gradients, work: Scratch,
) -> None:  # fmt: skip
    """Propagate dL/dh_t and dL/ds_t to ĥ_t, to the memories and to their keys."""
    H = w.w.shape[0]
    number = w.w.dtype.type
    across, span, M = work.dh.shape[1], work.p.shape[2], tile.M0 + t
    k = t % BLOCK
    later = min(BLOCK - k, tile.T - t) - 1
    for r in range(tile.B):
        b = tile.first + r
        row, now = r * across, (b * tile.T + t) * H
        step = r * BLOCK + k
        if weighting.kind == EARLY:
            copy(work.ds, step * H, d_summary, now, H)
        else:
            copy(work.ds, step * H, work.dh, row, H)
            add(work.ds, step * H, number(1), d_summary, now, H)
        if M > 0:
            at = b * tape.weights.shape[1] + tape.starts[t]
            copy(work.p, step * span, tape.weights, at, M)
            ds, d_query = Row(work.ds, step * H), Row(work.dq, row)
            attend_backward(b, t, M, weighting, ds, tape, w.w, d_query, grads, work)
        else:
            work.dq[r] = number(0)
        copy(tape.queries, now, work.dq, row, H)
        if k == 0:
            weights, d_sums = Rows(work.p, step * span, span), Rows(work.ds, step * H, H)
            outer(later + 1, weights, padded(M), d_sums, H, Rows(work.d_memory, r * span * H, H))
    product(tile.rows, Rows(work.dq, 0, across), H, w.W2, Rows(work.dh, 0, across), H)


@phase
def step_cell_backward(
    tile: Tile, t: int, c: Array, tape: Tape, W_hh: Array, d_bias: Array, work: Scratch
) -> None:
    """Propagate dL/dĥ_t and dL/dc_t to the gates' sums, and to h and c of the previous step."""
    H = c.shape[1]
    G = 4 * H
    number = c.dtype.type
    across, S_row = work.dh.shape[1], work.S.shape[1]
    for r in range(tile.B):
        b = tile.first + r
        now, to = b * tile.T + t, r * S_row
        dh, dc, d_sums = Row(work.dh, r * across), Row(work.dc, r * H), Row(work.S, to)
        cells, gates = Row(tape.cells, now * H), Row(tape.gates, now * G)
        if t > 0:
            cell_backward(dh, dc, cells, Row(tape.cells, (now - 1) * H), gates, H, d_sums)
        else:
            cell_backward(dh, dc, cells, Row(c, b * H), gates, H, d_sums)
        copy(tape.gates, now * G, work.S, to, G)
        add(d_bias, 0, number(1), work.S, to, G)
    work.dh[:] = number(0)
    product(tile.rows, Rows(work.S, 0, S_row), G, W_hh, Rows(work.dh, 0, across), H)


@kernel
def backward(
    low: int, high: int, M0: int, weighting: Weighting, d_out: Outputs, c: Array, tape: Tape,
    w: Weights, grads: Gradients, work: Scratch,
) -> None:  # fmt: skip
    """Run examples `low` to `high` - 1 through all steps, from the last to the first.

    c (B, H): the cells before the first step.
    """
    T = d_out.hidden.shape[1]
    zero = w.w.dtype.type(0)
    work.S[:] = zero  # rows that no example fills
    work.dk[:] = zero
    work.dq[:] = zero
    grads.bias[:] = zero
    grads.w3[:] = zero
    for first in range(low, high, TILE):
        B = min(TILE, high - first)
        tile = Tile(first, B, padded(B), M0, T)
        work.dh[:] = zero
        work.dc[:] = zero
        work.d_memory[:] = zero
        grads.keys[first : first + B] = zero
        for t in range(T - 1, -1, -1):
            memory_backward(tile, t, d_out, tape, w, grads.keys, work)
            attention_backward(tile, t, weighting, d_out.summary, tape, w, grads, work)
            step_cell_backward(tile, t, c, tape, w.W_hh, grads.bias, work)
