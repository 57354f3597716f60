"""The device and the tolerances that the tests of the GPU kernels share.

The kernels run on the GPU, or without one in Triton's interpreter (see `tests/__init__.py`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sabtune.ops import reference, triton
from sabtune.ops.call import Call, Results
from sabtune.ops.reference import Parameters, Rule, State
from tests.fused_cases import (
    NAMES,
    Sparsity,
    check_same,
    noise,
    parameters,
    results,
    sab_by,
    to,
)

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
SPARSITY = Sparsity(k_top=2, k_att=1, k_trunc=4)
CARRIED = ("h", "c", "memory", "keys")


def on_device(p: Parameters) -> Parameters:
    return Parameters(**{name: getattr(p, name).to(DEVICE) for name in NAMES})


def drawn(B: int, T: int, H: int, dtype: torch.dtype, seed: int = 1) -> tuple[Tensor, Parameters]:
    return noise(B, T, 4, dtype=dtype, seed=seed).to(DEVICE), on_device(parameters(H, 4, dtype))


def compare(
    x: Tensor,
    p: Parameters,
    sparsity: Sparsity,
    state: State | None = None,
    rule: Rule = reference.PAPER,
) -> None:
    exact = None
    if state is not None:
        exact = replace(state, **{name: getattr(state, name).double() for name in CARRIED})
    truth = results(reference.sab, x.double(), to(p, torch.float64), sparsity, exact, rule)
    found = results(by_kernel, x, p, sparsity, state, rule)
    # the gradient of a single weight w / (w + ε) is only rounding error
    nearly_one = sparsity["k_top"] == 1 and rule == reference.PAPER and x.dtype == torch.float32
    rounded = results(reference.sab, x, p, sparsity, state, rule) if nearly_one else None
    check_same(found, truth, TOLERANCE[x.dtype], rounded)
    check_carried(found, truth)


def check_carried(found: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    """Check that a carried state is float32 and accurate, whatever the dtype of the weights."""
    assert {found[name].dtype for name in CARRIED} == {torch.float32}
    check_same(found, {name: truth[name] for name in CARRIED}, TOLERANCE[torch.float32])


def run_kernels(call: Call) -> Results:
    assert triton.BACKEND.supports(call)
    return triton.BACKEND.run(call)


by_kernel = sab_by(run_kernels)


def carried(x: Tensor, p: Parameters, sparsity: Sparsity) -> State:
    with torch.no_grad():
        start = reference.initial_state(x.shape[0], p)
        return reference.sab(x, start, p, **sparsity)[2]
