"""SAB on a GPU by two Triton kernels: experimental, and off by default.

`run` computes what `sabtune.ops.reference.sab` does, gradients included. The kernels are enabled if
you set SABTUNE_EXPERIMENTAL_GPU=1 or SABTUNE_BACKEND=triton in the environment. They support the
paper's form with every scoring, normalizer and ε, in float32 or bf16 (or autocast to bf16), H up to
256, at most 32 selected memories (or at most 33 memories in all), and no gradient with respect to
the incoming state. They need a GPU where Triton works: it compiles its driver when it starts, which
requires a C compiler and Python's headers. Tests run the kernels in Triton's interpreter; they have
not run on a GPU yet.

Shapes: B batch, T steps, I inputs, H hidden, M memories.
"""

from __future__ import annotations

import functools
import os
import subprocess
import warnings

import torch
from torch import Tensor

from sabtune.ops.call import VARIABLE, Backend, Call, Results
from sabtune.ops.checks import transformed

NAME = "triton"
SWITCH = "SABTUNE_EXPERIMENTAL_GPU"
DTYPES = (torch.float32, torch.bfloat16)
MAX_HIDDEN = 256
MAX_K_TOP = 32
MIN_CAPABILITY = (8, 0)
"""The lowest compute capability of a GPU that the kernels run on."""


def is_forced() -> bool:
    """Return whether the environment forces the kernels for every call."""
    return os.environ.get(VARIABLE) == NAME


def is_enabled() -> bool:
    """Return whether the environment enables or forces the kernels."""
    return os.environ.get(SWITCH) == "1" or is_forced()


@functools.cache
def problem_on(device: torch.device) -> str:
    """Return why Triton runs no kernels on a device, or ""; on a CPU only its interpreter does.

    Warns if Triton fails to start on a GPU and other backends may run its calls.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not (interpreted and device.type == "cpu"):
        return f"runs on NVIDIA GPUs, and x is on {device}"
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
        if not is_forced():
            warnings.warn(
                f"{SWITCH}: no kernels on {device}, plain torch instead: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
        return f"does not start on {device} ({reason})"
    return ""


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


def unsupported(call: Call) -> str:
    """Return why the kernels cannot run a call, or "" if they can."""
    if not is_enabled():
        return f"is off: set {SWITCH}=1"
    x, state, sparsity = call.x, call.state, call.sparsity
    problem = problem_on(x.device)
    if problem:
        return problem
    if sparsity.rule.form != "paper":
        return "runs the paper's form only"
    if not x.numel():
        return f"needs at least one sequence, and x is {tuple(x.shape)}"
    if state.h.shape[1] > MAX_HIDDEN:
        return f"runs H up to {MAX_HIDDEN}, and H is {state.h.shape[1]}"
    new_memories = (state.step + x.shape[1]) // sparsity.k_att - state.step // sparsity.k_att
    if min(sparsity.k_top, state.memory.shape[1] + new_memories - 1) > MAX_K_TOP:
        return f"selects up to {MAX_K_TOP} memories, and k_top is {sparsity.k_top}"
    carried = (state.h, state.c, state.memory, state.keys)
    dtypes = {compute_dtype(x), x.dtype, *(tensor.dtype for tensor in carried)}
    if not dtypes.issubset(DTYPES):
        names = ", ".join(sorted(str(dtype) for dtype in dtypes.difference(DTYPES)))
        return f"runs float32 and bfloat16, and the call has {names}"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in carried):
        return "computes no gradient of the state, and a tensor of state requires one"
    if transformed():
        return "does not run in function transforms or forward-mode differentiation"
    return ""


def run(call: Call) -> Results:
    """Run a call in the kernels, which return a detached state in float32."""
    from sabtune.ops.triton import autograd  # loads Triton
    from sabtune.ops.triton.launch_forward import KernelCall

    x, state = call.x, call.state
    sizes = KernelCall(
        B=x.shape[0],
        T=x.shape[1],
        H=state.h.shape[1],
        M0=state.memory.shape[1],
        step=state.step,
        sparsity=call.sparsity,
        dtype=compute_dtype(x),
    )
    return call.results(*autograd.run(sizes, x, state, call.parameters))


BACKEND = Backend(NAME, unsupported, run)
