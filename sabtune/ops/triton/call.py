"""SAB on a GPU by two kernels of its own: experimental, and off unless it is asked for.

`sab` takes and returns what `sabtune.ops.reference.sab` does, gradients included, where the
environment has SABTUNE_EXPERIMENTAL_GPU=1 and the call is one that the kernels compute: the paper's
form with every scoring, normalizer and ε, in float32 or bf16 (bf16 too in autocast to it), H up to
256, at most 32 memories kept (all of them, while there are no more than 33), and no gradient of the
incoming state. Everything else `ops.eager` does, as it does everything where Triton can't run: as
it starts on a GPU it compiles its driver, for which it wants a C compiler and Python's headers.
The kernels agree with the equations in Triton's interpreter; no GPU has run them yet.

B batch, T steps, I inputs, H hidden, M memories.
"""

from __future__ import annotations

import functools
import os
import subprocess
import warnings

import torch
from torch import Tensor

from sabtune.ops import eager
from sabtune.ops.checks import check_call, transformed
from sabtune.ops.reference import PAPER, Parameters, Rule, State

SWITCH = "SABTUNE_EXPERIMENTAL_GPU"
DTYPES = (torch.float32, torch.bfloat16)
MOST_HIDDEN = 256
MOST_KEPT = 32
OLDEST = (8, 0)


def asked_for() -> bool:
    return os.environ.get(SWITCH) == "1"


def wanted(x: Tensor) -> bool:
    """Whether the kernels are asked for, and can run where x is."""
    return asked_for() and runs_on(x.device)


@functools.cache
def runs_on(device: torch.device) -> bool:
    """Whether Triton runs kernels there, on a CPU by its interpreter. Warns where it can't."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not (interpreted and device.type == "cpu"):
        return False
    try:
        start(device, interpreted)
    except (ImportError, OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as why:
        problem = str(why).splitlines()[0] if str(why) else type(why).__name__
        warnings.warn(
            f"{SWITCH}: no kernels on {device}, plain torch instead: {problem}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def start(device: torch.device, interpreted: bool) -> None:
    """Has Triton find its driver, for which it compiles some C. Raises what keeps it from that."""
    from triton.runtime import driver

    if interpreted:
        return
    if torch.version.hip or torch.cuda.get_device_capability(device) < OLDEST:
        raise RuntimeError("they are for NVIDIA's GPUs of compute capability 8.0 or later")
    driver.active.get_current_target()


def computed_in(x: Tensor) -> torch.dtype:
    """x's dtype, or that to which autocast brings products."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def supports(x: Tensor, state: State, *, k_top: int, k_att: int, rule: Rule = PAPER) -> bool:
    """Whether the kernels compute this call; otherwise the eager pass does."""
    carried = (state.h, state.c, state.memory, state.keys)
    made = (state.step + x.shape[1]) // k_att - state.step // k_att
    return (
        wanted(x)
        and rule.form == "paper"
        and x.shape[0] > 0
        and x.shape[1] > 0
        and state.h.shape[1] <= MOST_HIDDEN
        and min(k_top, state.memory.shape[1] + made - 1) <= MOST_KEPT
        and computed_in(x) in DTYPES
        and all(tensor.dtype in DTYPES for tensor in (x, *carried))
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in carried))
        and not transformed()
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
    """`eager.sab`, by the kernels where they can: then the state after is detached, in float32."""
    counts = {"k_top": k_top, "k_att": k_att, "k_trunc": k_trunc}
    check_call(x, state, p, State, rule, mixed=asked_for(), counts=counts)
    if not supports(x, state, k_top=k_top, k_att=k_att, rule=rule):
        if wanted(x):
            state = in_dtype(state, p.weight_hh.dtype)
        return eager.sab(x, state, p, k_top=k_top, k_att=k_att, k_trunc=k_trunc, rule=rule)
    from sabtune.ops.triton.autograd import run  # loads Triton
    from sabtune.ops.triton.launch_forward import Call

    call = Call(
        B=x.shape[0],
        T=x.shape[1],
        H=state.h.shape[1],
        M0=state.memory.shape[1],
        step=state.step,
        k_top=k_top,
        k_att=k_att,
        k_trunc=k_trunc,
        rule=rule,
        dtype=computed_in(x),
    )
    return run(call, x, state, p)


def in_dtype(state: State, dtype: torch.dtype) -> State:
    """A state as plain torch wants it: of the weights' dtype, whatever the kernels left it in."""
    return State(
        h=state.h.to(dtype),
        c=state.c.to(dtype),
        memory=state.memory.to(dtype),
        keys=state.keys.to(dtype),
        step=state.step,
    )
