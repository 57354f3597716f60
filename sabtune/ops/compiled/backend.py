"""Which calls the compiled passes of SAB and of self-attention support.

This module loads without numba; the passes need it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sabtune.ops.call import Backend, Call, Results
from sabtune.ops.checks import computed_tensors, transformed
from sabtune.ops.reference import Parameters

try:
    from sabtune.ops.compiled.call import CompiledCall
    from sabtune.ops.compiled.dense_call import DenseCall
except ImportError:
    HAS_NUMBA = False
else:
    HAS_NUMBA = True

if TYPE_CHECKING:
    from sabtune.ops.self_attention import Attention  # which imports this module

DTYPES = (torch.float32, torch.float64)

Before = tuple[Tensor, Tensor, Tensor, Tensor]


def unsupported(call: Call) -> str:
    """Return why the compiled pass cannot run a call of SAB, or "" if it can."""
    if call.sparsity.rule.form != "paper":
        return "runs the paper's form only"
    return unsupported_tensors(call.x, computed_tensors(call.state), call.weights())


def unsupported_tensors(x: Tensor, state: Iterable[Tensor], weights: Iterable[Tensor]) -> str:
    """Return why a compiled pass cannot run on these tensors, or "" if it can."""
    dtype = x.dtype
    if not HAS_NUMBA:
        return "needs numba, which is not installed"
    if dtype not in DTYPES or x.device.type != "cpu":
        return f"runs float32 and float64 on a CPU, and x is {dtype} on {x.device}"
    if not x.numel():
        return f"needs at least one sequence, and x is {tuple(x.shape)}"
    if transformed():
        return "does not run in function transforms or forward-mode differentiation"
    differentiates = torch.is_grad_enabled()
    for tensor in state:
        if differentiates and tensor.requires_grad:
            return "computes no gradient of the state, and a tensor of state requires one"
        if tensor.dtype != dtype:
            return f"needs one dtype, and state has {tensor.dtype}, x {dtype}"
    for tensor in weights:
        if tensor.dtype != dtype:
            return f"needs one dtype, and the weights have {tensor.dtype}, x {dtype}"
    return ""


def run(call: Call) -> Results:
    """Run a call in the compiled pass, which also computes the readout."""
    hidden, summary, logits, after = CompiledCall(call).run()
    return ((hidden, summary) if call.readout is None else (logits,)), after


BACKEND = Backend("compiled", unsupported, run)


def attend(x: Tensor, before: Before, p: Parameters, attention: Attention) -> tuple[Tensor, ...]:
    """Run self-attention in its pass; return h and s, then h, c, memory and keys after x.

    before: h, c, memory and keys.
    """
    return DenseCall(x, before, p, attention).run()
