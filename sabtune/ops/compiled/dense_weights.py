"""The gradients of the weights, from the factors that `dense_backward` leaves behind.

The notation is that of `dense_forward`. Each gradient is a sum of outer products over all steps.
STEPS steps of one example are processed at a time, so that they stay in the cache however long the
sequence is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sabtune.ops.compiled.common import Array, copy, kernel
from sabtune.ops.compiled.dense_forward import Tape
from sabtune.ops.compiled.dense_normalize import EARLY, Weighting
from sabtune.ops.compiled.product import outer
from sabtune.ops.compiled.simd import LANES, load, store
from sabtune.ops.compiled.tile import Rows

STEPS = 128  # steps of an example that are processed at a time


class WeightGradients(NamedTuple):
    """Sums over a call's examples: W_ih (I padded, G), W_hh (G, H), W1 and W2 (H, H)."""

    W_ih: Array
    W_hh: Array
    W1: Array
    W2: Array


class Scratch(NamedTuple):
    """The arrays that a call works in, or their shapes."""

    before: Any  # h_{t-1}
    states: Any  # ĥ_t


def scratch(H: int, real: Any) -> Scratch:
    """Return the shapes of the arrays that a call works in."""
    return Scratch(before=((STEPS, H), real), states=((STEPS, H), real))


@kernel
def weight_gradients(
    low: int, high: int, M0: int, weighting: Weighting, x: Array, h: Array, tape: Tape,
    d_keys: Array, grads: WeightGradients, work: Scratch,
) -> None:  # fmt: skip
    """Compute the gradients of the weights over examples `low` to `high` - 1.

    x: (B, T, I padded). h: (B, H), before the first step. The tape holds the gradients of the
    gates' sums and of the queries in place of the gates and the queries.
    """
    _, T, inputs = x.shape
    H = h.shape[1]
    G = 4 * H
    before, states, memory = work.before, work.states, tape.memory
    capacity = memory.shape[1]
    zero = h.dtype.type(0)
    grads.W_ih[:] = zero
    grads.W_hh[:] = zero
    grads.W1[:] = zero
    grads.W2[:] = zero
    for b in range(low, high):
        for t in range(0, T, STEPS):
            count = min(STEPS, T - t)
            now, at = (b * T + t) * H, (b * capacity + M0 + t) * H
            if t == 0:
                copy(before, 0, h, b * H, H)
                copy(before, H, memory, at, (count - 1) * H)
            else:
                copy(before, 0, memory, at - H, count * H)
            copy(states, 0, memory, at, count * H)
            if weighting.kind != EARLY:
                for j in range(0, count * H, LANES):
                    store(states, j, load(states, j) - load(tape.summary, now + j))
            d_gates = Rows(tape.gates, 4 * now, G)
            x_rows = Rows(x, (b * T + t) * inputs, inputs)
            outer(count, d_gates, G, Rows(before, 0, H), H, Rows(grads.W_hh, 0, H))
            outer(count, x_rows, inputs, d_gates, G, Rows(grads.W_ih, 0, G))
            outer(count, Rows(tape.queries, now, H), H, Rows(states, 0, H), H, Rows(grads.W2, 0, H))
            outer(count, Rows(d_keys, at, H), H, Rows(memory, at, H), H, Rows(grads.W1, 0, H))
