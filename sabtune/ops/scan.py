"""The parallel scan of a linear recurrence, for minGRU and minLSTM.

Shapes: T steps, then any others, such as B batch and H hidden.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def scan(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """Compute h_t = a_t h_{t-1} + b_t for every step, with a_t from 0 to 1.

    The steps are cut into about √T blocks of about √T steps. All blocks are computed side by side,
    and their first states one after the other. Products of a_t are never divided by, and their
    logarithms never subtracted, so the rounding error doesn't grow with T as it does in the paper's
    form, the difference of two cumulative sums in log space.

    a, b: (T, …). start: h_0, (…), of any sign. Returns every h_t, (T, …).
    """
    result: Tensor = _Scan.apply(a, b, start)  # type: ignore[no-untyped-call]
    return result


class _Scan(torch.autograd.Function):
    """The scan; its gradient is a scan in the other direction."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        T = a.shape[0]
        size = max(1, math.isqrt(T))
        whole = T - T % size
        h = torch.empty_like(b, memory_format=torch.contiguous_format)
        blocks = h[:whole].view(whole // size, size, *h.shape[1:])
        factors, terms = (t[:whole].reshape(blocks.shape) for t in (a, b))
        kept = torch.empty_like(factors)  # the product of a since the start of the block
        kept[:, 0], blocks[:, 0] = factors[:, 0], terms[:, 0]
        for step in range(1, size):
            torch.mul(factors[:, step], kept[:, step - 1], out=kept[:, step])
            torch.addcmul(
                terms[:, step], factors[:, step], blocks[:, step - 1], out=blocks[:, step]
            )
        last = start
        for block, share in zip(blocks, kept, strict=True):
            block.addcmul_(share, last)
            last = block[-1]
        for step in range(whole, T):
            torch.addcmul(b[step], a[step], last, out=h[step])
            last = h[step]
        return h

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        a, _, start = inputs
        ctx.save_for_backward(a, start, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, start, h = ctx.saved_tensors
        later = torch.cat([torch.zeros_like(a[:1]), a[1:].flip(0)])
        of_b = scan(later, gradient.flip(0), torch.zeros_like(start)).flip(0)
        before = torch.cat([start.unsqueeze(0), h[:-1]])
        return of_b * before, of_b, of_b[0] * a[0]
