"""Compare the GPU kernels with the equations in float64: values and every gradient.

The kernels run on the GPU, or without one in Triton's interpreter (see `tests/__init__.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sabtune.ops import reference
from sabtune.ops import triton as gpu
from sabtune.ops.reference import Parameters, Rule
from tests.fused_cases import RULES, Sparsity, check_same, results, to
from tests.gpu_cases import (
    DEVICE,
    ON_GPU,
    SPARSITY,
    TOLERANCE,
    by_kernel,
    carried,
    check_carried,
    compare,
    drawn,
)

pytest.importorskip("triton", reason="Triton isn't installed")

from sabtune.ops.triton import autograd, launch_forward  # loads Triton

pytestmark = [pytest.mark.gpu] if ON_GPU else []

SHAPES = [  # B, T, H, k_top, k_att, k_trunc
    (1, 1, 5, 3, 2, 5),
    (3, 2, 33, 1, 1, 1),
    (5, 11, 17, 1, 2, 3),
    (1, 17, 100, 3, 1, 0),
    (1, 17, 17, 3, 40, 5),  # no memory is ever added
    (2, 20, 32, 1000, 1, 4),  # k_top exceeds the number of memories
    (1, 40, 8, 32, 1, 4),
    (1, 5, 256, 2, 1, 2),
]
over_dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(autouse=True)
def _asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpu.SWITCH, "1")


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """Fill buffers with NaN to expose reads of uninitialized memory."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    assert torch.empty(5, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@over_dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_as_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    B, T, H, k_top, k_att, k_trunc = shape
    compare(*drawn(B, T, H, dtype), Sparsity(k_top=k_top, k_att=k_att, k_trunc=k_trunc))


@over_dtypes
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.scoring}-{rule.normalizer}")
def test_every_scoring_and_normalizer(rule: Rule, dtype: torch.dtype) -> None:
    compare(*drawn(1, 10, 17, dtype), SPARSITY, rule=rule)
    one = Sparsity(k_top=1, k_att=1, k_trunc=0)
    compare(*drawn(1, 5, 5, dtype), one, rule=replace(rule, epsilon=0.1))


@over_dtypes
@pytest.mark.parametrize("k_top", [1, 7, 32])
def test_from_a_carried_state_with_memories_of_several_tiles(
    k_top: int, dtype: torch.dtype
) -> None:
    x, p = drawn(1, 150, 40, dtype, seed=9)
    assert call(k_top, H=40).shape()["ROWS"] < 145 // 2
    sparsity = Sparsity(k_top=k_top, k_att=2, k_trunc=3)
    often = Sparsity(k_top=k_top, k_att=1, k_trunc=3)
    compare(x[:, 145:], p, sparsity, carried(x[:, :145], p, often))


@pytest.mark.parametrize("k_trunc", [0, 5])
def test_from_a_state_between_two_memories(k_trunc: int) -> None:
    """The call starts between two memories and between two cuts, and recalls its own memories."""
    x, p = drawn(1, 16, 9, torch.float32)
    sparsity = Sparsity(k_top=3, k_att=2, k_trunc=k_trunc)
    compare(x[:, 3:], p, sparsity, carried(x[:, :3], p, sparsity))


@pytest.mark.parametrize("k_trunc", [0, 1, 5])
def test_cuts_before_the_last_step_of_a_block(k_trunc: int) -> None:
    x, p = drawn(1, 16, 9, torch.float32)
    sparsity = Sparsity(k_top=3, k_att=5, k_trunc=k_trunc)
    rule = Rule(cut="before")
    compare(x, p, sparsity, rule=rule)
    compare(x[:, 3:], p, sparsity, carried(x[:, :3], p, sparsity), rule=rule)


def test_several_launches_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_forward, "ROWS", 8)  # two or three steps per launch
    compare(*drawn(3, 7, 9, torch.float32), SPARSITY)
    compare(*drawn(1, 17, 9, torch.float32), Sparsity(k_top=2, k_att=3, k_trunc=0))


def test_changing_k_top_does_not_recompile_the_kernel() -> None:
    x, p = drawn(1, 20, 8, torch.float32)
    for k_top in (1000, 5, 1):
        compare(x, p, Sparsity(k_top=k_top, k_att=1, k_trunc=5))
    for k_tops in (range(1, 16), range(16, 33)):
        assert len({str(call(k_top).shape()) for k_top in k_tops}) == 1


def call(k_top: int, H: int = 8) -> Any:
    return launch_forward.KernelCall(
        B=2, T=100, H=H, M0=1, step=0, dtype=torch.float32,
        sparsity=reference.Sparsity(k_top=k_top, k_att=1, k_trunc=5),
    )  # fmt: skip


@over_dtypes
def test_a_repeated_call_gives_the_same_bits(dtype: torch.dtype) -> None:
    x, p = drawn(3, 6, 17, dtype)
    first, again = (results(by_kernel, x, p, SPARSITY) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


@over_dtypes
def test_gradients_of_one_output_only(dtype: torch.dtype) -> None:
    x, p = drawn(2, 5, 9, dtype)
    for output in (0, 1):
        found = of_query_weights(by_kernel, x, p, output)
        truth = of_query_weights(reference.sab, x.double(), to(p, torch.float64), output)
        check_same({"W2": found}, {"W2": truth}, TOLERANCE[dtype])


def of_query_weights(sab: Any, x: Tensor, p: Parameters, output: int) -> Tensor:
    W2 = p.W2.clone().requires_grad_()
    given = sab(x, reference.initial_state(2, p), replace(p, W2=W2), **SPARSITY)
    given[output].sum().backward()
    assert W2.grad is not None
    return W2.grad


def test_autocast_rounds_the_weights_and_keeps_the_state() -> None:
    x, p = drawn(2, 6, 17, torch.bfloat16)
    wide, weights, rule = x.float(), to(p, torch.float32), Rule(normalizer="softmax")
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        found = results(by_kernel, wide, weights, SPARSITY, rule=rule)
    assert found["hidden"].dtype == torch.bfloat16
    assert found["d_W1"].dtype == torch.float32
    truth = results(reference.sab, x.double(), to(p, torch.float64), SPARSITY, rule=rule)
    check_same(found, truth, TOLERANCE[torch.bfloat16])
    check_carried(found, truth)


def test_evaluation_in_segments_saves_nothing_for_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = []

    def recorded(*inputs: Any, **how: Any) -> object:
        records.append(launch_forward.forward(*inputs, **how))
        return records[-1]

    monkeypatch.setattr(autograd, "forward", recorded)
    x, p = drawn(2, 21, 9, torch.float32)
    sparsity = Sparsity(k_top=2, k_att=3, k_trunc=5)
    exact = to(p, torch.float64)
    with torch.no_grad():
        truth = reference.sab(x.double(), reference.initial_state(2, exact), exact, **sparsity)
        state, parts = reference.initial_state(2, p), []
        for part in x.tensor_split((8, 16), dim=1):
            hidden, _, state = by_kernel(part, state, p, **sparsity)
            parts.append(hidden)
    check_same(
        {"hidden": torch.cat(parts, dim=1), "memory": state.memory, "keys": state.keys},
        {"hidden": truth[0], "memory": truth[2].memory, "keys": truth[2].keys},
        1e-4,
    )
    assert state.step == 21
    kept = ("cells", "weights", "rows", "divisors")
    assert not any(getattr(record, name).numel() for record in records for name in kept)


@over_dtypes
def test_large_inputs_stay_finite(dtype: torch.dtype) -> None:
    x, p = drawn(1, 12, 9, dtype)
    found = results(by_kernel, 1000 * x, p, SPARSITY)
    assert all(tensor.isfinite().all() for tensor in found.values())


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # from NumPy in the interpreter
@pytest.mark.parametrize("name", ["w3", "W2", "weight_hh"])
def test_a_nan_in_the_weights_reaches_the_output(name: str) -> None:
    x, p = drawn(1, 4, 5, torch.float32)
    p = replace(p, **{name: torch.full_like(getattr(p, name), torch.nan)})
    hidden, _, _ = by_kernel(x, reference.initial_state(1, p), p, **SPARSITY)
    assert hidden[:, -1].isnan().all()
