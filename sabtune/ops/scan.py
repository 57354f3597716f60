"""The parallel scan of a linear recurrence with positive coefficients, in log space.

Shapes: B batch, T steps, H hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 128
"""The number of steps that are computed in parallel. Chunks follow one another."""


def scan(log_a: Tensor, log_b: Tensor, start: Tensor) -> Tensor:
    """Compute h_t = a_t h_{t-1} + b_t for every step, from the logarithms of a_t and b_t.

    Pairs of neighboring steps are combined, then pairs of pairs, and so on (Hillis and Steele,
    1986). Sums are computed in log space, and no logarithms are subtracted: unlike with the
    difference of two cumulative sums, the rounding error doesn't grow with T.

    log_a, log_b: (B, T, H). start: h_0, (B, H), of any sign. Returns every h_t, (B, T, H).
    """
    h, hidden = start, []
    chunks = (tensor.split(CHUNK, dim=1) for tensor in (log_a, log_b))  # type: ignore[no-untyped-call]
    for chunk in zip(*chunks, strict=True):
        log_kept, log_added = _combined(*chunk)
        out = log_kept.exp() * h.unsqueeze(1) + log_added.exp()
        h = out[:, -1]
        hidden.append(out)
    return torch.cat(hidden, dim=1)


def _combined(log_a: Tensor, log_b: Tensor) -> tuple[Tensor, Tensor]:
    """Return log α_t and log β_t, (B, T, H), such that h_t = α_t h_0 + β_t for every step."""
    reach = 1
    while reach < log_a.shape[1]:
        later = log_a[:, reach:]
        added = torch.logaddexp(log_b[:, reach:], later + log_b[:, :-reach])
        log_b = torch.cat([log_b[:, :reach], added], dim=1)
        log_a = torch.cat([log_a[:, :reach], later + log_a[:, :-reach]], dim=1)
        reach *= 2
    return log_a, log_b
