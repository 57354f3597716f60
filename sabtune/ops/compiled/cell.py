"""The LSTM's cell: a step of one example, and back.

H hidden; the gates in torch's order, input, forget, cell and output, each of H.
"""

from __future__ import annotations

from sabtune.ops.compiled.common import Array
from sabtune.ops.compiled.simd import LANES, compiled, exp, inverse, lanes_of, load, store


@compiled
def cell(
    S: Array, at: int, c: Array, c_at: int, H: int, keep: bool, gates: Array, gates_at: int,
    states: Array, to: int,
) -> None:  # fmt: skip
    """c_t and h'_t of one example from the sums S of its gates."""
    one = lanes_of(S.dtype.type(1))
    two = one + one
    zero = one - one
    for j in range(0, H, LANES):
        i = inverse(one + exp(zero - load(S, at + j)))
        f = inverse(one + exp(zero - load(S, at + H + j)))
        g = inverse(one + exp(zero - load(S, at + 2 * H + j)))
        o = inverse(one + exp(zero - load(S, at + 3 * H + j)))
        if keep:
            store(gates, gates_at + j, i)
            store(gates, gates_at + H + j, f)
            store(gates, gates_at + 2 * H + j, g)
            store(gates, gates_at + 3 * H + j, o)
        v = f * load(c, c_at + j) + i * (two * g - one)
        store(c, c_at + j, v)
        store(states, to + j, o * (one - two * inverse(one + exp(v + v))))


@compiled
def of_cell(
    dh: Array, dh_at: int, dc: Array, at: int, cells: Array, now: int, c: Array, before: int,
    gates: Array, gates_at: int, H: int, S: Array, to: int,
) -> None:  # fmt: skip
    """From dL/dh'_t and dL/dc_t those of the gates' sums, in S, and of c_{t-1}, in dc's place.

    c_t is in cells, c_{t-1} in c.
    """
    one = lanes_of(c.dtype.type(1))
    two = one + one
    for j in range(0, H, LANES):
        i = load(gates, gates_at + j)
        f = load(gates, gates_at + H + j)
        g = two * load(gates, gates_at + 2 * H + j) - one
        o = load(gates, gates_at + 3 * H + j)
        v = load(cells, now + j)
        tanh_c = one - two * inverse(one + exp(v + v))
        d_h = load(dh, dh_at + j)
        d_c = load(dc, at + j) + d_h * o * (one - tanh_c * tanh_c)
        store(dc, at + j, d_c * f)
        store(S, to + j, d_c * g * i * (one - i))
        store(S, to + H + j, d_c * load(c, before + j) * f * (one - f))
        store(S, to + 2 * H + j, d_c * i * (one - g * g))
        store(S, to + 3 * H + j, d_h * tanh_c * o * (one - o))
