"""The GPU's kernels against the equations in float64: values and every gradient.

On the GPU, or where there is none in Triton's interpreter, which `tests/__init__.py` sees to.
"""

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
from torch import Tensor

from sabtune.models import SAB
from sabtune.ops import eager, fused, gpu, reference
from sabtune.ops.reference import Parameters, Rule, State
from tests.fused_cases import (
    NAMES,
    RULES,
    Sparsity,
    check_same,
    for_rule,
    noise,
    parameters,
    results,
    to,
)

pytest.importorskip("triton", reason="Triton isn't installed")

from sabtune.ops import gpu_call, gpu_pass  # they load Triton

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
pytestmark = [pytest.mark.gpu] if ON_GPU else []

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
SHAPES = [  # B, T, H, k_top, k_att, k_trunc
    (1, 1, 5, 3, 2, 5),
    (3, 2, 33, 1, 1, 1),
    (5, 11, 17, 1, 2, 3),
    (1, 17, 100, 3, 1, 0),
    (1, 17, 17, 3, 40, 5),  # nothing is ever remembered
    (2, 20, 32, 1000, 1, 4),  # more kept than remembered
    (1, 40, 8, 32, 1, 4),
    (1, 5, 256, 2, 1, 2),
]
CARRIED = ("h", "c", "memory", "keys")
SPARSITY = Sparsity(k_top=2, k_att=1, k_trunc=4)
over_dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(autouse=True)
def _asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpu.SWITCH, "1")


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """Whatever is read before it is written shows as NaN."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    assert torch.empty(5, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


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
    # of a single weight w / (w + ε) nothing but rounding is left
    nearly_one = sparsity["k_top"] == 1 and rule == reference.PAPER and x.dtype == torch.float32
    rounded = results(reference.sab, x, p, sparsity, state, rule) if nearly_one else None
    check_same(found, truth, TOLERANCE[x.dtype], rounded)
    check_carried(found, truth)


def check_carried(found: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    """The state is float32's whatever the weights are: what they were rounded to is given."""
    assert {found[name].dtype for name in CARRIED} == {torch.float32}
    check_same(found, {name: truth[name] for name in CARRIED}, TOLERANCE[torch.float32])


def by_kernel(
    x: Tensor, state: State, p: Parameters, *, rule: Rule = reference.PAPER, **how: int
) -> tuple[Tensor, Tensor, State]:
    assert gpu.supports(x, state, k_top=how["k_top"], k_att=how["k_att"], rule=rule)
    return gpu.sab(x, state, p, **how, rule=rule)


def carried(x: Tensor, p: Parameters, sparsity: Sparsity) -> State:
    with torch.no_grad():
        start = reference.initial_state(x.shape[0], p)
        return reference.sab(x, start, p, **sparsity)[2]


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


def test_stretches_give_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_pass, "ROWS", 8)  # two or three steps a launch
    compare(*drawn(3, 7, 9, torch.float32), SPARSITY)
    compare(*drawn(1, 17, 9, torch.float32), Sparsity(k_top=2, k_att=3, k_trunc=0))


def test_k_top_changes_between_calls_and_nothing_is_compiled_anew() -> None:
    x, p = drawn(1, 20, 8, torch.float32)
    for k_top in (1000, 5, 1):
        compare(x, p, Sparsity(k_top=k_top, k_att=1, k_trunc=5))
    for k_tops in (range(1, 16), range(16, 33)):
        assert len({str(call(k_top).shape()) for k_top in k_tops}) == 1


def call(k_top: int, H: int = 8) -> Any:
    return gpu_pass.Call(
        B=2, T=100, H=H, M0=1, step=0, k_top=k_top, k_att=1, k_trunc=5,
        rule=reference.PAPER, dtype=torch.float32,
    )  # fmt: skip


@over_dtypes
def test_same_bits_each_time(dtype: torch.dtype) -> None:
    x, p = drawn(3, 6, 17, dtype)
    first, again = (results(by_kernel, x, p, SPARSITY) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


@over_dtypes
def test_a_gradient_of_one_output_alone(dtype: torch.dtype) -> None:
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
    assert found["memory"].dtype == found["d_W1"].dtype == torch.float32
    truth = results(reference.sab, x.double(), to(p, torch.float64), SPARSITY, rule=rule)
    check_same(found, truth, TOLERANCE[torch.bfloat16])


def test_evaluation_goes_on_from_stretch_to_stretch_and_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = []

    def recorded(*inputs: Any, **how: Any) -> object:
        records.append(gpu_pass.forward(*inputs, **how))
        return records[-1]

    monkeypatch.setattr(gpu_call, "forward", recorded)
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


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, of the interpreter
@pytest.mark.parametrize("name", ["w3", "W2", "weight_hh"])
def test_what_is_no_number_shows(name: str) -> None:
    x, p = drawn(1, 4, 5, torch.float32)
    p = replace(p, **{name: torch.full_like(getattr(p, name), torch.nan)})
    hidden, _, _ = by_kernel(x, reference.initial_state(1, p), p, **SPARSITY)
    assert hidden[:, -1].isnan().all()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[gpu_pass.Call]:
    """The kernels' calls."""
    calls = []
    run = gpu_call.run

    def seen(call: gpu_pass.Call, *inputs: Any) -> object:
        calls.append(call)
        return run(call, *inputs)

    monkeypatch.setattr(gpu_call, "run", seen)
    return calls


def built(dtype: torch.dtype, k_top: int = 2) -> SAB:
    config = SAB.Config(hidden=7, k_top=k_top, k_att=1, k_trunc=3)
    model = config.build(4, 3, steps=6, generator=torch.Generator().manual_seed(0))
    return model.to(DEVICE, dtype)


def test_the_model_by_the_kernel(ran: list[gpu_pass.Call], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the seam that the model calls, and there only where the kernel is asked for."""
    monkeypatch.setattr(fused, "COMPILED", False)  # as it is off the CPU
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
    ran: list[gpu_pass.Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From batch to batch as a task with a memory's span has it, and into plain torch."""
    monkeypatch.setattr(fused, "COMPILED", False)  # it would take the truth's side
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
                each.carried(now, 60) for each, now in ((model, state), (exact, of_exact))
            )
        assert len(ran) == 3
        model.k_top = exact.k_top = 40
        logits, state = model(x[:, :2], state)
    assert len(ran) == 3
    assert state.memory.dtype == torch.bfloat16
    check_same({"y": logits}, {"y": exact(x[:, :2].double(), of_exact)[0]}, 0.1)


@pytest.mark.skipif(ON_GPU, reason="of the passes for the CPU")
def test_on_a_cpu_the_compiled_pass_goes_first(ran: list[gpu_pass.Call]) -> None:
    pytest.importorskip("numba", reason="numba isn't installed")
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        built(dtype)(noise(2, 3, 4, dtype=dtype))
    assert [call.dtype for call in ran] == [torch.bfloat16]


@pytest.mark.parametrize("architecture", ["90", pytest.param("80", marks=pytest.mark.slow)])
def test_compiles_for_gpus_that_are_not_there(architecture: str, tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.gpu_compiling", architecture]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert all(int(line.split()[-1]) <= 48 * 1024 for line in lines)  # of shared memory


def test_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    x, p = drawn(1, 3, 5, torch.float32)
    state = reference.initial_state(1, p)
    assert gpu.supports(x, state, k_top=2, k_att=1)
    monkeypatch.delenv(gpu.SWITCH)
    assert not gpu.supports(x, state, k_top=2, k_att=1)


@pytest.fixture
def first_look() -> Iterator[None]:
    """What was found of devices is forgotten, before and after."""
    gpu.runs_on.cache_clear()
    yield
    gpu.runs_on.cache_clear()


@pytest.mark.usefixtures("first_look")
def test_without_a_c_compiler_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton looks for one as it starts on a GPU, a stand-in here, whose driver isn't known yet."""
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
        assert not gpu.runs_on(torch.device("cuda:0"))
    assert not gpu.runs_on(torch.device("cuda:0"))  # said once


@pytest.mark.usefixtures("first_look")
def test_an_older_gpu_is_left_to_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.warns(RuntimeWarning, match="compute capability 8.0"):
        assert not gpu.runs_on(torch.device("cuda:0"))


@pytest.mark.parametrize(
    ("H", "M", "k_top", "dtype", "form"),
    [
        (257, 1, 2, torch.float32, "paper"),
        (5, 40, 33, torch.float32, "paper"),
        (5, 1, 2, torch.float64, "paper"),
        (5, 1, 2, torch.float32, "released"),
    ],
)
def test_what_falls_back(H: int, M: int, k_top: int, dtype: torch.dtype, form: str) -> None:
    rule = Rule(form="released" if form == "released" else "paper")
    x, p = drawn(1, 3, H, dtype)
    p = for_rule(p, rule)
    memory = noise(1, M, H, dtype=dtype).to(DEVICE)
    state = replace(reference.initial_state(1, p), memory=memory, keys=memory)
    how = {"k_top": k_top, "k_att": 1}
    assert not gpu.supports(x, state, **how, rule=rule)
    found, truth = (sab(x, state, p, **how, k_trunc=2, rule=rule) for sab in (gpu.sab, eager.sab))
    torch.testing.assert_close(found[0], truth[0])


def test_gradients_of_a_state_are_left_to_another_pass() -> None:
    x, p = drawn(1, 3, 5, torch.float32)
    state = reference.initial_state(1, p)
    state = replace(state, h=state.h.clone().requires_grad_())
    hidden, _, _ = gpu.sab(x, state, p, **SPARSITY)
    hidden.sum().backward()  # type: ignore[no-untyped-call]
    assert state.h.grad is not None
