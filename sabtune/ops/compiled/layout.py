"""How the kernels want their numbers: H filled up to whole vectors, the weights in panels.

H hidden, W the same filled up with zeros to a multiple of LANES: a unit whose weights are all zero
stays zero and takes no credit, so the kernels know no remainders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from sabtune.ops.compiled.common import Array, filled, kernel
from sabtune.ops.compiled.simd import LANES, Number
from sabtune.ops.reference import Parameters, Rule

NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


@kernel
def lay(
    weight: Array, first: int, count: int, H: int, W: int, turned: bool, factor: Number,
    panels: Array, at: int,
) -> None:  # fmt: skip
    """Writes `count` columns of a weight (n·H, …), from `first` on, into panels from row `at` on.

    Each block of H rows is filled up to W. turned: a product reads them as (count, n·W), the gate
    of the cell, third of four blocks, doubled; else as (n·W, count). What is filled up is zero
    already.
    """
    number = panels.dtype.type
    rows = weight.shape[0]
    for r in range(rows):
        to = r // H * W + r % H
        by = number(2 * factor if turned and rows == 4 * H and r // H == 2 else factor)
        for j in range(count):
            if turned:
                panels[to // LANES, at + j, to % LANES] = by * weight[r, first + j]
            else:
                panels[j // LANES, at + to, j % LANES] = by * weight[r, first + j]


def unpacked(panels: Array) -> Tensor:
    """(width / LANES, depth, LANES) -> (depth, width)."""
    return torch.from_numpy(panels).transpose(0, 1).flatten(1)


def room(shape: tuple[int, ...], like: Tensor, *, whole: bool) -> Array:
    """Zeros, unless the whole of it will be written."""
    return (np.empty if whole else np.zeros)(shape, NUMPY[like.dtype])


def query_scale(rule: Rule, H: int) -> float:
    """What W2 is multiplied with for the kernels: they have scores k·q without the 1 / √H."""
    return float(H**-0.5) if rule.scoring == "dot" else 1.0


@dataclass(frozen=True)
class Layout:
    """The padding for a hidden size, and its removal; everything is detached."""

    H: int

    @property
    def width(self) -> int:
        return filled(self.H)

    @property
    def more(self) -> int:
        return self.width - self.H

    def rows(self, tensor: Tensor) -> Tensor:
        """(…, H) -> (…, W), contiguous."""
        tensor = tensor.detach()
        return (pad(tensor, (0, self.more)) if self.more else tensor).contiguous()

    def panels(
        self, weight: Tensor, *, turned: bool, fill: bool = True, factor: float = 1.0
    ) -> Array:
        """(n·H, k) -> (out / LANES, in, LANES): a product reads it from front to back, as
        (in, out) = (k, n·W) if it is turned, else as (n·W, k). fill: k is filled up as well."""
        rows, columns = weight.shape
        down, across = rows // self.H * self.width, filled(columns) if fill else columns
        shape = (down // LANES, across, LANES) if turned else (across // LANES, down, LANES)
        panels = room(shape, weight, whole=(down, across) == (rows, columns))
        of = weight.detach().contiguous().numpy()
        lay(of, 0, columns, self.H, self.width, turned, factor, panels, 0)
        return panels

    def readout(self, V: Tensor, *, turned: bool) -> Array:
        """V1 beside V2, (O, 2H), -> panels of V2 beside V1, (O filled up, 2W)."""
        O, H, W = len(V), self.H, self.width
        outputs = Layout(O).width
        shape = (outputs // LANES, 2 * W, LANES) if turned else (2 * W // LANES, outputs, LANES)
        panels = room(shape, V, whole=False)
        of = V.detach().contiguous().numpy()
        behind = (panels, W) if turned else (panels[W // LANES :], 0)
        for first, (to, at) in ((H, (panels, 0)), (0, behind)):
            lay(of, first, H, max(O, 1), outputs, turned, 1.0, to, at)
        return panels

    def bias(self, p: Parameters) -> Array:
        """Both biases, (4W,), the cell's gate doubled."""
        bias = np.zeros((4, self.width), NUMPY[p.bias_ih.dtype])
        both = p.bias_ih.detach().numpy(), p.bias_hh.detach().numpy()
        bias[:, : self.H] = sum(of.reshape(4, self.H) for of in both)
        bias[2] *= 2
        return bias.reshape(-1)

    def w3(self, p: Parameters) -> Array:
        """(W,); zeros where the rule has none."""
        return self.rows(p.w3 if p.w3.numel() else p.W1.new_zeros(self.H)).numpy()

    def query(self, p: Parameters, rule: Rule, *, turned: bool) -> Array:
        """The panels of W2; zeros where the rule has none."""
        W2 = p.W2 if p.W2.numel() else p.W1.new_zeros(self.H, self.H)
        return self.panels(W2, turned=turned, factor=query_scale(rule, self.H))

    def no_rows(self, tensor: Tensor) -> Tensor:
        """(…, W) -> (…, H)."""
        return tensor[..., : self.H] if self.more else tensor

    def no_square(self, weight: Tensor) -> Tensor:
        """(n·W, W) -> (n·H, H)."""
        if not self.more:
            return weight
        return weight.reshape(-1, self.width, self.width)[:, : self.H, : self.H].flatten(0, 1)

    def no_readout(self, V: Tensor) -> Tensor:
        """The inverse of `readout`, but for the outputs' filling."""
        V2, V1 = V.view(-1, 2, self.width).unbind(1)
        return torch.cat([self.no_rows(V1), self.no_rows(V2)], dim=1)

    def no_gates(self, weight: Tensor) -> Tensor:
        """(4W, n) -> (4H, n)."""
        if not self.more:
            return weight
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
        return Forward(
            W_ih=layout.panels(p.weight_ih, turned=True, fill=False),
            W_hh=layout.panels(p.weight_hh, turned=True),
            bias=layout.bias(p),
            W1=layout.panels(p.W1, turned=True),
            W2=layout.query(p, rule, turned=True),
            w3=layout.w3(p),
            V=layout.readout(V, turned=True),
            b=Layout(len(b)).rows(b).numpy(),
        )


@dataclass(frozen=True, eq=False)
class Backward:
    """The weights of the backward pass."""

    W_ih: Array  # of inputs filled up; empty where nobody asks for dL/dx
    W_hh: Array
    W1: Array
    W2: Array
    w3: Array
    V: Array

    @staticmethod
    def of(p: Parameters, V: Tensor, layout: Layout, rule: Rule, of_x: bool) -> Backward:
        nothing = room((0, 0, LANES), V, whole=True)
        return Backward(
            W_ih=layout.panels(p.weight_ih, turned=False) if of_x else nothing,
            W_hh=layout.panels(p.weight_hh, turned=False),
            W1=layout.panels(p.W1, turned=False),
            W2=layout.query(p, rule, turned=False),
            w3=layout.w3(p),
            V=layout.readout(V, turned=False),
        )
