"""Test computed weights (torch's parametrizations, pruning), shared weights and frozen weights.

Each model is compared with a plain model that has the effective weights.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from sabtune.models import Model
from tests.fused_cases import noise
from tests.small_models import small

MODELS_TRIED: list[tuple[str, dict[str, Any]]] = [
    ("sab", {"k_att": 1}),
    ("sab", {"k_att": 1, "scoring": "dot"}),
    ("sab", {"k_att": 1, "scoring": "separable", "normalizer": "softmax"}),
    ("sab", {"k_att": 1, "form": "released"}),
    ("sab", {"k_att": 1, "form": "early"}),
    ("self-attention", {}),
    ("self-attention", {"weights": "entmax15"}),
    ("self-attention", {"form": "early"}),
    ("lstm", {}),
    ("gru", {}),
    ("mingru", {"layers": 1}),
    ("rel-lstm", {"short_term": 3, "relevant": 2}),
    ("transformer", {"layers": 1, "positions": "rotary"}),
    ("mamba2", {"layers": 1}),
    ("slstm", {}),
]

every_model = pytest.mark.parametrize(("kind", "values"), MODELS_TRIED, ids=str)


def built(kind: str, values: dict[str, Any]) -> Model:
    generator = torch.Generator().manual_seed(0)
    model = small(kind, hidden=6, **values).build(3, 4, steps=20, generator=generator).double()
    with torch.no_grad():
        for weight in model.parameters():  # none is 0, as a bias may be
            weight.add_(noise(*weight.shape, dtype=torch.float64), alpha=0.01)
    return model


def owner(model: Model, name: str) -> tuple[nn.Module, str]:
    path, _, last = name.rpartition(".")
    return model.get_submodule(path), last


class Scaled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 1.5 * weight


def scaled(module: nn.Module, name: str) -> str:
    parametrize.register_parametrization(module, name, Scaled())
    return f"parametrizations.{name}.original"


def normed(module: nn.Module, name: str) -> str:
    parametrizations.weight_norm(module, name, dim=None)  # type: ignore[arg-type]
    with torch.no_grad():
        module.get_parameter(f"parametrizations.{name}.original0").mul_(1.5)
    return f"parametrizations.{name}.original1"


def pruned(module: nn.Module, name: str) -> str:
    prune.l1_unstructured(module, name, amount=0.5)  # type: ignore[no-untyped-call]
    return f"{name}_orig"


@every_model
@pytest.mark.parametrize("how", [scaled, normed, pruned])
def test_effective_weights_are_used(how: Any, kind: str, values: dict[str, Any]) -> None:
    x = noise(2, 12, 3, dtype=torch.float64)
    for name, _ in built(kind, values).named_parameters():
        made, plain = built(kind, values), built(kind, values)
        module, last = owner(made, name)
        original = module.get_parameter(how(module, last))
        made(x)  # pruning computes the weight when the module is called
        effective = getattr(module, last).detach().clone()
        assert not torch.equal(effective, plain.get_parameter(name))
        with torch.no_grad():
            plain.get_parameter(name).copy_(effective)
        logits, truth = made(x)[0], plain(x)[0]
        torch.testing.assert_close(logits, truth, rtol=1e-12, atol=1e-12)
        logits.square().sum().backward()
        truth.square().sum().backward()
        weight = plain.get_parameter(name).grad
        if weight is None:
            continue
        share = getattr(module, last)
        assert original.grad is not None
        if how is scaled:
            torch.testing.assert_close(original.grad, 1.5 * weight)
        if how is pruned:
            torch.testing.assert_close(original.grad, weight * (effective != 0))
        assert share.shape == weight.shape


@every_model
def test_the_spectral_norm_of_a_weight(kind: str, values: dict[str, Any]) -> None:
    x = noise(2, 12, 3, dtype=torch.float64)
    made, plain = built(kind, values).eval(), built(kind, values)
    name = next(name for name, weight in plain.named_parameters() if weight.dim() == 2)
    module, last = owner(made, name)
    parametrizations.spectral_norm(module, last)
    made.eval()
    with torch.no_grad():
        plain.get_parameter(name).copy_(getattr(module, last))
    torch.testing.assert_close(made(x)[0], plain(x)[0])


def test_a_weight_that_is_used_twice_gets_both_gradients() -> None:
    x = noise(2, 12, 3, dtype=torch.float64)
    tied, plain = built("sab", {"k_att": 1}), built("sab", {"k_att": 1})
    tied.W2 = tied.W1
    with torch.no_grad():
        plain.get_parameter("W2").copy_(plain.get_parameter("W1"))
    for model in (tied, plain):
        model(x)[0].square().sum().backward()
    grads = [plain.get_parameter(name).grad for name in ("W1", "W2")]
    torch.testing.assert_close(tied.get_parameter("W1").grad, grads[0] + grads[1])  # type: ignore[operator]


@every_model
def test_frozen_weights_get_no_gradient(kind: str, values: dict[str, Any]) -> None:
    x = noise(2, 12, 3, dtype=torch.float64)
    some, every = built(kind, values), built(kind, values)
    frozen = [name for i, (name, _) in enumerate(some.named_parameters()) if i % 2]
    for name in frozen:
        some.get_parameter(name).requires_grad_(False)
    for model in (some, every):
        model(x)[0].square().sum().backward()
    for name, weight in some.named_parameters():
        truth = None if name in frozen else every.get_parameter(name).grad
        torch.testing.assert_close(weight.grad, truth)
