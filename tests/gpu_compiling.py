"""Compile the GPU kernels for a compute capability, such as 90 for 9.0, without such a GPU.

    TRITON_INTERPRET=0 python -m tests.gpu_compiling 90

Prints one line per kernel: its name, H, dtype, k_top and the bytes of shared memory it uses.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sabtune.ops.reference import Rule, Sparsity
from sabtune.ops.triton.backward_kernel import AS_THEY_COME, STRIDES, backward_kernel
from sabtune.ops.triton.forward_kernel import forward_kernel
from sabtune.ops.triton.launch_forward import KernelCall

CALLS = (  # H, dtype, k_top, rule
    (17, torch.float32, 1, Rule(scoring="separable")),
    (128, torch.bfloat16, 10, Rule()),
    (256, torch.float32, 32, Rule(scoring="dot", normalizer="softmax")),
)
IN_DTYPE = {"W_hh", "W1", "W2", "w3", "summary", "d_hidden", "d_summary"}


def kind(name: str, call: KernelCall) -> str:
    """Return the type of an argument in Triton's notation."""
    if name in {*AS_THEY_COME, *STRIDES}:
        return "i32"
    if name in ("epsilon", "scale"):
        return "fp32"
    if name == "rows":
        return "*i32"
    return "*bf16" if name in IN_DTYPE and call.dtype == torch.bfloat16 else "*fp32"


def compiled(kernel: Any, call: KernelCall, **chosen: bool) -> Any:
    fixed = call.shape() | chosen
    options = {name: fixed.pop(name) for name in ("num_warps", "num_stages")}
    if "MEMORIES" in kernel.arg_names:
        fixed["MEMORIES"] = fixed["ROWS"]
    names = kernel.arg_names
    types = {name: "constexpr" if name in fixed else kind(name, call) for name in names}
    constants = {(names.index(name),): value for name, value in fixed.items()}
    source = ASTSource(kernel, types, constexprs=constants)
    return triton.compile(source, GPUTarget("cuda", int(sys.argv[1]), 32), options)


def main() -> None:
    for H, dtype, k_top, rule in CALLS:
        call = KernelCall(
            B=64,
            T=100,
            H=H,
            M0=1,
            step=0,
            sparsity=Sparsity(k_top=k_top, k_att=1, k_trunc=5, rule=rule),
            dtype=dtype,
        )
        for found in (
            compiled(forward_kernel, call, KEEP=k_top != 1),
            compiled(backward_kernel, call, OF_HIDDEN=True, OF_SUMMARY=k_top != 1),
        ):
            assert found.asm["cubin"]
            sys.stdout.write(f"{found.name} {H} {dtype} {k_top} {found.metadata.shared}\n")


if __name__ == "__main__":
    main()
