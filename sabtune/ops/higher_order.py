"""Gradients that autograd can differentiate again, for the hand-written backward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients_through(
    run: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of a loss with respect to `inputs`, which autograd can differentiate.

    run: computes the outputs from the inputs by differentiable PyTorch operations. gradients: the
    gradient of the loss with respect to each output, or None. needed: which inputs need a gradient;
    that of the others is None. The result is a function of `inputs` and of `gradients`.
    """
    with torch.enable_grad():
        # one input may have been computed from another: a view gets only its own partial derivative
        views = [t.view_as(t) if need else t for t, need in zip(inputs, needed, strict=True)]
        differentiated = [view for view, need in zip(views, needed, strict=True) if need]
        pairs = zip(run(*views), gradients, strict=True)
        outputs = [(out, g) for out, g in pairs if g is not None and out.requires_grad]
        if not outputs:
            return (None,) * len(inputs)
        input_gradients = iter(
            torch.autograd.grad(
                [output for output, _ in outputs],
                differentiated,
                [gradient for _, gradient in outputs],
                create_graph=True,
                allow_unused=True,
            )
        )
    return tuple(next(input_gradients) if need else None for need in needed)
