"""Test the choice of a backend: the order, the environment variable that forces one, its errors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

from sabtune.errors import ConfigError, InputError
from sabtune.models import SAB, SelfAttention
from sabtune.ops import dispatch, reference, self_attention, triton
from sabtune.ops.call import NAMES, VARIABLE, Backend, Call, Results, forced_backend
from sabtune.ops.checks import check_call
from sabtune.ops.compiled import backend as compiled_backend
from sabtune.ops.reference import PAPER, State
from tests.fused_cases import (
    Sparsity,
    call_of,
    check_same,
    dispatch_predict,
    dispatch_sab,
    for_rule,
    noise,
    parameters,
    results,
)

COUNTS = Sparsity(k_top=2, k_att=1, k_trunc=3)
RELEASED = replace(PAPER, form="released")


@pytest.fixture(autouse=True)
def _nothing_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv(triton.SWITCH, raising=False)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of the backends that run."""
    names: list[str] = []

    def recording(backend: Backend) -> Backend:
        def run(call: Call) -> Results:
            names.append(backend.name)
            return backend.run(call)

        return replace(backend, run=run)

    recorded = {backend: recording(backend) for backend in dispatch.BACKENDS}
    monkeypatch.setattr(dispatch, "BACKENDS", tuple(recorded.values()))
    monkeypatch.setattr(dispatch, "ONE_DTYPE", tuple(recorded[b] for b in dispatch.ONE_DTYPE))
    return names


def small(dtype: torch.dtype = torch.float32, **how: Any) -> Call:
    """Return a valid call of a few steps."""
    x, p = noise(2, 5, 4, dtype=dtype), parameters(5, 4, dtype)
    p = for_rule(p, how.get("rule", PAPER))
    return call_of(x, reference.initial_state(2, p), p, **{**COUNTS, **how})


def with_gradient(call: Call) -> Call:
    """Return a call whose incoming state requires a gradient."""
    return replace(call, state=replace(call.state, h=call.state.h.clone().requires_grad_()))


def skip_without(name: str) -> None:
    """Skip a test of the kernels where neither a GPU nor Triton's interpreter runs them."""
    if name == "triton":
        if importlib.util.find_spec("triton") is None:
            pytest.skip("Triton isn't installed")
        if triton.problem_on(torch.device("cpu")):
            pytest.skip("Triton's interpreter is off, because there is a GPU")


def test_the_order_of_preference() -> None:
    names = tuple(backend.name for backend in dispatch.BACKENDS)
    assert names == NAMES == ("compiled", "triton", "eager", "reference")


def test_a_call_cannot_be_changed() -> None:
    call = small()
    with pytest.raises(FrozenInstanceError):
        call.x = call.x  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        call.sparsity.k_top = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", *NAMES])
@pytest.mark.parametrize("readout", [False, True], ids=["states", "logits"])
def test_a_forced_backend_gives_the_results_of_the_reference(
    name: str, readout: bool, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without(name)
    monkeypatch.setenv(VARIABLE, name)
    call = small()
    x, p = call.x, call.parameters
    if readout:
        V, b = noise(3, 10, dtype=x.dtype), noise(3, dtype=x.dtype)
        logits, after = dispatch_predict(x, call.state, p, (V, b), **COUNTS)
        hidden, summary, truth = reference.sab(x, call.state, p, **COUNTS)
        torch.testing.assert_close(logits, reference.readout(hidden, summary, V, b))
        torch.testing.assert_close(after.memory, truth.memory)
    else:
        found, expected = (results(sab, x, p, COUNTS) for sab in (dispatch_sab, reference.sab))
        check_same(found, expected, 1e-4)
    assert ran == [name or "compiled"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda call: call, "compiled"),
        (with_gradient, "eager"),
        (lambda _: small(rule=RELEASED), "eager"),
        (lambda _: small(torch.bfloat16), "reference"),
        (lambda _: small(torch.float16), "reference"),
    ],
    ids=["float32", "a state's gradient", "released", "bfloat16", "float16"],
)
def test_the_first_backend_that_supports_a_call_runs_it(
    change: Callable[[Call], Call], expected: str, ran: list[str]
) -> None:
    call = change(small())
    dispatch.run(call)
    assert ran == [expected]
    assert next(b.name for b in dispatch.BACKENDS if b.supports(call)) == expected


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "compiled",
            lambda _: small(torch.bfloat16),
            "compiled, which runs float32 and float64 on a CPU, and x is torch.bfloat16 on cpu: "
            "unset it, or set it to reference",
        ),
        (
            "compiled",
            lambda _: small(rule=RELEASED),
            "compiled, which runs the paper's form only: unset it, or set it to eager",
        ),
        (
            "compiled",
            with_gradient,
            "compiled, which computes no gradient of the state, and a tensor of state requires "
            "one: unset it, or set it to eager",
        ),
        (
            "triton",
            lambda _: small(torch.float64),
            "triton, which runs float32 and bfloat16, and the call has torch.float64: "
            "unset it, or set it to compiled",
        ),
        (
            "triton",
            lambda _: small(rule=RELEASED),
            "triton, which runs the paper's form only: unset it, or set it to eager",
        ),
        (
            "eager",
            lambda _: small(torch.bfloat16),
            "eager, which runs float32 and float64, and x is torch.bfloat16: "
            "unset it, or set it to reference",
        ),
    ],
)
def test_a_call_that_the_forced_backend_cannot_run_is_one_line(
    name: str,
    change: Callable[[Call], Call],
    message: str,
    ran: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skip_without(name)
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(InputError) as caught:
        dispatch.run(change(small()))
    assert str(caught.value) == f"{VARIABLE} is {message}"
    assert not ran


@pytest.mark.usefixtures("_no_interpreter")
def test_kernels_that_are_forced_on_a_cpu_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "triton")
    with pytest.raises(InputError) as caught:
        dispatch.run(small())
    reason = "runs on NVIDIA GPUs, and x is on cpu"
    assert str(caught.value) == (
        f"{VARIABLE} is triton, which {reason}: unset it, or set it to compiled"
    )


@pytest.fixture
def _no_interpreter(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    triton.problem_on.cache_clear()
    yield
    triton.problem_on.cache_clear()


def test_the_compiled_backend_without_numba(
    ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_backend, "HAS_NUMBA", False)
    dispatch.run(small())
    assert ran == ["eager"]
    monkeypatch.setenv(VARIABLE, "compiled")
    with pytest.raises(InputError, match="compiled, which needs numba, which is not installed: "):
        dispatch.run(small())


def test_mixed_dtypes_under_autocast(ran: list[str]) -> None:
    """The compiled pass leaves a call with weights of another dtype to the reference."""
    call = small()
    p = replace(call.parameters, W1=call.parameters.W1.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dispatch.run(replace(call, parameters=p))
    assert ran == ["reference"]
    with pytest.raises(InputError, match=r"^W1 is torch\.bfloat16, x is torch\.float32: convert"):
        dispatch.run(replace(call, parameters=p))


@pytest.mark.parametrize("name", ["", "eager"])
def test_a_state_of_the_kernels_is_cast_for_other_backends(
    name: str, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without("triton")
    call = small(torch.float64)
    state = State(**{k: v.float() if k != "step" else v for k, v in vars(call.state).items()})
    with pytest.raises(InputError, match=r"^state\.h is torch\.float32, x is torch\.float64"):
        dispatch.run(replace(call, state=state))
    monkeypatch.setenv(triton.SWITCH, "1")
    monkeypatch.setenv(VARIABLE, name)
    _, after = dispatch.run(replace(call, state=state))
    assert after.memory.dtype == torch.float64
    assert ran == ["eager"]
    p = replace(call.parameters, W1=call.parameters.W1.float())
    with pytest.raises(InputError, match=r"^W1 is torch\.float32, x is torch\.float64: convert"):
        dispatch.run(replace(call, parameters=p))


def test_forcing_the_kernels_enables_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not triton.is_enabled()
    assert triton.BACKEND.unsupported(small()) == f"is off: set {triton.SWITCH}=1"
    for variable, value in ((VARIABLE, "triton"), (triton.SWITCH, "1")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            assert triton.is_enabled()


@pytest.mark.parametrize("name", ["", "compiled", "eager", "reference"])
def test_a_call_is_checked_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []

    def counting(*given: Any, **how: Any) -> None:
        checked.append(given)
        check_call(*given, **how)

    for module in (dispatch, reference, self_attention):
        monkeypatch.setattr(module, "check_call", counting)
    monkeypatch.setenv(VARIABLE, name)
    dispatch.run(small())
    assert len(checked) == 1
    p = small().parameters
    zeros = torch.zeros(2, 5)
    self_attention.attend(small().x, self_attention.start(zeros, zeros), p)
    assert len(checked) == 2


def test_the_compiled_pass_evaluates_no_other_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(_: Call) -> str:
        pytest.fail("another backend was asked")

    first, *others = dispatch.BACKENDS
    others = [replace(backend, unsupported=asked) for backend in others]
    monkeypatch.setattr(dispatch, "BACKENDS", (first, *others))
    dispatch.run(small())


@pytest.mark.parametrize("name", ["cuda", "Compiled", "eager,compiled"])
def test_an_unknown_backend_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, name)
    known = "give one of compiled, triton, eager, reference"
    message = f"{VARIABLE} is {name!r}: {known}"
    model = SelfAttention.Config(hidden=5).build(4, 3, steps=5, generator=torch.Generator())
    for call in (forced_backend, lambda: dispatch.run(small()), lambda: model(small().x)):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value) == message


def test_a_model_has_the_current_sparsity() -> None:
    config = SAB.Config(hidden=5, k_top=2, k_att=3, k_trunc=4, scoring="dot")
    model = config.build(4, 3, steps=5, generator=torch.Generator())
    rule = replace(PAPER, scoring="dot")
    assert model.sparsity == reference.Sparsity(k_top=2, k_att=3, k_trunc=4, rule=rule)
    model.k_top = 7
    assert model.sparsity == reference.Sparsity(k_top=7, k_att=3, k_trunc=4, rule=rule)


@pytest.mark.parametrize("name", ["", *NAMES])
def test_self_attention_uses_the_equations_for_any_backend_but_the_compiled_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    for module, function in ((compiled_backend, "attend"), (self_attention, "steps")):
        original = getattr(module, function)

        def recorded(*given: Any, name: str = function, original: Any = original) -> Any:
            ran.append(name)
            return original(*given)

        monkeypatch.setattr(module, function, recorded)
    monkeypatch.setenv(VARIABLE, name)
    p, x, zeros = small().parameters, small().x, torch.zeros(2, 5)
    self_attention.attend(x, self_attention.start(zeros, zeros), p)
    assert ran == ["attend" if name in ("", "compiled") else "steps"]


def test_self_attention_that_the_forced_pass_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "compiled")
    call = small(torch.bfloat16)
    zeros = torch.zeros(2, 5, dtype=torch.bfloat16)
    with pytest.raises(InputError) as caught:
        self_attention.attend(call.x, self_attention.start(zeros, zeros), call.parameters)
    assert str(caught.value) == (
        f"{VARIABLE} is compiled, which runs float32 and float64 on a CPU, and x is "
        "torch.bfloat16 on cpu: unset it, or set it to reference"
    )
