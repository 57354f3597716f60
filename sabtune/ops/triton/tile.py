"""Functions that the two GPU kernels share: activations, and a vector times a matrix.

In Triton a variable is a tile that the threads of a program hold together. H is the hidden size,
and HP is H rounded up to a power of two; the padding is zero.
"""

import triton
import triton.language as tl

MLP = tl.constexpr(0)
DOT = tl.constexpr(1)
SEPARABLE = tl.constexpr(2)


@triton.jit
def tanh(x):
    s = x * x
    series = x * (1.0 + s * (-1.0 / 3.0 + s * (2.0 / 15.0 + s * (-17.0 / 315.0))))
    e = tl.exp(-2.0 * tl.abs(x))  # never overflows
    y = (1.0 - e) / (1.0 + e)
    return tl.where(s < 0.01, series, tl.where(x < 0, -y, y))  # 1 - e loses digits near 0


@triton.jit
def sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def product(total, v, W, rows, H: tl.constexpr, HP: tl.constexpr, ROWS: tl.constexpr):
    """Return total (HP) + v W for v (rows) and W (rows, H) in memory, ROWS rows at a time."""
    units = tl.arange(0, HP)
    for first in range(0, rows, ROWS):
        i = first + tl.arange(0, ROWS)
        part = tl.load(v + i, mask=i < rows, other=0.0).to(tl.float32)
        mask = (i < rows)[:, None] & (units < H)[None, :]
        at = W + i[:, None] * H + units[None, :]
        w = tl.load(at, mask=mask, other=0.0, eviction_policy="evict_last").to(tl.float32)
        total += tl.sum(part[:, None] * w, axis=0)
    return total


@triton.jit
def four(at, units, H: tl.constexpr):
    """Load the four gates (HP) of a vector (4H) in memory."""
    inside = units < H
    i = tl.load(at + units, mask=inside, other=0.0)
    f = tl.load(at + H + units, mask=inside, other=0.0)
    g = tl.load(at + 2 * H + units, mask=inside, other=0.0)
    o = tl.load(at + 3 * H + units, mask=inside, other=0.0)
    return i, f, g, o
