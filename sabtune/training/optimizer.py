"""Adam, without loading torch's compiler."""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import torch


class Adam(torch.optim.Adam):
    """The Adam of torch, whose methods do not import `torch.compile`'s compiler.

    torch wraps these methods so that the compiler does not trace them. Each wrapper imports the
    compiler and SymPy: a second of CPU time and 140 MiB in every worker that trains, although
    nothing is compiled there. Results are the same to the bit.
    """

    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    zero_grad = unwrap(torch.optim.Adam.zero_grad)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the weights by their gradients."""
        return PLAIN_STEP(self, closure)


PLAIN_STEP = unwrap(torch.optim.Adam.step)
