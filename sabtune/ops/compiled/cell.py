"""The cell of the LSTM: one step of one example, forward and backward.

The gates are in PyTorch's order: input, forget, cell and output, H numbers each. H is the hidden
size. The other names are those of `sabtune.ops.compiled.common`.
"""

from __future__ import annotations

from sabtune.ops.compiled.common import Row
from sabtune.ops.compiled.simd import LANES, compiled, exp, inverse, lanes_of, load, store


@compiled
def cell(S: Row, c: Row, H: int, keep: bool, gates: Row, states: Row) -> None:
    """Compute c_t, in place of c_{t-1}, and ĥ_t, in `states`, from the sums S of the gates.

    keep: whether to write the gates, too.
    """
    one = lanes_of(S.array.dtype.type(1))
    two = one + one
    zero = one - one
    for j in range(0, H, LANES):
        i = inverse(one + exp(zero - load(S.array, S.at + j)))
        f = inverse(one + exp(zero - load(S.array, S.at + H + j)))
        g = inverse(one + exp(zero - load(S.array, S.at + 2 * H + j)))
        o = inverse(one + exp(zero - load(S.array, S.at + 3 * H + j)))
        if keep:
            store(gates.array, gates.at + j, i)
            store(gates.array, gates.at + H + j, f)
            store(gates.array, gates.at + 2 * H + j, g)
            store(gates.array, gates.at + 3 * H + j, o)
        v = f * load(c.array, c.at + j) + i * (two * g - one)
        store(c.array, c.at + j, v)
        store(states.array, states.at + j, o * (one - two * inverse(one + exp(v + v))))


@compiled
def cell_backward(dh: Row, dc: Row, c: Row, c_before: Row, gates: Row, H: int, d_sums: Row) -> None:
    """Compute the gradients of the gates' sums, in d_sums, and of c_{t-1}, in place of dc.

    dh, dc: dL/dĥ_t and dL/dc_t. c, c_before: c_t and c_{t-1}.
    """
    one = lanes_of(c_before.array.dtype.type(1))
    two = one + one
    for j in range(0, H, LANES):
        i = load(gates.array, gates.at + j)
        f = load(gates.array, gates.at + H + j)
        g = two * load(gates.array, gates.at + 2 * H + j) - one
        o = load(gates.array, gates.at + 3 * H + j)
        v = load(c.array, c.at + j)
        tanh_c = one - two * inverse(one + exp(v + v))
        d_h = load(dh.array, dh.at + j)
        d_c = load(dc.array, dc.at + j) + d_h * o * (one - tanh_c * tanh_c)
        before = load(c_before.array, c_before.at + j)
        store(dc.array, dc.at + j, d_c * f)
        store(d_sums.array, d_sums.at + j, d_c * g * i * (one - i))
        store(d_sums.array, d_sums.at + H + j, d_c * before * f * (one - f))
        store(d_sums.array, d_sums.at + 2 * H + j, d_c * i * (one - g * g))
        store(d_sums.array, d_sums.at + 3 * H + j, d_h * tanh_c * o * (one - o))
