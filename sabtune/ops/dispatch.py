"""SAB by the fastest implementation that supports a call.

`sab` computes what `sabtune.ops.reference.sab` does, gradients included. On a CPU it runs the
compiled pass of `ops.compiled`, which costs about as much as an LSTM and supports every scoring,
normalizer and ε of the paper's form. `predict` computes the readout in the same pass. Other calls
(no numba, another device or dtype, a gradient with respect to the incoming state, the released
form) run in the kernels of `ops.triton` if you enabled them and they support the call, and
otherwise in `ops.eager`.

Shapes: B batch, T steps, I inputs, H hidden, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sabtune.ops import reference, triton
from sabtune.ops.checks import check_call, transformed
from sabtune.ops.reference import PAPER, Parameters, Readout, Rule, State

try:
    from sabtune.ops.compiled.call import Call
except ImportError:  # no numba
    COMPILED = False
else:
    COMPILED = True

DTYPES = (torch.float32, torch.float64)


def supports(x: Tensor, state: State, rule: Rule = PAPER) -> bool:
    """Return whether the compiled pass supports this call; `triton.sab` runs the others."""
    state_tensors: tuple[Tensor, ...] = (state.h, state.c)
    if torch.is_grad_enabled():
        state_tensors += (state.memory, state.keys)
    return (
        COMPILED
        and rule.form == "paper"
        and x.device.type == "cpu"
        and x.dtype in DTYPES
        and x.shape[0] > 0
        and x.shape[1] > 0
        and all(tensor.dtype == x.dtype for tensor in state_tensors)
        and not transformed()
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in state_tensors))
    )


def sab(
    x: Tensor,
    state: State,
    p: Parameters,
    *,
    k_top: int,
    k_att: int,
    k_trunc: int,
    rule: Rule = PAPER,
) -> tuple[Tensor, Tensor, State]:
    """Compute `reference.sab` by the fastest implementation that supports the call.

    The compiled pass returns a detached state. Raises InputError as `reference.sab` does.
    """
    counts = {"k_top": k_top, "k_att": k_att, "k_trunc": k_trunc}
    same_dtype = check_call(x, state, p, State, rule, mixed=triton.is_enabled(), counts=counts)
    if not (same_dtype and supports(x, state, rule)):
        return triton.sab(x, state, p, k_top=k_top, k_att=k_att, k_trunc=k_trunc, rule=rule)
    call = Call(x, state, p, None, k_top, k_att, k_trunc, rule)
    hidden, summary, _, after = call.run()
    return hidden, summary, after


def predict(
    x: Tensor,
    state: State,
    p: Parameters,
    readout: Readout,
    *,
    k_top: int,
    k_att: int,
    k_trunc: int,
    rule: Rule = PAPER,
) -> tuple[Tensor, State]:
    """Compute the logits y (B, T, O) from the results of `sab`; return them and the state after x.

    The compiled pass returns a detached state. Raises InputError as `reference.sab` does.
    """
    counts = {"k_top": k_top, "k_att": k_att, "k_trunc": k_trunc}
    same_dtype = check_call(
        x, state, p, State, rule, readout, mixed=triton.is_enabled(), counts=counts
    )
    if not (same_dtype and supports(x, state, rule)):
        hidden, summary, after = triton.sab(
            x, state, p, k_top=k_top, k_att=k_att, k_trunc=k_trunc, rule=rule
        )
        return reference.readout(hidden, summary, *readout), after
    _, _, logits, after = Call(x, state, p, readout, k_top, k_att, k_trunc, rule).run()
    return logits, after
