"""The weights p of the scores that count, and dL/da from dL/dp, for the eager pass.

B batch, K scores that count: a step's highest, falling, down to the one that gives θ; or all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sabtune.ops.reference import RELEASED_MARGIN, Rule


def weigh(a: Tensor, every: bool, rule: Rule, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """p (B, K), in `out` if there is one, and what it was divided by, (B, 1)."""
    theta = a.amin(dim=1, keepdim=True) if every else a[:, -1:]
    if rule.form == "released":
        if every:
            return a if out is None else out.copy_(a), torch.ones_like(theta)
        theta = theta + RELEASED_MARGIN
    if rule.normalizer == "softmax":
        w = torch.exp(a - a.amax(dim=1, keepdim=True)).mul_(a > theta)
        divisor = w.sum(dim=1, keepdim=True).clamp_min_(1.0)
    else:
        w = torch.relu_(a - theta)
        divisor = w.sum(dim=1, keepdim=True).add_(rule.epsilon)
    return torch.div(w, divisor, out=out), divisor


def of_weights(dp: Tensor, p: Tensor, divisor: Tensor, every: bool, rule: Rule) -> Tensor:
    """dL/da (B, K). θ takes what the others give, by its sign; under softmax it takes nothing."""
    if rule.form == "released" and every:
        return dp
    da = dp - (p * dp).sum(dim=1, keepdim=True)
    if rule.normalizer == "softmax":
        return da.mul_(p)
    da.div_(divisor).mul_(p != 0)
    others = da.sum(dim=1, keepdim=True)
    if every:  # of several without a weight all are at θ, and any one is right
        return da.scatter_add_(1, p.argmin(dim=1, keepdim=True), -others)
    da[:, -1:] -= others
    return da
