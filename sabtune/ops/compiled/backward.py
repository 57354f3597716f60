"""The backward pass of SAB for a range of the batch, compiled: from the last step to the first.

`sabtune.ops.compiled.common` has the notation. The gradient of a memory accumulates in `d_memory`
and `d_keys` (B, N + 1, H), for the N memories of this call, as the pass visits the steps that
recalled it. When the pass reaches the step that made the memory, the sum is complete and is added
to dL/dh_t. The last row takes the gradients of memories from before the call, and is not read.

The gradients of the weights are added up step by step, while their factors are in the cache. For
example, each step adds the outer product of the gates' gradients and h_{t-1} to dL/dW_hh. This is
faster than one large product at the end, which would have to load all factors again, and it needs
no memory for them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sabtune.ops.compiled.cell import cell_backward
from sabtune.ops.compiled.common import (
    DOT,
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
    add,
    copy,
    fetch,
    kernel,
    memories_at,
)
from sabtune.ops.compiled.product import ROWS, outer, padded, product
from sabtune.ops.compiled.score_gradient import (
    MemoryGradients,
    Recalled,
    own_score_backward,
    products_backward,
    sum_backward,
    tame_scores_backward,
    weights_backward,
    wide_scores_backward,
)
from sabtune.ops.compiled.simd import LANES, exp, load, phase, store
from sabtune.ops.compiled.tile import Rows


class States(NamedTuple):
    """h_t and s_t, (T, B, H), of the forward pass."""

    hidden: Array
    summary: Array


class OutputGradients(NamedTuple):
    """dL/d of the outputs.

    hidden, summary: flat, with the strides of batch and step; empty if there is no gradient.
    logits: (B, T, O), or (0, 0, 0) if there is no gradient.
    """

    hidden: Array
    hidden_strides: tuple[int, int]
    summary: Array
    summary_strides: tuple[int, int]
    logits: Array


class Weights(NamedTuple):
    """The weights of the backward pass, transposed and then packed.

    V: [V2 V1]. W_ih: with its rows padded to whole vectors; empty unless dL/dx is needed.
    """

    W_ih: Array
    W_hh: Array
    W1: Array
    W2: Array
    w3: Array
    V: Array


class Gradients(NamedTuple):
    """The gradients that the backward pass computes.

    memory, keys: `d_memory` and `d_keys` of the module's description. x: (B, T, I), or (0, 0, 0) if
    not needed. The others are sums over a call's examples: W_ih (I padded, G), W_hh (G, H), bias
    (G,), W1 and W2 (H, H), w3 (H,), V (O padded, 2H) as [V2 V1], and b (O padded,).
    """

    memory: Array
    keys: Array
    x: Array
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

    du: Any  # dL/ds_t, dL/dh_t
    dc: Any
    dx: Any
    S: Any  # dL/d of the sums of the gates
    X: Any  # x_t
    dq: Any
    states: Any  # ĥ_t
    dy: Any
    dk: Any  # dL/d of a memory's key
    e: Any  # e^{2q}
    d_a: Any  # dL/d of the memories' scores, if they depend on the memory alone
    p: Any
    da: Any
    source: Any  # where the recalled memories lie in memory and keys
    target: Any  # where they lie in d_memory and d_keys


def scratch(
    examples: int,
    H: int,
    inputs: int,
    O: int,
    capacity: int,
    k_top: int,
    separable: bool,
    real: Any,
) -> Scratch:
    """Return the shapes of the arrays for a call on `examples` examples; inputs, O are padded."""
    rows = min(TILE, -(-examples // ROWS) * ROWS)
    listed = min(k_top + 1, capacity)
    more = LANES  # rows at a power of two would share cache lines
    shapes: dict[str, Shape] = {
        "du": ((rows, 2 * H + more), real),
        "dc": ((rows, H), real),
        "dx": ((rows, inputs), real),
        "S": ((rows, 4 * H + more), real),
        "X": ((rows, inputs + more), real),
        "dq": ((rows, H + more), real),
        "states": ((rows, H + more), real),
        "dy": ((rows, O), real),
        "dk": ((rows, H + more), real),
        "e": ((H,), real),
        "d_a": ((rows, capacity if separable else 0), real),
        "p": ((listed,), real),
        "da": ((listed,), real),
        "source": ((listed,), np.int64),
        "target": ((listed,), np.int64),
    }
    return Scratch(**shapes)


@phase
def output_backward(
    tile: Tile, t: int, d_out: OutputGradients, out: States, w: Weights, grads: Gradients,
    work: Scratch,
) -> None:  # fmt: skip
    """Add the gradients of the step's outputs to dL/dh_t and dL/ds_t; compute ĥ_t."""
    everyone, H = out.hidden.shape[1:]
    number = w.w3.dtype.type
    u_step, state_step = work.du.shape[1], work.states.shape[1]
    outputs, O = d_out.logits.shape[2], grads.b.shape[0]
    for r in range(tile.B):
        b = tile.first + r
        now = (t * everyone + b) * H
        for j in range(0, H, LANES):
            state = load(out.hidden, now + j) - load(out.summary, now + j)
            store(work.states, r * state_step + j, state)
        if d_out.summary.size > 0:
            at = b * d_out.summary_strides[0] + t * d_out.summary_strides[1]
            copy(work.du, r * u_step, d_out.summary, at, H)
        if d_out.hidden.size > 0:
            at = b * d_out.hidden_strides[0] + t * d_out.hidden_strides[1]
            add(work.du, r * u_step + H, number(1), d_out.hidden, at, H)
        for o in range(outputs):
            work.dy[r, o] = d_out.logits[b, t, o]
        add(grads.b, 0, number(1), work.dy, r * O, O)
    dy, at = Rows(work.dy, 0, O), (t * everyone + tile.first) * H
    product(tile.rows, dy, O, w.V, Rows(work.du, 0, u_step), 2 * H)
    outer(tile.B, dy, O, Rows(out.summary, at, H), H, Rows(grads.V, 0, 2 * H))
    outer(tile.B, dy, O, Rows(out.hidden, at, H), H, Rows(grads.V, H, 2 * H))


@phase
def memory_backward(
    tile: Tile, step: Step, s: Settings, hidden: Array, tape: Tape, w: Weights, grads: Gradients,
    work: Scratch,
) -> None:  # fmt: skip
    """Add to dL/dh_t the gradients from the later steps that recalled h_t, as memory M."""
    everyone, H = hidden.shape[1:]
    capacity, N = tape.keys.shape[1], grads.memory.shape[1] - 1
    u_step, k_step = work.du.shape[1], work.dk.shape[1]
    for r in range(tile.B):
        b = tile.first + r
        at = (b * (N + 1) + step.M - s.M0) * H
        add(work.du, r * u_step + H, w.w3.dtype.type(1), grads.memory, at, H)
        if s.scoring == SEPARABLE:
            key, dk = Row(tape.keys, (b * capacity + step.M) * H), Row(work.dk, r * k_step)
            own_score_backward(work.d_a[r, step.M], key, w.w3, dk, grads.w3)
        else:
            copy(work.dk, r * k_step, grads.keys, at, H)
    d_keys, at = Rows(work.dk, 0, k_step), (step.t * everyone + tile.first) * H
    product(tile.rows, d_keys, H, w.W1, Rows(work.du, H, u_step), H)
    outer(tile.B, d_keys, H, Rows(hidden, at, H), H, Rows(grads.W1, 0, H))


@phase
def look_up(b: int, step: Step, M0: int, H: int, tape: Tape, N: int, work: Scratch) -> None:
    """Load the weights of the memories that a step recalled, and their offsets in the arrays."""
    capacity = tape.keys.shape[1]
    at = tape.starts[step.t]
    chosen, weights = tape.chosen[b], tape.weights[b]
    for i in range(step.K):
        index = chosen[at + i]
        work.source[i] = (b * capacity + index) * H
        work.target[i] = (b * (N + 1) + (index - M0 if index >= M0 else N)) * H
        work.p[i] = weights[at + i]


@phase
def recall_backward(
    tile: Tile, step: Step, s: Settings, out: States, tape: Tape, w: Weights, grads: Gradients,
    work: Scratch,
) -> None:  # fmt: skip
    """Propagate dL/dh_t to s_t, and from there to scores, memories, keys and the query."""
    everyone, H = out.hidden.shape[1:]
    G = 4 * H
    one_back = everyone * H
    N = grads.memory.shape[1] - 1
    u_step, q_step = work.du.shape[1], work.dq.shape[1]
    recalled = Recalled(step.K, work.p, work.da, work.source, work.target)
    to_memories = MemoryGradients(grads.memory, grads.keys)
    work.dq[:] = w.w3.dtype.type(0)
    for r in range(tile.B):
        b = tile.first + r
        ds, dq = Row(work.du, r * u_step), Row(work.dq, r * q_step)
        for j in range(ds.at, ds.at + H, LANES):
            store(work.du, j, load(work.du, j) + load(work.du, H + j))
        now = (step.t * everyone + b) * H
        fetch(tape.gates, 4 * now, G)
        fetch(tape.cells, now - one_back, H)
        fetch(out.hidden, now - one_back, H)
        look_up(b, step, s.M0, H, tape, N, work)
        weights_backward(recalled, tape.memory, ds, H, s.softmax, tape.sums[b, step.t])
        if s.scoring == SEPARABLE:
            chosen, at = tape.chosen[b], tape.starts[step.t]
            for i in range(step.K):
                work.d_a[r, chosen[at + i]] += work.da[i]
            sum_backward(recalled, ds, H, grads.memory)
        elif s.scoring == DOT:
            copy(work.e, 0, tape.queries, now, H)
            products_backward(recalled, tape.keys, work.e, H, dq, grads.keys)
            sum_backward(recalled, ds, H, grads.memory)
        else:
            wide = tape.wide[b]
            for j in range(0, H, LANES):
                v = load(tape.queries, now + j)
                store(work.e, j, v if wide else exp(v + v))
            if wide:
                wide_scores_backward(
                    recalled, tape.keys, work.e, ds, w.w3, dq, grads.w3, to_memories
                )
            else:
                tame_scores_backward(
                    recalled, tape.keys, work.e, ds, w.w3, dq, grads.w3, to_memories
                )
    if s.scoring != SEPARABLE:
        dq_rows, states = Rows(work.dq, 0, q_step), Rows(work.states, 0, work.states.shape[1])
        product(tile.rows, dq_rows, H, w.W2, Rows(work.du, H, u_step), H)
        outer(tile.B, dq_rows, H, states, H, Rows(grads.W2, 0, H))


@phase
def step_cell_backward(
    tile: Tile, t: int, sparse: bool, given: Inputs, h_before: Array, out: States, tape: Tape,
    grads: Gradients, work: Scratch,
) -> None:  # fmt: skip
    """Propagate dL/dĥ_t and dL/dc_t to the gates' sums, their weights and c_{t-1}.

    h_before (1, B, H): h before the first step.
    """
    everyone, H = out.hidden.shape[1:]
    inputs, x_width, G = given.x.shape[2], grads.W_ih.shape[0], 4 * H
    number = given.x.dtype.type
    one_back = everyone * H
    u_step, S_step, X_step = work.du.shape[1], work.S.shape[1], work.X.shape[1]
    for r in range(tile.B):
        b = tile.first + r
        now = (t * everyone + b) * H
        dh, dc = Row(work.du, r * u_step + H), Row(work.dc, r * H)
        c, gates, d_sums = Row(tape.cells, now), Row(tape.gates, 4 * now), Row(work.S, r * S_step)
        if t > 0:
            before = now - one_back
            fetch(out.summary, before, H)
            fetch(tape.queries, before, H)
            cell_backward(dh, dc, c, Row(tape.cells, before), gates, H, d_sums)
        else:
            cell_backward(dh, dc, c, Row(given.c, b * H), gates, H, d_sums)
        add(grads.bias, 0, number(1), work.S, r * S_step, G)
        for j in range(inputs):
            number_in = given.x[b, t, j]
            if not sparse:
                work.X[r, j] = number_in
            elif number_in != 0:
                add(grads.W_ih, j * G, number_in, work.S, r * S_step, G)
    sums = Rows(work.S, 0, S_step)
    at = tile.first * H + (t * one_back - one_back if t > 0 else 0)
    h = Rows(out.hidden if t > 0 else h_before, at, H)
    outer(tile.B, sums, G, h, H, Rows(grads.W_hh, 0, H))
    if not sparse:
        outer(tile.B, Rows(work.X, 0, X_step), x_width, sums, G, Rows(grads.W_ih, 0, G))


@phase
def input_backward(tile: Tile, t: int, W_ih: Array, d_x: Array, work: Scratch) -> None:
    """Compute dL/dx_t."""
    x_width, S_step, G = work.dx.shape[1], work.S.shape[1], W_ih.shape[1]
    work.dx[: tile.rows] = work.dx.dtype.type(0)
    sums, dx = Rows(work.S, 0, S_step), Rows(work.dx, 0, x_width)
    product(tile.rows, sums, G, W_ih, dx, x_width)
    for r in range(tile.B):
        for j in range(d_x.shape[2]):
            d_x[tile.first + r, t, j] = work.dx[r, j]


@phase
def clear(low: int, high: int, grads: Gradients, work: Scratch) -> None:
    """Set the sums of the pass to zero, and the rows of its scratch that no example fills."""
    zero = grads.w3.dtype.type(0)
    work.dx[:] = zero
    work.S[:] = zero
    work.X[:] = zero
    work.dq[:] = zero
    work.states[:] = zero
    work.dy[:] = zero
    work.dk[:] = zero
    grads.W_ih[:] = zero
    grads.W_hh[:] = zero
    grads.bias[:] = zero
    grads.W1[:] = zero
    grads.W2[:] = zero
    grads.w3[:] = zero
    grads.V[:] = zero
    grads.b[:] = zero
    grads.keys[low:high] = zero
    grads.memory[low:high] = zero


@kernel
def backward(
    low: int, high: int, s: Settings, d_out: OutputGradients, given: Inputs, out: States,
    tape: Tape, w: Weights, grads: Gradients, work: Scratch,
) -> None:  # fmt: skip
    """Run examples `low` to `high` - 1 through all steps, from the last to the first.

    given.h, given.c: the state before the first step.
    """
    T, H = given.x.shape[1], out.hidden.shape[2]
    capacity = tape.keys.shape[1]
    zero = w.w3.dtype.type(0)
    h_before = given.h.reshape(1, given.h.shape[0], H)  # in as many dimensions as `hidden`
    clear(low, high, grads, work)
    for first in range(low, high, TILE):
        B = min(TILE, high - first)
        tile = Tile(first, B, padded(B))
        work.du[:] = zero
        work.dc[:] = zero
        work.d_a[:] = zero
        for t in range(T - 1, -1, -1):
            M = memories_at(s, t)
            step = Step(t, M, min(s.k_top + 1, M), 0)
            output_backward(tile, t, d_out, out, w, grads, work)
            if (s.step + t + 1) % s.k_att == 0:
                memory_backward(tile, step, s, out.hidden, tape, w, grads, work)
            recall_backward(tile, step, s, out, tape, w, grads, work)
            step_cell_backward(tile, t, s.sparse, given, h_before, out, tape, grads, work)
            if grads.x.size > 0:
                input_backward(tile, t, w.W_ih, grads.x, work)
            work.du[:] = zero
            if t > 0 and s.k_trunc > 0 and (s.step + t + s.cut) % s.k_trunc == 0:
                work.dc[:] = zero
            elif t > 0:
                sums = Rows(work.S, 0, work.S.shape[1])
                product(tile.rows, sums, 4 * H, w.W_hh, Rows(work.du, H, work.du.shape[1]), H)
        if s.scoring == SEPARABLE:
            for r in range(B):
                for i in range(s.M0):
                    key = Row(tape.keys, ((first + r) * capacity + i) * H)
                    own_score_backward(work.d_a[r, i], key, w.w3, Row(work.e, 0), grads.w3)
