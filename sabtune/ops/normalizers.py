"""Functions that turn the scores of memories into weights that sum to 1, most of them zero.

Each takes scores a (…, M) and returns weights p (…, M) over the last dimension, of the same dtype.
Which weights are above zero, the support, is found by sorting. The weights are then computed in
closed form from the scores of the support, which autograd differentiates any number of times: the
support is constant almost everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sparsemax(a: Tensor) -> Tensor:
    """Return the Euclidean projection of the scores onto the simplex.

    It is sparsemax (Martins and Astudillo, 2016, arXiv 1602.02068): p_i = max(a_i - τ, 0), with the
    threshold τ at which the weights sum to 1 (their Algorithm 1).
    """
    if not a.shape[-1]:
        return a
    z, place = _shifted(a)
    with torch.no_grad():
        highest = z.sort(dim=-1, descending=True).values
        support = z >= _last(highest, 1 + place * highest > highest.cumsum(dim=-1))
    count = support.sum(dim=-1, keepdim=True)
    tau = (z.where(support, 0).sum(dim=-1, keepdim=True) - 1) / count
    return torch.relu(z - tau).to(a.dtype)


def entmax15(a: Tensor) -> Tensor:
    """Return the entmax of the scores with α = 1.5, which lies between softmax and sparsemax.

    It is 1.5-entmax (Peters et al., 2019, arXiv 1905.05702): p_i = max(a_i / 2 - τ, 0)², with the
    threshold τ at which the weights sum to 1 (their Algorithm 2).
    """
    if not a.shape[-1]:
        return a
    z, place = _shifted(a)
    z = z / 2
    with torch.no_grad():
        highest = z.sort(dim=-1, descending=True).values
        mean = highest.cumsum(dim=-1) / place
        spread = highest.square().cumsum(dim=-1) - place * mean.square()
        tau = mean - ((1 - spread).clamp_min(0) / place).sqrt()
        support = z >= _last(highest, tau <= highest)
    count = support.sum(dim=-1, keepdim=True)
    mean = z.where(support, 0).sum(dim=-1, keepdim=True) / count
    spread = (z - mean).where(support, 0).square().sum(dim=-1, keepdim=True)
    tau = mean - ((1 - spread) / count).sqrt()
    return torch.relu(z - tau).square().to(a.dtype)


def top_k(a: Tensor, k: int) -> Tensor:
    """Return the softmax of the k highest scores; all other weights are zero.

    Of equal scores at the k-th place, those of the first memories are kept.
    """
    if k >= a.shape[-1]:
        return torch.softmax(a, dim=-1)
    highest = a.detach().sort(dim=-1, descending=True, stable=True).indices[..., :k]
    kept = torch.zeros_like(a, dtype=torch.bool).scatter(-1, highest, True)
    return torch.softmax(a.where(kept, -torch.inf), dim=-1)


def _shifted(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores minus the highest one, in float32 at least, and the numbers 1 … M.

    The shift changes no weights, so the gradient need not flow through it.
    """
    z = a.to(torch.promote_types(a.dtype, torch.float32))
    z = z - z.detach().amax(dim=-1, keepdim=True)
    return z, torch.arange(1, a.shape[-1] + 1, device=a.device, dtype=z.dtype)


def _last(highest: Tensor, inside: Tensor) -> Tensor:
    """Return the lowest score of the support, (…, 1).

    highest: the scores in descending order. inside: for each of them, whether it is in the support.
    The first always is, unless a score is NaN.
    """
    count = inside.sum(dim=-1, keepdim=True).clamp_min(1)
    return highest.gather(-1, count - 1)
