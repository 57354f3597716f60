"""The layout that the kernels need: H padded to whole vectors, the weights packed in panels.

H is the hidden size, and W is H padded to a multiple of LANES. The padding is zero. A unit whose
weights are all zero stays zero and has no gradient, so the kernels need no code for a remainder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from sabtune.ops.compiled import backward, forward
from sabtune.ops.compiled.common import Array, filled, kernel
from sabtune.ops.compiled.simd import LANES, Number
from sabtune.ops.reference import Parameters, Rule

NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


@kernel
def lay(
    weight: Array, first: int, count: int, H: int, W: int, turned: bool, factor: Number,
    panels: Array, at: int,
) -> None:  # fmt: skip
    """Write `count` columns of a weight (n·H, …), from `first` on, into panels from row `at` on.

    Each block of H rows is padded to W; the caller has set the padding to zero. turned: a product
    reads the panels as (count, n·W), and the cell gate, the third of four blocks, is doubled. If
    not turned, a product reads them as (n·W, count). factor: a factor of all numbers.
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
    """Return panels (width / LANES, depth, LANES) as a matrix (depth, width)."""
    return torch.from_numpy(panels).transpose(0, 1).flatten(1)


def room(shape: tuple[int, ...], like: Tensor, *, whole: bool) -> Array:
    """Return an array of zeros; uninitialized if the caller will write the `whole` array."""
    return (np.empty if whole else np.zeros)(shape, NUMPY[like.dtype])


def query_scale(rule: Rule, H: int) -> float:
    """Return the factor of W2: 1 / √H for "dot" scoring, otherwise 1. The kernels compute k·q."""
    return float(H**-0.5) if rule.scoring == "dot" else 1.0


@dataclass(frozen=True)
class Layout:
    """The padding for a hidden size, and its removal; all tensors are detached."""

    H: int

    @property
    def width(self) -> int:
        return filled(self.H)

    @property
    def more(self) -> int:
        return self.width - self.H

    def rows(self, tensor: Tensor) -> Tensor:
        """Pad (…, H) to (…, W), contiguous."""
        tensor = tensor.detach()
        return (pad(tensor, (0, self.more)) if self.more else tensor).contiguous()

    def panels(
        self, weight: Tensor, *, turned: bool, fill: bool = True, factor: float = 1.0
    ) -> Array:
        """Pack a weight (n·H, k) as (out / LANES, in, LANES).

        A product reads it from front to back, as (in, out) = (k, n·W) if turned, otherwise as
        (n·W, k). fill: pad k as well.
        """
        rows, columns = weight.shape
        down, across = rows // self.H * self.width, filled(columns) if fill else columns
        shape = (down // LANES, across, LANES) if turned else (across // LANES, down, LANES)
        panels = room(shape, weight, whole=(down, across) == (rows, columns))
        source = weight.detach().contiguous().numpy()
        lay(source, 0, columns, self.H, self.width, turned, factor, panels, 0)
        return panels

    def readout(self, V: Tensor, *, turned: bool) -> Array:
        """Pack V = [V1 V2] (O, 2H) as panels of [V2 V1] (O padded, 2W)."""
        O, H, W = len(V), self.H, self.width
        outputs = Layout(O).width
        shape = (outputs // LANES, 2 * W, LANES) if turned else (2 * W // LANES, outputs, LANES)
        panels = room(shape, V, whole=False)
        source = V.detach().contiguous().numpy()
        behind = (panels, W) if turned else (panels[W // LANES :], 0)
        for first, (to, at) in ((H, (panels, 0)), (0, behind)):
            lay(source, first, H, max(O, 1), outputs, turned, 1.0, to, at)
        return panels

    def bias(self, p: Parameters) -> Array:
        """Return the sum of both biases, (4W,), with the cell gate doubled."""
        bias = np.zeros((4, self.width), NUMPY[p.bias_ih.dtype])
        both = p.bias_ih.detach().numpy(), p.bias_hh.detach().numpy()
        bias[:, : self.H] = sum(part.reshape(4, self.H) for part in both)
        bias[2] *= 2
        return bias.reshape(-1)

    def w3(self, p: Parameters) -> Array:
        """Return w3 (W,); zeros if the rule has none."""
        return self.rows(p.w3 if p.w3.numel() else p.W1.new_zeros(self.H)).numpy()

    def query(self, p: Parameters, rule: Rule, *, turned: bool) -> Array:
        """Return the panels of W2; zeros if the rule has none."""
        W2 = p.W2 if p.W2.numel() else p.W1.new_zeros(self.H, self.H)
        return self.panels(W2, turned=turned, factor=query_scale(rule, self.H))

    def no_rows(self, tensor: Tensor) -> Tensor:
        """Remove the padding of (…, W)."""
        return tensor[..., : self.H] if self.more else tensor

    def no_square(self, weight: Tensor) -> Tensor:
        """Remove the padding of (n·W, W), in both directions."""
        if not self.more:
            return weight
        return weight.reshape(-1, self.width, self.width)[:, : self.H, : self.H].flatten(0, 1)

    def no_readout(self, V: Tensor) -> Tensor:
        """Return [V1 V2] (O, 2H) from [V2 V1] (O, 2W)."""
        V2, V1 = V.view(-1, 2, self.width).unbind(1)
        return torch.cat([self.no_rows(V1), self.no_rows(V2)], dim=1)

    def no_gates(self, weight: Tensor) -> Tensor:
        """Remove the padding of (4W, n)."""
        if not self.more:
            return weight
        return weight.reshape(4, self.width, -1)[:, : self.H].flatten(0, 1)


def forward_weights(
    p: Parameters, V: Tensor, b: Tensor, layout: Layout, rule: Rule
) -> forward.Weights:
    """Return the weights of the forward pass, with the readout V (O, 2H) and b (O,)."""
    return forward.Weights(
        W_ih=layout.panels(p.weight_ih, turned=True, fill=False),
        W_hh=layout.panels(p.weight_hh, turned=True),
        bias=layout.bias(p),
        W1=layout.panels(p.W1, turned=True),
        W2=layout.query(p, rule, turned=True),
        w3=layout.w3(p),
        V=layout.readout(V, turned=True),
        b=Layout(len(b)).rows(b).numpy(),
    )


def backward_weights(
    p: Parameters, V: Tensor, layout: Layout, rule: Rule, of_x: bool
) -> backward.Weights:
    """Return the weights of the backward pass; W_ih is empty unless dL/dx is needed."""
    nothing = room((0, 0, LANES), V, whole=True)
    return backward.Weights(
        W_ih=layout.panels(p.weight_ih, turned=False) if of_x else nothing,
        W_hh=layout.panels(p.weight_hh, turned=False),
        W1=layout.panels(p.W1, turned=False),
        W2=layout.query(p, rule, turned=False),
        w3=layout.w3(p),
        V=layout.readout(V, turned=False),
    )
