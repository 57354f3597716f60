"""Sizes, weights, calls and comparisons with the equations that the tests of backends share."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypedDict, get_args

import torch
from torch import Tensor

from sabtune.ops import dispatch, eager, reference
from sabtune.ops.call import Call, Results
from sabtune.ops.reference import PAPER, Normalizer, Parameters, Rule, Scoring, State

NAMES = [field.name for field in fields(Parameters)]
RULES = [
    Rule(scoring=scoring, normalizer=normalizer)
    for scoring, normalizer in itertools.product(get_args(Scoring), get_args(Normalizer))
]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


class Sparsity(TypedDict):
    k_top: int
    k_att: int
    k_trunc: int


def parameters(H: int, inputs: int, dtype: torch.dtype, scale: float = 2.0) -> Parameters:
    """Return random weights `scale` times as large as torch's initial weights.

    At a scale of 2, all gates and scores affect the results.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        bound = scale * H**-0.5
        weight = torch.empty(shape, dtype=torch.float64)
        return weight.uniform_(-bound, bound, generator=generator).to(dtype)

    return Parameters(
        weight_ih=uniform(4 * H, inputs),
        weight_hh=uniform(4 * H, H),
        bias_ih=uniform(4 * H),
        bias_hh=uniform(4 * H),
        W1=uniform(H, H),
        W2=uniform(H, H),
        w3=uniform(H),
    )


def noise(*shape: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)


def for_rule(p: Parameters, rule: Rule) -> Parameters:
    """Return the parameters that a rule uses, and empty tensors for the others.

    In the released form, w is w3 followed by w3 reversed.
    """
    if rule.form == "released":
        nothing = p.w3.new_empty(0)
        return replace(p, W1=nothing, W2=nothing, w3=torch.cat([p.w3, p.w3.flip(0)]))
    unused = {"mlp": (), "dot": ("w3",), "separable": ("W2",)}[rule.scoring]
    return replace(p, **dict.fromkeys(unused, p.w3.new_empty(0)))


def call_of(
    x: Tensor,
    state: State,
    p: Parameters,
    readout: tuple[Tensor, Tensor] | None = None,
    **sparsity: Any,
) -> Call:
    """Return a call with the counts and the rule of `sparsity`."""
    return Call(x, state, p, reference.Sparsity(**sparsity), readout)


def sab_by(
    run: Callable[[Call], Results],
) -> Callable[..., tuple[Tensor, Tensor, State]]:
    """Return a function with the signature of `reference.sab` that runs its calls by `run`."""

    def sab(x: Tensor, state: State, p: Parameters, **how: Any) -> tuple[Tensor, Tensor, State]:
        (hidden, summary), after = run(call_of(x, state, p, **how))
        return hidden, summary, after

    return sab


dispatch_sab = sab_by(dispatch.run)
eager_sab = sab_by(eager.BACKEND.run)


def dispatch_predict(
    x: Tensor, state: State, p: Parameters, readout: tuple[Tensor, Tensor], **how: Any
) -> tuple[Tensor, State]:
    """Return the logits and the state after x, by the dispatch."""
    (logits,), after = dispatch.run(call_of(x, state, p, readout, **how))
    return logits, after


def results(
    sab: object,
    x: Tensor,
    p: Parameters,
    sparsity: Sparsity,
    state: State | None = None,
    rule: Rule = PAPER,
) -> dict[str, Tensor]:
    """Return a call's outputs, final state and the gradients of a weighted sum of its outputs."""
    assert callable(sab)
    x = x.clone().requires_grad_()
    p = for_rule(p, rule)
    p = Parameters(**{name: getattr(p, name).clone().requires_grad_() for name in NAMES})
    state = state or reference.initial_state(x.shape[0], p)
    hidden, summary, after = sab(x, state, p, **sparsity, rule=rule)
    weigh = noise(*hidden.shape, 2, dtype=x.dtype, seed=2).to(x.device)
    (hidden * weigh[..., 0] + summary * weigh[..., 1]).sum().backward()
    found = {"hidden": hidden, "summary": summary}
    found |= {name: getattr(after, name) for name in ("h", "c", "memory", "keys")}
    leaves = {"x": x} | {name: getattr(p, name) for name in NAMES}
    for name, leaf in leaves.items():
        found["d_" + name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return {name: tensor.detach() for name, tensor in found.items()}


def readout_results(
    predict: object, x: Tensor, p: Parameters, sparsity: Sparsity, rule: Rule = PAPER
) -> dict[str, Tensor]:
    """Return the results of a call that includes a readout with seven outputs."""
    assert callable(predict)
    H = p.weight_hh.shape[1]
    x = x.clone().requires_grad_()
    p = for_rule(p, rule)
    p = Parameters(**{name: getattr(p, name).clone().requires_grad_() for name in NAMES})
    V, b = (noise(*shape, dtype=x.dtype, seed=4).requires_grad_() for shape in ((7, 2 * H), (7,)))
    logits, after = predict(
        x, reference.initial_state(x.shape[0], p), p, (V, b), **sparsity, rule=rule
    )
    (logits * noise(*logits.shape, dtype=x.dtype, seed=2)).sum().backward()
    found = {"logits": logits} | {
        name: getattr(after, name) for name in ("h", "c", "memory", "keys")
    }
    leaves = {"x": x, "V": V, "b": b} | {name: getattr(p, name) for name in NAMES}
    for name, leaf in leaves.items():
        found["d_" + name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return {name: tensor.detach() for name, tensor in found.items()}


def by_equations(
    x: Tensor, state: State, p: Parameters, readout: tuple[Tensor, Tensor], **how: object
) -> tuple[Tensor, State]:
    """Compute with the equations what `dispatch_predict` computes."""
    hidden, summary, after = reference.sab(x, state, p, **how)  # type: ignore[arg-type]
    return reference.readout(hidden, summary, *readout), after


def roundings(
    x: Tensor,
    p: Parameters,
    sparsity: Sparsity,
    state: State | None = None,
    rule: Rule = PAPER,
    draws: int = 8,
) -> list[dict[str, Tensor]]:
    """Return the equations' results for x and for perturbed copies of x.

    Each entry of a copy is one rounding error above or below that of x.
    """
    eps = torch.finfo(x.dtype).eps
    off = [noise(*x.shape, dtype=x.dtype, seed=100 + draw).sign() for draw in range(draws - 1)]
    inputs = [x, *(x * (1 + eps * signs) for signs in off)]
    return [results(reference.sab, of, p, sparsity, state, rule) for of in inputs]


def check_same(
    found: dict[str, Tensor],
    truth: dict[str, Tensor],
    tolerance: float,
    *rounded: dict[str, Tensor] | None,
) -> None:
    """Check that each tensor is within `tolerance` of the truth, relative to its largest entry.

    A tensor may also be off by 8 times the largest error of `rounded`, the equations' results in
    the same dtype. Where w_i / Σ w is nearly constant, its gradient is mostly rounding error.
    """
    for name, true in truth.items():
        assert found[name].shape == true.shape, name
        assert found[name].isfinite().all(), name
        if true.numel():
            size = true.abs().max().clamp_min(1e-3)
            allowed = size * tolerance
            for draw in rounded:
                if draw is not None:
                    allowed = allowed.maximum(8 * (draw[name] - true).abs().max())
            error = (found[name] - true).abs().max()
            assert error < allowed, f"{name} is off by {error / size:.1e} of its largest entry"


def to(p: Parameters, dtype: torch.dtype) -> Parameters:
    return Parameters(**{name: getattr(p, name).to(dtype) for name in NAMES})


SHAPES = [  # B, T, H, k_top, k_att, k_trunc
    (1, 37, 5, 3, 2, 5),
    (3, 37, 17, 1, 2, 7),
    (63, 12, 17, 4, 1, 5),
    (64, 37, 64, 10, 2, 10),
    (3, 1, 17, 3, 1, 5),
    (3, 2, 5, 3, 1, 1),
    (3, 37, 17, 3, 40, 5),  # no memory is ever added
    (3, 37, 17, 50, 2, 5),  # k_top exceeds the number of memories
    (3, 37, 17, 3, 1, 1),
    (3, 37, 17, 3, 3, 0),  # no truncation
    (35, 20, 33, 5, 1, 4),
    (2, 9, 300, 2, 1, 3),
]
