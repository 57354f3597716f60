"""How the kernels want their numbers: H filled up to whole vectors, the weights in panels.

H hidden, W the same filled up with zeros to a multiple of LANES: a unit whose weights are all zero
stays zero and takes no credit, so the kernels know no remainders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from sabtune.ops.kernel_simd import LANES
from sabtune.ops.reference import Parameters, Rule

Array = NDArray[Any]


def packed(weight: Tensor) -> Array:
    """(in, out) -> (out / LANES, in, LANES): a product reads it from front to back."""
    depth, width = weight.shape
    panels = weight.reshape(depth, width // LANES, LANES).transpose(0, 1)
    return panels.contiguous().numpy()


def unpacked(panels: Array) -> Tensor:
    """The inverse of `packed`."""
    return torch.from_numpy(panels).transpose(0, 1).flatten(1)


def query_scale(rule: Rule, H: int) -> float:
    """What W2 is multiplied with for the kernels: they have scores k·q without the 1 / √H."""
    return float(H**-0.5) if rule.scoring == "dot" else 1.0


@dataclass(frozen=True)
class Layout:
    """The padding for a hidden size, and its removal; everything is detached."""

    H: int

    @property
    def width(self) -> int:
        return -(-self.H // LANES) * LANES

    @property
    def more(self) -> int:
        return self.width - self.H

    def rows(self, tensor: Tensor) -> Tensor:
        """(…, H) -> (…, W), contiguous."""
        tensor = tensor.detach()
        return (pad(tensor, (0, self.more)) if self.more else tensor).contiguous()

    def square(self, weight: Tensor) -> Tensor:
        """(n·H, H) -> (n·W, W), each block of H rows filled up."""
        weight = weight.detach()
        if not self.more:
            return weight
        return pad(weight.view(-1, self.H, self.H), (0, self.more, 0, self.more)).flatten(0, 1)

    def gates(self, weight: Tensor) -> Tensor:
        """(4H, n) -> (4W, n), each gate filled up."""
        weight = weight.detach()
        if not self.more:
            return weight
        return pad(weight.view(4, self.H, -1), (0, 0, 0, self.more)).flatten(0, 1)

    def scores(self, p: Parameters, rule: Rule) -> tuple[Tensor, Tensor]:
        """W2 (W, W) and w3 (W,), zeros for what the rule doesn't have."""
        H = self.H
        W2 = p.W2 if p.W2.numel() else p.W1.new_zeros(H, H)
        w3 = p.w3 if p.w3.numel() else p.W1.new_zeros(H)
        return self.square(W2) * query_scale(rule, H), self.rows(w3)

    def readout(self, V: Tensor) -> Tensor:
        """V1 beside V2, (O, 2H) -> V2 beside V1, (O filled up, 2W)."""
        V1, V2 = V.view(-1, 2, self.H).unbind(1)
        return Layout(len(V)).rows(torch.cat([self.rows(V2), self.rows(V1)], dim=1).T).T

    def no_rows(self, tensor: Tensor) -> Tensor:
        """(…, W) -> (…, H)."""
        return tensor[..., : self.H] if self.more else tensor

    def no_square(self, weight: Tensor) -> Tensor:
        """(n·W, W) -> (n·H, H)."""
        return weight.reshape(-1, self.width, self.width)[:, : self.H, : self.H].flatten(0, 1)

    def no_readout(self, V: Tensor) -> Tensor:
        """The inverse of `readout`, but for the outputs' filling."""
        V2, V1 = V.view(-1, 2, self.width).unbind(1)
        return torch.cat([self.no_rows(V1), self.no_rows(V2)], dim=1)

    def no_gates(self, weight: Tensor) -> Tensor:
        """(4W, n) -> (4H, n)."""
        return weight.reshape(4, self.width, -1)[:, : self.H].flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Forward:
    """The weights of the forward pass. The cell's gate is doubled: tanh(x) = 2σ(2x) - 1."""

    W_ih: Array
    W_hh: Array
    bias: Array  # (4W,)
    W1: Array
    W2: Array
    w3: Array
    V: Array  # V2 above V1
    b: Array  # (O filled up,)

    @staticmethod
    def of(p: Parameters, V: Tensor, b: Tensor, layout: Layout, rule: Rule) -> Forward:
        W2, w3 = layout.scores(p, rule)
        W_ih, W_hh = layout.gates(p.weight_ih).clone(), layout.square(p.weight_hh).clone()
        bias = layout.gates((p.bias_ih + p.bias_hh).unsqueeze(1)).flatten().clone()
        for weight in (W_ih, W_hh, bias):
            weight[2 * layout.width : 3 * layout.width] *= 2
        return Forward(
            W_ih=packed(W_ih.T),
            W_hh=packed(W_hh.T),
            bias=bias.numpy(),
            W1=packed(layout.square(p.W1).T),
            W2=packed(W2.T),
            w3=w3.numpy(),
            V=packed(layout.readout(V).T),
            b=Layout(len(b)).rows(b).numpy(),
        )


@dataclass(frozen=True, eq=False)
class Backward:
    """The weights of the backward pass."""

    W_ih: Array  # of inputs filled up
    W_hh: Array
    W1: Array
    W2: Array
    w3: Array
    V: Array

    @staticmethod
    def of(p: Parameters, V: Tensor, layout: Layout, rule: Rule) -> Backward:
        W2, w3 = layout.scores(p, rule)
        return Backward(
            W_ih=packed(Layout(p.weight_ih.shape[1]).rows(layout.gates(p.weight_ih))),
            W_hh=packed(layout.square(p.weight_hh)),
            W1=packed(layout.square(p.W1)),
            W2=packed(W2),
            w3=w3.numpy(),
            V=packed(layout.readout(V)),
        )
