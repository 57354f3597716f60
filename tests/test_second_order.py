"""Test second derivatives, a second backward pass and torch's function transforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from sabtune.models import MODELS, SAB, Model
from sabtune.ops import compiled, reference, self_attention
from sabtune.ops import triton as gpu
from sabtune.ops.call import VARIABLE, Call
from sabtune.ops.reference import PAPER, Parameters, Rule
from tests.fused_cases import (
    NAMES,
    RULES,
    dispatch_sab,
    eager_sab,
    for_rule,
    noise,
    parameters,
    sab_by,
)

RELEASED = replace(PAPER, form="released")
CASES: list[tuple[Callable[..., Any], Rule | None]] = [(dispatch_sab, rule) for rule in RULES]
CASES += [(eager_sab, rule) for rule in [*RULES, RELEASED]] + [(self_attention.attend, None)]

CELL_NAMES = {dispatch_sab: "dispatch", eager_sab: "eager", self_attention.attend: "attention"}

every_case = pytest.mark.parametrize(
    ("cell", "rule"),
    CASES,
    ids=lambda v: CELL_NAMES[v] if callable(v) else f"{v and vars(v).values()}",
)


def outputs(cell: Callable[..., Any], rule: Rule | None, x: Tensor, *weights: Tensor) -> Any:
    """Return h and s of a cell without truncation."""
    p = Parameters(**dict(zip(NAMES, weights, strict=True)))
    if rule is None:
        start = x.new_zeros(x.shape[0], p.weight_hh.shape[1])
        return cell(x, self_attention.start(start, start), p)[:2]
    state = reference.initial_state(x.shape[0], p)
    return cell(x, state, p, k_top=2, k_att=1, k_trunc=0, rule=rule)[:2]


def leaves(rule: Rule | None, T: int = 5) -> list[Tensor]:
    p = parameters(3, 2, torch.float64, scale=1.0)
    p = p if rule is None else for_rule(p, rule)
    inputs = [noise(2, T, 2, dtype=torch.float64), *(getattr(p, name) for name in NAMES)]
    return [tensor.clone().requires_grad_() for tensor in inputs]


@every_case
def test_second_derivatives_agree_with_finite_differences(
    cell: Callable[..., Any], rule: Rule | None
) -> None:
    """Compare second derivatives with finite differences of the first derivatives."""
    inputs = leaves(rule)
    used = [tensor for tensor in inputs if tensor.numel()]

    def call(*given: Tensor) -> Any:
        rest = iter(given)
        return outputs(cell, rule, *(next(rest) if t.numel() else t for t in inputs))

    assert torch.autograd.gradgradcheck(call, used, fast_mode=True, atol=1e-4)


@every_case
def test_create_graph_gives_the_same_gradients(cell: Callable[..., Any], rule: Rule | None) -> None:
    inputs = leaves(rule, T=20)
    loss = sum(out.square().sum() for out in outputs(cell, rule, *inputs))
    graph, plain, again = (
        torch.autograd.grad(loss, inputs, create_graph=create, retain_graph=True, allow_unused=True)
        for create in (True, False, False)
    )
    for given, one, other, third in zip(inputs, graph, plain, again, strict=True):
        if given.numel() and other is not None:
            torch.testing.assert_close(one, other)
            assert torch.equal(other, third)


def built(kind: str, **values: Any) -> Model:
    config = MODELS[kind](hidden=16, **values)
    generator = torch.Generator().manual_seed(0)
    return config.build(3, 4, steps=20, generator=generator).double()


def by_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "reference")


MODEL_CASES: list[tuple[str, dict[str, Any]]] = [
    ("sab", {"k_top": 3, "k_att": 2, "k_trunc": 5}),
    ("self-attention", {}),
    ("self-attention", {"weights": "sparsemax"}),
    ("self-attention", {"weights": "entmax15"}),
    ("self-attention", {"weights": "top_k", "k_top": 3}),
    ("self-attention", {"form": "early"}),
]
over_models = pytest.mark.parametrize(("kind", "values"), MODEL_CASES, ids=str)


def penalized(model: Model, x: Tensor) -> list[Tensor | None]:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[0].sum(), x, create_graph=True)
    loss = model(x)[0].sum() + 10 * gradient.square().sum()
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


@over_models
def test_a_gradient_penalty(
    kind: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = built(kind, **values), noise(4, 20, 3, dtype=torch.float64)
    found = penalized(model, x)
    by_equations(monkeypatch)
    for got, true in zip(found, penalized(model, x), strict=True):
        torch.testing.assert_close(got, true, rtol=1e-9, atol=1e-9)


@over_models
def test_an_input_computed_from_a_weight(
    kind: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient through the input isn't added to the weight's own gradient twice."""
    model, x = built(kind, **values), noise(4, 20, 3, dtype=torch.float64)

    def gradients() -> tuple[Tensor, ...]:
        weight = dict(model.named_parameters())["weight_ih"]
        logits = model(x * weight.mean())[0]
        (first,) = torch.autograd.grad(logits.square().sum(), weight, create_graph=True)
        return first, torch.autograd.grad(first.square().sum(), weight)[0]

    found = gradients()
    by_equations(monkeypatch)
    for got, true in zip(found, gradients(), strict=True):
        torch.testing.assert_close(got, true, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # raised by torch
@over_models
def test_function_transforms(
    kind: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test `torch.func` and forward mode, including derivatives of the parameters."""
    model, x = built(kind, **values), noise(2, 8, 3, dtype=torch.float64)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    direction = {name: torch.ones_like(p) for name, p in weights.items()}

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(model, weights, (x,))[0]
        return logits.square().sum()

    def alone(example: Tensor) -> Tensor:
        return loss(weights, example.unsqueeze(0))

    def every() -> list[Tensor]:
        found = list(torch.func.grad(loss)(weights, x).values())
        found += torch.func.vmap(torch.func.grad(alone))(x).unbind()
        found += [torch.func.vmap(alone)(x)]
        found += torch.func.jvp(loss, (weights, x), (direction, torch.ones_like(x)))
        with forward_ad.dual_level(), torch.no_grad():
            logits, _ = model(forward_ad.make_dual(x, torch.ones_like(x)))  # type: ignore[no-untyped-call]
            found.append(forward_ad.unpack_dual(logits).tangent)  # type: ignore[no-untyped-call]
        return found

    found = every()
    by_equations(monkeypatch)
    for got, true in zip(found, every(), strict=True):
        torch.testing.assert_close(got, true)
    x.requires_grad_()
    (truth,) = torch.autograd.grad(model(x)[0].square().sum(), x)
    by_vmap = torch.stack(found[len(weights) : len(weights) + 2])
    torch.testing.assert_close(by_vmap, truth)


def test_a_gradient_penalty_with_the_gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton isn't installed")
    from tests.gpu_cases import DEVICE, SPARSITY, drawn

    monkeypatch.setenv(gpu.SWITCH, "1")
    x, p = drawn(2, 6, 5, torch.float32)
    assert x.device.type == DEVICE.type
    found = []
    for sab in (sab_by(gpu.BACKEND.run), reference.sab):
        W1, given = p.W1.clone().requires_grad_(), x.clone().requires_grad_()
        state = reference.initial_state(2, p)
        hidden = sab(given, state, replace(p, W1=W1), **SPARSITY)[0]
        (gradient,) = torch.autograd.grad(hidden.square().sum(), given, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), W1)[0])
    torch.testing.assert_close(*found)


def test_the_compiled_pass_is_used_outside_of_transforms() -> None:
    """Check that the compiled pass is used outside of transforms, and not inside of one."""
    model = built("sab")
    assert isinstance(model, SAB)
    x = noise(2, 5, 3, dtype=torch.float64)
    p = model.weights()
    call = Call(x, reference.initial_state(2, p), p, model.sparsity)
    assert compiled.BACKEND.supports(call)
    with forward_ad.dual_level():
        assert not compiled.BACKEND.supports(call)
