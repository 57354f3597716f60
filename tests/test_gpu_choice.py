"""Test which implementation runs SAB: the GPU kernels, the compiled pass or plain torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sabtune.models import SAB
from sabtune.ops import reference
from sabtune.ops import triton as gpu
from sabtune.ops.compiled import backend
from sabtune.ops.reference import Rule
from tests.fused_cases import call_of, check_same, dispatch_sab, eager_sab, for_rule, noise
from tests.gpu_cases import CARRIED, DEVICE, ON_GPU, SPARSITY, TOLERANCE, check_carried, drawn

pytest.importorskip("triton", reason="Triton isn't installed")

from sabtune.ops.triton import autograd, launch_forward  # loads Triton

pytestmark = [pytest.mark.gpu] if ON_GPU else []


@pytest.fixture(autouse=True)
def _asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpu.SWITCH, "1")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[launch_forward.KernelCall]:
    """Record the calls of the kernels."""
    calls = []
    run = autograd.run

    def seen(call: launch_forward.KernelCall, *inputs: Any) -> object:
        calls.append(call)
        return run(call, *inputs)

    monkeypatch.setattr(autograd, "run", seen)
    return calls


def built(dtype: torch.dtype, k_top: int = 2) -> SAB:
    config = SAB.Config(hidden=7, k_top=k_top, k_att=1, k_trunc=3)
    model = config.build(4, 3, steps=6, generator=torch.Generator().manual_seed(0))
    return model.to(DEVICE, dtype)


def test_the_model_uses_the_kernel_if_enabled(
    ran: list[launch_forward.KernelCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model uses the kernel through the dispatcher, and only if it is enabled."""
    monkeypatch.setattr(backend, "HAS_NUMBA", False)  # as on a GPU
    model = built(torch.float32)
    x = noise(2, 6, 4, dtype=torch.float32).to(DEVICE)
    given = {}
    for switch in ("1", "0"):
        monkeypatch.setenv(gpu.SWITCH, switch)
        model.zero_grad()
        logits, _ = model(x)
        logits.square().sum().backward()
        grads = (weight.grad for weight in model.parameters() if weight.grad is not None)
        given[switch] = [logits.detach(), *(grad.clone() for grad in grads)]
    assert len(ran) == 1
    for got, true in zip(given["1"], given["0"], strict=True):
        torch.testing.assert_close(got, true, rtol=1e-4, atol=1e-4 * float(true.abs().max()))


def test_a_model_in_bf16_carries_a_state_in_float32(
    ran: list[launch_forward.KernelCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Carry the state between batches, as language tasks do, and at last into plain torch."""
    monkeypatch.setattr(backend, "HAS_NUMBA", False)  # it would compute the truth, too
    model, exact = built(torch.bfloat16), built(torch.bfloat16).double()
    x = noise(2, 46, 4, dtype=torch.bfloat16).to(DEVICE)
    state = of_exact = None
    with torch.no_grad():
        for part in x.tensor_split((6, 11), dim=1):
            logits, state = model(part, state)
            truth, of_exact = exact(part.double(), of_exact)
            check_same({"y": logits}, {"y": truth}, TOLERANCE[torch.bfloat16])
            check_carried(
                *({name: getattr(each, name) for name in CARRIED} for each in (state, of_exact))
            )
            state, of_exact = (
                each.carry(now, 60) for each, now in ((model, state), (exact, of_exact))
            )
        assert len(ran) == 3
        model.k_top = exact.k_top = 40
        logits, state = model(x[:, :2], state)
    assert len(ran) == 3
    assert state.memory.dtype == torch.bfloat16
    check_same({"y": logits}, {"y": exact(x[:, :2].double(), of_exact)[0]}, 0.1)


@pytest.mark.skipif(ON_GPU, reason="of the passes for the CPU")
def test_the_compiled_pass_comes_first_on_a_cpu(ran: list[launch_forward.KernelCall]) -> None:
    pytest.importorskip("numba", reason="numba isn't installed")
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        built(dtype)(noise(2, 3, 4, dtype=dtype))
    assert [call.dtype for call in ran] == [torch.bfloat16]


@pytest.mark.parametrize("architecture", ["90", pytest.param("80", marks=pytest.mark.slow)])
def test_kernels_compile_for_architectures_without_such_a_gpu(
    architecture: str, tmp_path: Path
) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.gpu_compiling", architecture]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert all(int(line.split()[-1]) <= 48 * 1024 for line in lines)  # bytes of shared memory


def test_kernels_are_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    x, p = drawn(1, 3, 5, torch.float32)
    state = reference.initial_state(1, p)
    call = call_of(x, state, p, **SPARSITY)
    assert gpu.BACKEND.supports(call)
    monkeypatch.delenv(gpu.SWITCH)
    assert not gpu.BACKEND.supports(call)


@pytest.fixture
def first_look() -> Iterator[None]:
    """Clear the cached facts about devices before and after a test."""
    gpu.problem_on.cache_clear()
    yield
    gpu.problem_on.cache_clear()


@pytest.mark.usefixtures("first_look")
def test_a_missing_c_compiler_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check a fake GPU on which Triton has no cached driver, so that it needs a C compiler."""
    from triton.backends.nvidia.driver import CudaDriver
    from triton.runtime.driver import DriverConfig

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_LIBCUDA_PATH", str(tmp_path))
    monkeypatch.setattr("triton.runtime.driver", DriverConfig())
    monkeypatch.setattr(CudaDriver, "is_active", staticmethod(lambda: True))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.warns(
        RuntimeWarning, match="no kernels on cuda:0, plain torch instead: .*compiler"
    ):
        assert "compiler" in gpu.problem_on(torch.device("cuda:0"))
    assert "compiler" in gpu.problem_on(torch.device("cuda:0"))  # warns only once


@pytest.mark.usefixtures("first_look")
def test_an_older_gpu_uses_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.warns(RuntimeWarning, match="compute capability 8.0"):
        assert "compute capability 8.0" in gpu.problem_on(torch.device("cuda:0"))


@pytest.mark.parametrize(
    ("H", "M", "k_top", "dtype", "form"),
    [
        (257, 1, 2, torch.float32, "paper"),
        (5, 40, 33, torch.float32, "paper"),
        (5, 1, 2, torch.float64, "paper"),
        (5, 1, 2, torch.float32, "released"),
    ],
)
def test_unsupported_calls_use_the_eager_pass(
    H: int, M: int, k_top: int, dtype: torch.dtype, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = Rule(form="released" if form == "released" else "paper")
    x, p = drawn(1, 3, H, dtype)
    p = for_rule(p, rule)
    memory = noise(1, M, H, dtype=dtype).to(DEVICE)
    state = replace(reference.initial_state(1, p), memory=memory, keys=memory)
    how: dict[str, Any] = {"k_top": k_top, "k_att": 1, "k_trunc": 2, "rule": rule}
    assert not gpu.BACKEND.supports(call_of(x, state, p, **how))
    monkeypatch.setattr(backend, "HAS_NUMBA", False)  # as on a GPU
    found, truth = (sab(x, state, p, **how) for sab in (dispatch_sab, eager_sab))
    assert torch.equal(found[0], truth[0])


def test_another_pass_computes_gradients_of_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "HAS_NUMBA", False)  # as on a GPU
    x, p = drawn(1, 3, 5, torch.float32)
    state = reference.initial_state(1, p)
    state = replace(state, h=state.h.clone().requires_grad_())
    hidden, _, _ = dispatch_sab(x, state, p, **SPARSITY)
    hidden.sum().backward()  # type: ignore[no-untyped-call]
    assert state.h.grad is not None
