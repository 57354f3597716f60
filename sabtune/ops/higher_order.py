"""Gradients that can be differentiated again, where the faster passes give numbers alone."""

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
    """dL/d of the `inputs`, None where none is `needed`, as functions of them and of `gradients`.

    run: plain torch that gives the outputs from the inputs. gradients: dL/d of each output, None
    where there is none.
    """
    with torch.enable_grad():
        # views: of an input that another one was made from, only its own share counts
        views = [t.view_as(t) if need else t for t, need in zip(inputs, needed, strict=True)]
        of = [view for view, need in zip(views, needed, strict=True) if need]
        pairs = zip(run(*views), gradients, strict=True)
        outputs = [(out, g) for out, g in pairs if g is not None and out.requires_grad]
        if not outputs:
            return (None,) * len(inputs)
        found = iter(
            torch.autograd.grad(
                [output for output, _ in outputs],
                of,
                [gradient for _, gradient in outputs],
                create_graph=True,
                allow_unused=True,
            )
        )
    return tuple(next(found) if need else None for need in needed)
