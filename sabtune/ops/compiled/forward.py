"""The forward pass of SAB for a range of the batch, compiled: one call runs every step.

`sabtune.ops.compiled.common` has the notation. TILE examples go through the whole sequence
together, so that their data stays in the cache; no thread waits for another.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sabtune.ops.compiled.cell import cell
from sabtune.ops.compiled.common import (
    DOT,
    REACH,
    SEPARABLE,
    TILE,
    Array,
    Inputs,
    Row,
    Settings,
    Shape,
    Step,
    Tape,
    Tile,
    copy,
    fetch,
    filled,
    kernel,
    largest_magnitude,
    memories_at,
    widen,
)
from sabtune.ops.compiled.product import ROWS, padded, product
from sabtune.ops.compiled.score import rise, rise_of_products, weigh, wide_score
from sabtune.ops.compiled.simd import (
    LANES,
    Number,
    at_least,
    at_most,
    compiled,
    exp,
    lanes_of,
    load,
    phase,
    store,
)
from sabtune.ops.compiled.tile import Rows
from sabtune.ops.compiled.top_k import (
    FEW,
    PAUSE,
    Bounds,
    Choice,
    Scorer,
    choose_dot,
    choose_tame,
    choose_wide,
    offer,
    recall,
)


class Outputs(NamedTuple):
    """h_t and s_t (T, B, H), which may have no steps, and the logits (B, T, O padded).

    Without a readout O is 0.
    """

    hidden: Array
    summary: Array
    logits: Array


class Weights(NamedTuple):
    """The weights of the forward pass.

    In W_ih (I, G), W_hh (H, G) and bias (G,), the cell gate is doubled. V: (2H, O padded), with V2
    above V1. b: (O padded,), the bias of the readout.
    """

    W_ih: Array
    W_hh: Array
    bias: Array
    W1: Array
    W2: Array
    w3: Array
    V: Array
    b: Array


class Scratch(NamedTuple):
    """The arrays that a call works in, or their shapes."""

    carried: Any  # s_t, h_t
    X: Any  # x_t
    states: Any  # ĥ_t
    y: Any
    q: Any  # W2 ĥ_t, then W1 h_t
    q0: Any  # q of the step before
    e0: Any  # e^{2 q0}
    e: Any  # e^{2q}
    S: Any  # the sums of the gates
    lowest: Any  # the lowest key of each unit
    highest: Any  # the highest key of each unit
    bound: Any  # the bounds of the scores
    top: Any  # the highest scores, if they depend on the memory alone
    drift: Any  # the drift of the bounds
    pause: Any  # number of steps that are left to go without bounds
    which: Any  # the memories that have the scores in `top`


def scratch(
    examples: int, H: int, inputs: int, O: int, capacity: int, k_top: int, real: Any
) -> Scratch:
    """Return the shapes of the arrays for a call on `examples` examples and O outputs, padded."""
    rows, most = min(TILE, -(-examples // ROWS) * ROWS), min(k_top + 1, capacity)
    shapes: dict[str, Shape] = {
        "carried": ((rows, 2 * H + LANES), real),  # rows at a power of two would share cache lines
        "X": ((rows, inputs), real),
        "states": ((rows, H), real),
        "y": ((rows, O), real),
        "q": ((rows, H), real),
        "q0": ((rows, H), real),
        "e0": ((rows, H), real),
        "e": ((H,), real),
        "S": ((rows, 4 * H), real),
        "lowest": ((rows, H), real),
        "highest": ((rows, H), real),
        "bound": ((rows, filled(capacity)), real),
        "top": ((rows, most), real),
        "drift": ((rows,), np.float64),
        "pause": ((rows,), np.int64),
        "which": ((rows, most), np.int32),
    }
    return Scratch(**shapes)


@compiled
def add_input(S: Row, G: int, factor: Number, W_ih: Array, j: int, inputs: int) -> None:
    """Add the product of one input, `factor`, and its weights to the gates' sums."""
    by = lanes_of(factor)
    for n in range(0, G, LANES):
        store(S.array, S.at + n, load(S.array, S.at + n) + by * load(W_ih, n * inputs + j * LANES))


@compiled
def extend_range(key: Any, lowest: Array, highest: Array, at: int) -> None:
    """Extend the range of the keys so that it includes LANES units of one key."""
    store(lowest, at, at_most(key, load(lowest, at)))
    store(highest, at, at_least(key, load(highest, at)))


@compiled
def scorer_of(w3: Array) -> Scorer:
    """Return w3 with the sums that the scores need."""
    total = w3.dtype.type(0)
    size = total
    for j in range(w3.shape[0]):
        total += w3[j]
        size += abs(w3[j])
    return Scorer(w3, total, size)


@compiled
def widen_example(b: int, M: int, tape: Tape) -> None:
    """Make example b `wide`: replace its M keys e^{2k} by k."""
    tape.wide[b] = True
    capacity, H = tape.keys.shape[1:]
    widen(tape.keys, b * capacity * H, M * H)


@phase
def start_tile(
    tile: Tile, s: Settings, h: Array, tape: Tape, scorer: Scorer, work: Scratch
) -> None:
    """Load h, and the ranges and top scores of the memories, from before the call."""
    capacity, H = tape.keys.shape[1:]
    across, most = work.carried.shape[1], work.top.shape[1]
    number = scorer.w3.dtype.type
    work.bound[:] = number(-np.inf)
    work.bound[:, : s.M0] = number(np.inf)
    work.drift[:] = 0.0
    work.pause[:] = 0
    for r in range(tile.B):
        copy(work.carried, r * across + H, h, (tile.first + r) * H, H)
        at = (tile.first + r) * capacity * H
        copy(work.lowest, r * H, tape.keys, at, H)
        copy(work.highest, r * H, tape.keys, at, H)
        for i in range(1, s.M0):
            for j in range(0, H, LANES):
                key = load(tape.keys, at + i * H + j)
                extend_range(key, work.lowest, work.highest, r * H + j)
        if s.scoring == SEPARABLE:
            for m in range(s.M0):
                a = wide_score(tape.keys, at + m * H, work.e, 0, scorer.w3, scorer.total)
                offer(a, m, min(m, most), work.top[r], work.which[r])


@phase
def step_cell(
    tile: Tile, t: int, keep: bool, sparse: bool, given: Inputs, tape: Tape, w: Weights,
    work: Scratch,
) -> None:  # fmt: skip
    """Compute ĥ_t and c_t."""
    x, c = given.x, given.c
    everyone, inputs, H = x.shape[0], x.shape[2], c.shape[1]
    G, across = 4 * H, work.carried.shape[1]
    for r in range(tile.rows):
        copy(work.S, r * G, w.bias, 0, G)
    for r in range(tile.B):
        for j in range(inputs):
            number_in = x[tile.first + r, t, j]
            if not sparse:
                work.X[r, j] = number_in
            elif number_in != 0:
                add_input(Row(work.S, r * G), G, number_in, w.W_ih, j, inputs)
    sums = Rows(work.S, 0, G)
    if not sparse:
        product(tile.rows, Rows(work.X, 0, inputs), inputs, w.W_ih, sums, G)
    product(tile.rows, Rows(work.carried, H, across), H, w.W_hh, sums, G)
    for r in range(tile.B):
        b = tile.first + r
        now = t * everyone + b
        gates, states = Row(tape.gates, now * G), Row(work.states, r * H)
        cell(Row(work.S, r * G), Row(c, b * H), H, keep, gates, states)
        if keep:
            copy(tape.cells, now * H, c, b * H, H)


@phase
def bound_scores(r: int, M: int, dot: bool, bounded: bool, scorer: Scorer, work: Scratch) -> Number:
    """Update the bounds of an example's scores; return the difference up to which scores tie."""
    H = scorer.w3.shape[0]
    number = scorer.w3.dtype.type
    far = scorer.size  # no score of this example is further from 0
    if bounded:
        if dot:
            more, far = rise_of_products(work.lowest, work.highest, r * H, work.q, work.q0, H)
            work.drift[r] += more
        else:
            work.drift[r] += rise(
                work.lowest, work.highest, r * H, work.e, work.q, work.e0, work.q0, scorer.w3
            )
    # NaN and Inf bound nothing
    if not (bounded and abs(work.drift[r]) <= 4 * far and far < np.inf):
        work.bound[r, :M] = number(np.inf)
        work.drift[r] = 0.0
        far = number(0)
    # two scores that are closer than this differ by rounding alone
    return number(4) * np.finfo(scorer.w3.dtype).eps * far


@phase
def select(
    tile: Tile, r: int, step: Step, keep: bool, dot: bool, tape: Tape, choice: Choice,
    scorer: Scorer, work: Scratch,
) -> None:  # fmt: skip
    """Select the K memories with the highest scores for row r of the tile."""
    b, M = tile.first + r, step.M
    capacity, H = tape.keys.shape[1:]
    before = choice.at - step.known if keep else choice.at
    if not tape.wide[b] and largest_magnitude(work.q, r * H, H) > REACH:
        widen_example(b, M, tape)
    tame = not dot and not tape.wide[b]
    for j in range(0, H, LANES):
        v = load(work.q, r * H + j)
        store(work.e, j, exp(v + v) if tame else v)
    bounded = M > FEW * step.K and (tame or dot) and step.t > 0 and work.pause[r] == 0
    tie = bound_scores(r, M, dot, bounded, scorer, work)
    bounds = Bounds(work.bound[r], work.drift[r], tie)
    keys = Row(tape.keys, b * capacity * H)
    if tame:
        scored = choose_tame(step, before, keys, work.e, scorer, bounds, choice)
    elif dot:
        scored = choose_dot(step, before, keys, work.e, scorer, bounds, choice)
    else:
        scored = choose_wide(step, before, keys, work.e, scorer, bounds, choice)
    if bounded and 2 * scored > M:
        work.pause[r] = PAUSE
    elif work.pause[r] > 0:
        work.pause[r] -= 1
    copy(work.q0, r * H, work.q, r * H, H)
    copy(work.e0, r * H, work.e, 0, H)


@phase
def step_recall(
    tile: Tile, step: Step, keep: bool, s: Settings, out: Outputs, tape: Tape, w: Weights,
    scorer: Scorer, work: Scratch,
) -> None:  # fmt: skip
    """Select K memories for each example; compute s_t and h_t."""
    everyone, capacity, H = tape.keys.shape
    G, across = 4 * H, work.carried.shape[1]
    if s.scoring != SEPARABLE:
        work.q[: tile.rows] = w.w3.dtype.type(0)
        product(tile.rows, Rows(work.states, 0, H), H, w.W2, Rows(work.q, 0, H), H)
    for r in range(tile.B):
        b = tile.first + r
        now = step.t * everyone + b
        if keep:  # what the next step will write
            fetch(tape.gates, (now + everyone) * G, G)
            fetch(tape.cells, (now + everyone) * H, H)
        if keep and s.scoring != SEPARABLE:
            copy(tape.queries, now * H, work.q, r * H, H)
        choice = Choice(tape.chosen[b], tape.weights[b], tape.starts[step.t] if keep else 0)
        if s.scoring == SEPARABLE:
            for i in range(step.K):
                choice.weights[choice.at + i] = work.top[r, i]
                choice.chosen[choice.at + i] = work.which[r, i]
        else:
            select(tile, r, step, keep, s.scoring == DOT, tape, choice, scorer, work)
        divisor = weigh(step.K, s.softmax, s.epsilon, choice.weights, choice.at)
        if keep:
            tape.sums[b, step.t] = divisor
        row = r * across
        memory = Row(tape.memory, b * capacity * H)
        recall(step.K, choice, memory, H, Row(work.carried, row))
        for j in range(0, H, LANES):
            v = load(work.carried, row + j)
            store(work.carried, row + H + j, load(work.states, r * H + j) + v)
        if out.hidden.shape[0] > 0:
            copy(out.summary, now * H, work.carried, row, H)
            copy(out.hidden, now * H, work.carried, row + H, H)


@phase
def read_out(tile: Tile, t: int, logits: Array, w: Weights, work: Scratch) -> None:
    """Compute the logits of a step."""
    T, O = logits.shape[1:]
    across, H = work.carried.shape[1], w.w3.shape[0]
    for r in range(tile.rows):
        copy(work.y, r * O, w.b, 0, O)
    product(tile.rows, Rows(work.carried, 0, across), 2 * H, w.V, Rows(work.y, 0, O), O)
    for r in range(tile.B):
        copy(logits, ((tile.first + r) * T + t) * O, work.y, r * O, O)


@phase
def remember(
    tile: Tile, M: int, separable: bool, tape: Tape, W1: Array, scorer: Scorer, work: Scratch
) -> None:
    """Append h_t to the M memories, and its key to the keys."""
    capacity, H = tape.keys.shape[1:]
    across, most = work.carried.shape[1], work.top.shape[1]
    number = scorer.w3.dtype.type
    work.q[: tile.rows] = number(0)
    product(tile.rows, Rows(work.carried, H, across), H, W1, Rows(work.q, 0, H), H)
    for r in range(tile.B):
        b = tile.first + r
        at = (b * capacity + M) * H
        copy(tape.memory, at, work.carried, r * across + H, H)
        work.bound[r, M] = number(np.inf)
        if not tape.wide[b] and largest_magnitude(work.q, r * H, H) > REACH:
            widen_example(b, M, tape)
        for j in range(0, H, LANES):
            v = load(work.q, r * H + j)
            key = v if tape.wide[b] else exp(v + v)
            store(tape.keys, at + j, key)
            extend_range(key, work.lowest, work.highest, r * H + j)
        if separable:
            a = wide_score(tape.keys, at, work.e, 0, scorer.w3, scorer.total)
            offer(a, M, min(M, most), work.top[r], work.which[r])


@kernel
def forward(
    low: int, high: int, keep: bool, s: Settings, given: Inputs, out: Outputs, tape: Tape,
    w: Weights, work: Scratch,
) -> None:  # fmt: skip
    """Run examples `low` to `high` - 1 through all steps.

    given.h and given.c hold the state before the call and are replaced by the state after it.
    keep: write what the backward pass needs. Otherwise h_t and s_t of `out` may have no steps. The
    tape's gates, cells, queries and sums are then not written and may have no steps, and its chosen
    and weights hold one step.
    """
    T, H = given.x.shape[1], given.h.shape[1]
    zero = w.w3.dtype.type(0)
    work.carried[:] = zero
    work.X[:] = zero
    work.states[:] = zero
    work.e[:] = zero
    scorer = scorer_of(w.w3)
    for first in range(low, high, TILE):
        B = min(TILE, high - first)
        tile = Tile(first, B, padded(B))
        start_tile(tile, s, given.h, tape, scorer, work)
        known = 0
        for t in range(T):
            M = memories_at(s, t)
            step = Step(t, M, min(s.k_top + 1, M), known)
            step_cell(tile, t, keep, s.sparse, given, tape, w, work)
            step_recall(tile, step, keep, s, out, tape, w, scorer, work)
            known = step.K
            if out.logits.shape[2] > 0:
                read_out(tile, t, out.logits, w, work)
            if (s.step + t + 1) % s.k_att == 0:
                remember(tile, M, s.scoring == SEPARABLE, tape, w.W1, scorer, work)
        for r in range(B):
            copy(given.h, (first + r) * H, work.carried, r * work.carried.shape[1] + H, H)
