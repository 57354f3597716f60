"""The recurrence of Mamba-2 (Dao and Gu, 2024, arXiv 2405.21060), computed in chunks.

Shapes: b batch, c chunks, Q steps of a chunk, h heads, P units of a head, N numbers of state for
each unit.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Compute S_t = exp(dt_t A) S_{t-1} + dt_t B_t x_tᵀ and y_t = C_tᵀ S_t for every step and head.

    The steps are cut into chunks. Within a chunk, y is a product of matrices, as in attention
    without softmax; between chunks, the states follow the recurrence. Every exponent is at most 0,
    so that nothing overflows.

    x: (b, T, h, P). dt: (b, T, h), at least 0. A: (h,), below 0. B, C: (b, T, N). start: S_0,
    (b, N, h, P). chunk: the largest number of steps of a chunk. Returns y (b, T, h, P), and S_T.
    """
    T = x.shape[1]
    chunks = -(-T // chunk)
    size = -(-T // chunks)
    if rest := chunks * size - T:  # steps with dt = 0 change no state
        x, dt, B, C = (pad(t, (0, 0) * (t.dim() - 2) + (0, rest)) for t in (x, dt, B, C))
    x, dt, B, C = (torch.unflatten(t, 1, (chunks, size)) for t in (x, dt, B, C))
    log_decay = (dt * A).cumsum(2)  # since the start of the chunk, (b, c, Q, h)
    x = x * dt.unsqueeze(-1)
    within: Tensor = _Within.apply(x, log_decay, B, C)[0]  # type: ignore[no-untyped-call]

    end = log_decay[:, :, -1:]
    reaching = x * (end - log_decay).exp().unsqueeze(-1)
    added = torch.unflatten(B.transpose(2, 3) @ reaching.flatten(3), 3, x.shape[3:])
    decay = end.exp().unsqueeze(-1)  # (b, c, 1, h, 1)
    state, states = start, []
    for share, more in zip(decay.unbind(1), added.unbind(1), strict=True):
        states.append(state)
        state = torch.addcmul(more, share, state)
    passed = torch.unflatten(C @ torch.stack(states, dim=1).flatten(3), 3, x.shape[3:])
    y = torch.addcmul(within, passed, log_decay.exp().unsqueeze(-1))
    return y.flatten(1, 2)[:, :T], state


class _Within(torch.autograd.Function):
    """Compute what the steps of a chunk add to one another.

    y_i = Σ_{j ≤ i} (C_i · B_j) exp(d_i - d_j) x_j

    x: (b, c, Q, h, P). d: `log_decay`, (b, c, Q, h). B, C: (b, c, Q, N). It returns y, (b, c, Q, h,
    P), and for its gradient exp(d_i - d_j) and the weights of x_j, (b, c, h, Q, Q).

    The derivative by d_i is that of row i of the weights, less that of column i. These are the
    products of y_i and of x_i with their gradients.
    """

    @staticmethod
    def forward(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, ...]:
        Q = x.shape[2]
        by_head = log_decay.transpose(2, 3).contiguous()
        later = torch.ones(Q, Q, dtype=torch.bool, device=x.device).triu(1)
        decay = by_head.unsqueeze(-1) - by_head.unsqueeze(-2)
        decay.masked_fill_(later, -math.inf).exp_()
        weights = decay * (C @ B.transpose(2, 3)).unsqueeze(2)
        return (weights @ x.transpose(2, 3)).transpose(2, 3), decay, weights

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        x, _, B, C = inputs
        y, decay, weights = output
        ctx.mark_non_differentiable(decay, weights)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, B, C, y, decay, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: None) -> tuple[Tensor, ...]:
        x, B, C, y, decay, weights = ctx.saved_tensors
        by_head = gradient.transpose(2, 3).contiguous()
        of_x = (weights.transpose(3, 4) @ by_head).transpose(2, 3)
        of_scores = (by_head @ x.permute(0, 1, 3, 4, 2)).mul_(decay).sum(2)
        of_decay = (gradient * y).sum(-1) - (x * of_x).sum(-1)
        return of_x, of_decay, of_scores.transpose(2, 3) @ C, of_scores @ B
