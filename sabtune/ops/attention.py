"""Causal softmax attention, for the Transformer: biases by distance and rotated keys.

Shapes: B batch, T steps, M earlier steps, P units of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

QUERIES = 512
"""The number of steps whose mask over all steps is in memory at once."""

BASE = 10_000.0
"""The base of the wavelengths of rotary positions (Su et al., 2021)."""

Rotation = tuple[Tensor, Tensor]
"""The cosines and the sines of the angles of T steps, each (T, 1, P / 2)."""


def attend(query: Tensor, key: Tensor, value: Tensor, slopes: Tensor | None = None) -> Tensor:
    """Attend from each of the last T steps to itself and to every earlier step.

    The weights of step t are the softmax over i ≤ t of q_t · k_i / √P - slope (t - i). Only the
    masks of `QUERIES` steps are in memory at once, and none if no bias and no earlier steps need
    one.

    query: (B, heads, T, P). key, value: (B, heads, M + T, P). slopes: (heads,), how fast the score
    falls with the distance; None for no such bias. Returns the weighted values (B, heads, T, P).
    """
    T, steps = query.shape[2], key.shape[2]
    if slopes is None and T in (1, steps):
        return scaled_dot_product_attention(query, key, value, is_causal=T > 1)
    first, parts = steps - T, []
    for part in query.split(QUERIES, dim=2):  # type: ignore[no-untyped-call]
        last = first + part.shape[2]
        mask = _mask(first, last, slopes, query)
        seen = key[:, :, :last], value[:, :, :last]
        parts.append(scaled_dot_product_attention(part, *seen, attn_mask=mask))
        first = last
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def _mask(first: int, last: int, slopes: Tensor | None, query: Tensor) -> Tensor:
    """Return what the steps `first` to `last` - 1 add to their scores, or which steps they see."""
    steps = torch.arange(last, device=query.device)
    distance = steps[first:].unsqueeze(1) - steps
    if slopes is None:
        return distance >= 0
    bias = -slopes[:, None, None] * distance
    return bias.masked_fill(distance < 0, -math.inf).to(query.dtype).unsqueeze(0)


def alibi_slopes(heads: int) -> list[float]:
    """Return the slopes of ALiBi (Press et al., 2022, arXiv 2108.12409), one for each head.

    For a power of two, they are the geometric sequence that ends at 2^-8. Other numbers add every
    second slope of the next power of two, as in the authors' code.
    """
    power = 2 ** (heads.bit_length() - 1)
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    return slopes + [2 ** (-8 * i / (2 * power)) for i in range(1, 2 * (heads - power), 2)]


def rotation(first: int, steps: int, width: int, like: Tensor) -> Rotation:
    """Return the angles of rotary positions (Su et al., 2021, arXiv 2104.09864).

    first: the number of earlier steps. steps: T. width: P, which is even. like: a tensor whose
    device and precision, at least single, the result has.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    at = torch.arange(first, first + steps, device=like.device, dtype=torch.float64)
    units = torch.arange(0, width, 2, device=like.device, dtype=torch.float64)
    angles = at[:, None, None] * BASE ** (-units / width)
    return angles.cos().to(wide), angles.sin().to(wide)


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate each pair of neighboring units of x (B, T, heads, P) by the angle of its step."""
    cos, sin = by
    wide = x.to(cos.dtype)
    one, other = wide[..., 0::2], wide[..., 1::2]
    turned = torch.stack([one * cos - other * sin, one * sin + other * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)
