"""The weights p of the top scores, and dL/da from dL/dp, for the eager pass.

Shapes: B batch, K top scores of a step. If a step has more scores than that, these are the highest
in descending order, and the last one gives θ. Otherwise they are all scores, the oldest memory's
first. In the early form, they are always all scores, because any number of them may equal θ.
dL/d of A is the gradient of the loss L with respect to A.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sabtune.ops.reference import MARGIN, Rule


def weigh(a: Tensor, all_scores: bool, rule: Rule, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute the weights p (B, K) from the top scores a (B, K), and their divisor (B, 1).

    all_scores: whether a holds every score of the step, unsorted. out: the tensor to write p to;
    None allocates one.
    """
    theta = a.amin(dim=1, keepdim=True) if all_scores else a[:, -1:]
    if rule.form == "released":
        if all_scores:
            return a if out is None else out.copy_(a), torch.ones_like(theta)
        theta = theta + MARGIN
    if rule.normalizer == "softmax":
        w = torch.exp(a - a.amax(dim=1, keepdim=True)).mul_(a > theta)
        divisor = w.sum(dim=1, keepdim=True).clamp_min_(1.0)
    else:
        w = torch.relu_(a - theta)
        divisor = w.sum(dim=1, keepdim=True).add_(rule.epsilon)
    return torch.div(w, divisor, out=out), divisor


def weigh_early(
    a: Tensor, k_top: int, epsilon: float, out: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `weigh` does, in the early form, from all scores a (B, M).

    Also returns the index (B, 1) of the score that gives θ. It means nothing while there are at
    most k_top scores.
    """
    ones = torch.ones_like(a[:, :1])
    if a.shape[1] <= k_top:
        return a if out is None else out.copy_(a), ones, ones.long()
    values, indices = a.topk(k_top + 1, dim=1)
    w = torch.relu_(a - (values[:, -1:] - MARGIN))
    divisor = w.sum(dim=1, keepdim=True).add_(epsilon)
    return torch.div(w, divisor, out=out), divisor, indices[:, -1:]


def score_gradient(dp: Tensor, p: Tensor, divisor: Tensor, all_scores: bool, rule: Rule) -> Tensor:
    """Compute dL/da (B, K) from dL/dp.

    Every weight depends on a_i - θ, so the score that gives θ gets minus the sum of the other
    gradients. Under softmax θ only selects scores, and gets no gradient.
    """
    if rule.form == "released" and all_scores:
        return dp
    da = dp - (p * dp).sum(dim=1, keepdim=True)
    if rule.normalizer == "softmax":
        return da.mul_(p)
    da.div_(divisor).mul_(p != 0)
    others = da.sum(dim=1, keepdim=True)
    if all_scores:  # every score with weight 0 equals θ, and any of them may take its gradient
        return da.scatter_add_(1, p.argmin(dim=1, keepdim=True), -others)
    da[:, -1:] -= others
    return da


def early_score_gradient(dp: Tensor, p: Tensor, divisor: Tensor, lowest: Tensor | None) -> Tensor:
    """Do what `score_gradient` does, in the early form.

    lowest: the index (B, 1) of the score that gives θ; None if the weights are the scores.
    """
    if lowest is None:
        return dp
    da = (dp - (p * dp).sum(dim=1, keepdim=True)).div_(divisor).mul_(p != 0)
    return da.scatter_add_(1, lowest, -da.sum(dim=1, keepdim=True))
