"""SAB by the fastest backend that supports a call.

Every backend computes what `sabtune.ops.reference.sab` does, gradients included. On a CPU, the
compiled pass costs about as much as an LSTM and supports every scoring, normalizer and ε of the
paper's form. The Triton kernels are off unless you enable them. The eager pass runs the other calls
(no numba, another device, a gradient with respect to the incoming state, the forms of the authors'
code), and the reference those that it does not support, for example another dtype or autocast.

The environment variable SABTUNE_BACKEND forces one backend for every call.

Shapes: B batch, T steps, I inputs, H hidden, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sabtune.ops import compiled, eager, reference, triton
from sabtune.ops.call import Backend, Call, Results, forced_backend, refusal
from sabtune.ops.checks import check_call
from sabtune.ops.reference import State


def run_reference(call: Call) -> Results:
    """Run the equations."""
    return call.results(*reference.steps(call.x, call.state, call.parameters, call.sparsity))


REFERENCE = Backend("reference", lambda _: "", run_reference)

BACKENDS = (compiled.BACKEND, triton.BACKEND, eager.BACKEND, REFERENCE)
"""All backends, in their order of preference."""

ONE_DTYPE = (eager.BACKEND, REFERENCE)
"""The backends that need a float32 state of the Triton kernels cast to the dtype of the weights."""


def run(call: Call) -> Results:
    """Run a call by the first backend that supports it, or by the one that SABTUNE_BACKEND forces.

    The compiled pass and the kernels return a detached state; so does the eager pass unless a
    tensor of the incoming state requires a gradient. The kernels return a float32 state for weights
    of another dtype, so a call may mix dtypes where they are enabled. Raises InputError as
    `reference.sab` does, and if the forced backend cannot run the call.
    """
    forced = forced_backend()
    check(call, mixed=triton.is_enabled)
    for backend in BACKENDS:
        if forced and backend.name != forced:
            continue
        if backend in ONE_DTYPE and triton.is_enabled():
            call = in_one_dtype(call)
        reason = backend.unsupported(call)
        if not reason:
            return backend.run(call)
    other = next(backend.name for backend in BACKENDS if backend.supports(call))
    raise refusal(forced, reason, other)


def check(call: Call, mixed: Callable[[], bool] | None = None) -> None:
    """Raise InputError unless the call is valid; see `check_call`."""
    x, state, p = call.x, call.state, call.parameters
    check_call(x, state, p, State, call.sparsity, call.readout, mixed=mixed)


def in_one_dtype(call: Call) -> Call:
    """Cast a state of the Triton kernels, which is float32, to the dtype of the weights.

    Raises InputError if the dtypes differ even so. Under autocast they may.
    """
    if call.has_one_dtype():
        return call
    if not triton.problem_on(call.x.device):
        state, dtype = call.state, call.parameters.weight_hh.dtype
        tensors = {name: getattr(state, name).to(dtype) for name in ("h", "c", "memory", "keys")}
        call = replace(call, state=State(**tensors, step=state.step))
    check(call)
    return call
