"""What the backends of SAB share: a call, its results, and the interface of a backend.

A backend imports `ops.reference`, but no other backend. `ops.dispatch` has the table of backends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sabtune.errors import InputError
from sabtune.ops import reference
from sabtune.ops.checks import computed_tensors
from sabtune.ops.reference import Parameters, Readout, Sparsity, State
from sabtune.schema import check_name

VARIABLE = "SABTUNE_BACKEND"
"""The environment variable that forces one backend for every call."""

NAMES = ("compiled", "triton", "eager", "reference")
"""The names of the backends, in their order of preference."""

Results = tuple[tuple[Tensor, ...], State]
"""h and s, each (B, T, H), or only the logits (B, T, O) of a call with a readout; and the state
after x."""


@dataclass(frozen=True, eq=False)
class Call:
    """The arguments of one call: x (B, T, I), the state before it, and what to compute.

    readout: V and b; None to return h and s.
    """

    x: Tensor
    state: State
    parameters: Parameters
    sparsity: Sparsity
    readout: Readout | None = None

    def weights(self) -> tuple[Tensor, ...]:
        """Return the parameters, and V and b if there is a readout."""
        return *vars(self.parameters).values(), *(self.readout or ())

    def has_one_dtype(self) -> bool:
        """Return whether state and weights have the dtype of x."""
        dtype = self.x.dtype
        return all(t.dtype == dtype for t in (*computed_tensors(self.state), *self.weights()))

    def results(self, hidden: Tensor, summary: Tensor, after: State) -> Results:
        """Return the results of this call from h and s, each (B, T, H), and the state after x."""
        if self.readout is None:
            return (hidden, summary), after
        return (reference.readout(hidden, summary, *self.readout),), after


@dataclass(frozen=True, eq=False)
class Backend:
    """One implementation of SAB, which computes the same function as `ops.reference`.

    unsupported: returns why the backend cannot run a call, as the end of a sentence that starts
    with its name and "which", or "" if it can. run: runs a call that the backend supports.
    """

    name: str
    unsupported: Callable[[Call], str]
    run: Callable[[Call], Results]

    def supports(self, call: Call) -> bool:
        """Return whether the backend can run a call."""
        return not self.unsupported(call)


def forced_backend() -> str:
    """Return the name of the backend that the environment forces, or "".

    Raises ConfigError if there is no backend of that name.
    """
    name = os.environ.get(VARIABLE, "")
    if name:
        check_name(VARIABLE, name, NAMES)
    return name


def refusal(name: str, reason: str, other: str) -> InputError:
    """Return the error for a call that the forced backend cannot run, and that `other` can."""
    return InputError(f"{VARIABLE} is {name}, which {reason}: unset it, or set it to {other}")
