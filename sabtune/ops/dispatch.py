"""SAB as one compiled pass over the sequence and one back, for the CPU.

`sab` takes and returns what `sabtune.ops.reference.sab` does, gradients included, at about the cost
of an LSTM: with every scoring, normalizer and ε of the paper's form; `predict` has the readout in
the same pass. What they cannot do (no numba, another device or dtype, a gradient of the incoming
state, the released form) `ops.eager` does, or the kernels of `ops.gpu` where they are asked for.

B batch, T steps, I inputs, H hidden, W = H filled up to whole vectors, O outputs, M memories, M0 of
them there before the call and N made in it, K kept.
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
    """Whether the compiled pass computes this call; otherwise `gpu.sab` sees to it."""
    ends = (state.h, state.c)
    before = (*ends, state.memory, state.keys) if torch.is_grad_enabled() else ends
    return (
        COMPILED
        and rule.form == "paper"
        and x.device.type == "cpu"
        and x.dtype in DTYPES
        and x.shape[0] > 0
        and x.shape[1] > 0
        and all(tensor.dtype == x.dtype for tensor in before)
        and not transformed()
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in before))
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
    """`reference.sab`, faster; the state after is detached. Raises as it does."""
    counts = {"k_top": k_top, "k_att": k_att, "k_trunc": k_trunc}
    same = check_call(x, state, p, State, rule, mixed=triton.asked_for(), counts=counts)
    if not (same and supports(x, state, rule)):
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
    """`reference.readout` of `reference.sab`, (B, T, O), faster; and the state after, detached.

    Raises as `reference.sab` does.
    """
    counts = {"k_top": k_top, "k_att": k_att, "k_trunc": k_trunc}
    same = check_call(x, state, p, State, rule, readout, mixed=triton.asked_for(), counts=counts)
    if not (same and supports(x, state, rule)):
        hidden, summary, after = triton.sab(
            x, state, p, k_top=k_top, k_att=k_att, k_trunc=k_trunc, rule=rule
        )
        return reference.readout(hidden, summary, *readout), after
    _, _, logits, after = Call(x, state, p, readout, k_top, k_att, k_trunc, rule).run()
    return logits, after
