"""SAB on a GPU by two Triton kernels: experimental, and off by default.

`sab` computes what `sabtune.ops.reference.sab` does, gradients included. It uses the kernels if you
set SABTUNE_EXPERIMENTAL_GPU=1 in the environment and they support the call: the paper's form with
every scoring, normalizer and ε, in float32 or bf16 (or autocast to bf16), H up to 256, at most 32
selected memories (or at most 33 memories in all), and no gradient with respect to the incoming
state. Other calls run in `ops.eager`, and so do all calls where Triton does not work: on a GPU it
compiles its driver when it starts, which requires a C compiler and Python's headers. Tests run the
kernels in Triton's interpreter; they have not run on a GPU yet.

Shapes: B batch, T steps, I inputs, H hidden, M memories.
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
MAX_HIDDEN = 256
MAX_K_TOP = 32
MIN_CAPABILITY = (8, 0)
"""The lowest compute capability of a GPU that the kernels run on."""


def is_enabled() -> bool:
    """Return whether the environment enables the kernels."""
    return os.environ.get(SWITCH) == "1"


def is_enabled_on_device_of(x: Tensor) -> bool:
    """Return whether the kernels are enabled and run on the device of x."""
    return is_enabled() and runs_on(x.device)


@functools.cache
def runs_on(device: torch.device) -> bool:
    """Return whether Triton runs kernels on a device; on a CPU only its interpreter does.

    Warns with the reason if Triton fails to start on a GPU.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not (interpreted and device.type == "cpu"):
        return False
    try:
        start(device, interpreted)
    except (
        ImportError,
        OSError,
        RuntimeError,
        AssertionError,
        subprocess.SubprocessError,
    ) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        warnings.warn(
            f"{SWITCH}: no kernels on {device}, plain torch instead: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def start(device: torch.device, interpreted: bool) -> None:
    """Start Triton's driver, which compiles some C code.

    Raises whatever exception prevents that, and RuntimeError if the GPU is not supported.
    """
    from triton.runtime import driver

    if interpreted:
        return
    if torch.version.hip or torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        raise RuntimeError("the kernels need an NVIDIA GPU of compute capability 8.0 or later")
    driver.active.get_current_target()


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of x, or under autocast the dtype that it casts products to."""
    device_type = x.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return x.dtype


def supports(x: Tensor, state: State, *, k_top: int, k_att: int, rule: Rule = PAPER) -> bool:
    """Return whether the kernels support this call; the eager pass runs the others."""
    carried = (state.h, state.c, state.memory, state.keys)
    new_memories = (state.step + x.shape[1]) // k_att - state.step // k_att
    return (
        is_enabled_on_device_of(x)
        and rule.form == "paper"
        and x.shape[0] > 0
        and x.shape[1] > 0
        and state.h.shape[1] <= MAX_HIDDEN
        and min(k_top, state.memory.shape[1] + new_memories - 1) <= MAX_K_TOP
        and compute_dtype(x) in DTYPES
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
    """Compute `reference.sab`, by the kernels if they are enabled and support the call.

    The kernels return a detached state in float32. Raises InputError as `reference.sab` does.
    """
    counts = {"k_top": k_top, "k_att": k_att, "k_trunc": k_trunc}
    check_call(x, state, p, State, rule, mixed=is_enabled(), counts=counts)
    if not supports(x, state, k_top=k_top, k_att=k_att, rule=rule):
        if is_enabled_on_device_of(x):
            state = cast_state(state, p.weight_hh.dtype)
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
        dtype=compute_dtype(x),
    )
    return run(call, x, state, p)


def cast_state(state: State, dtype: torch.dtype) -> State:
    """Cast a state of the kernels, which is float32, to the dtype that the eager pass needs."""
    return State(
        h=state.h.to(dtype),
        c=state.c.to(dtype),
        memory=state.memory.to(dtype),
        keys=state.keys.to(dtype),
        step=state.step,
    )
