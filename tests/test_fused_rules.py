"""Compare the compiled pass with the equations for every scoring and normalizer."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from sabtune.ops import compiled, reference
from sabtune.ops.reference import PAPER, Rule
from tests.fused_cases import (
    RULES,
    SHAPES,
    TOLERANCE,
    Sparsity,
    call_of,
    check_same,
    dispatch_sab,
    for_rule,
    noise,
    parameters,
    results,
    to,
)

OTHERS = [rule for rule in RULES if rule != PAPER]
over_rules = pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.scoring}-{r.normalizer}")
over_others = pytest.mark.parametrize("rule", OTHERS, ids=lambda r: f"{r.scoring}-{r.normalizer}")

pytestmark = pytest.mark.usefixtures("_poisoned")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@over_others
def test_same_as_reference(rule: Rule, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    B, T, H, k_top, k_att, k_trunc = shape
    x, p = noise(B, T, 4, dtype=dtype), parameters(H, 4, dtype)
    sparsity = Sparsity(k_top=k_top, k_att=k_att, k_trunc=k_trunc)
    truth = results(reference.sab, x.double(), to(p, torch.float64), sparsity, rule=rule)
    rounded = results(reference.sab, x, p, sparsity, rule=rule)
    found = results(dispatch_sab, x, p, sparsity, rule=rule)
    check_same(found, truth, TOLERANCE[dtype], rounded)


@over_rules
def test_only_the_released_form_uses_another_pass(rule: Rule) -> None:
    x = noise(2, 5, 4, dtype=torch.float32)
    p = for_rule(parameters(5, 4, torch.float32), rule)
    state = reference.initial_state(2, p)
    call = call_of(x, state, p, k_top=2, k_att=1, k_trunc=5, rule=rule)
    released = replace(call, sparsity=replace(call.sparsity, rule=replace(rule, form="released")))
    assert compiled.BACKEND.supports(call)
    assert not compiled.BACKEND.supports(released)


@over_others
@pytest.mark.usefixtures("_two_threads")
def test_two_threads(rule: Rule) -> None:
    x, p = noise(7, 20, 4, dtype=torch.float64), parameters(17, 4, torch.float64)
    sparsity = Sparsity(k_top=3, k_att=2, k_trunc=5)
    found = results(dispatch_sab, x, p, sparsity, rule=rule)
    check_same(found, results(reference.sab, x, p, sparsity, rule=rule), 1e-9)
    again = results(dispatch_sab, x, p, sparsity, rule=rule)
    assert all(torch.equal(found[name], again[name]) for name in found)


@over_others
def test_k_top_changes_between_two_calls(rule: Rule) -> None:
    x, p = noise(3, 30, 4, dtype=torch.float64), parameters(17, 4, torch.float64)
    for k_top in (1000, 5, 1):
        sparsity = Sparsity(k_top=k_top, k_att=1, k_trunc=5)
        found, truth = (
            results(sab, x, p, sparsity, rule=rule) for sab in (dispatch_sab, reference.sab)
        )
        check_same(found, truth, 1e-9)


@over_others
def test_large_inputs(rule: Rule) -> None:
    x, p = 100 * noise(3, 30, 4, dtype=torch.float64), parameters(17, 4, torch.float64)
    sparsity = Sparsity(k_top=3, k_att=2, k_trunc=5)
    found, truth = (
        results(sab, x, p, sparsity, rule=rule) for sab in (dispatch_sab, reference.sab)
    )
    check_same(found, truth, 1e-7)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@over_others
def test_large_weights_stay_finite(rule: Rule, dtype: torch.dtype) -> None:
    p = parameters(17, 4, dtype)
    p = replace(p, W1=p.W1 * 60, W2=p.W2 * 60)
    sparsity = Sparsity(k_top=3, k_att=2, k_trunc=5)
    found = results(dispatch_sab, noise(4, 30, 4, dtype=dtype), p, sparsity, rule=rule)
    assert all(tensor.isfinite().all() for tensor in found.values())


@pytest.mark.parametrize("k_trunc", [0, 4])
@over_others
def test_gradients_from_a_carried_state(rule: Rule, k_trunc: int) -> None:
    x, p = noise(3, 30, 4, dtype=torch.float64), parameters(17, 4, torch.float64)
    sparsity = Sparsity(k_top=5, k_att=2, k_trunc=k_trunc)
    with torch.no_grad():
        state = reference.initial_state(3, p)
        state = reference.sab(x[:, :13], state, for_rule(p, rule), **sparsity, rule=rule)[2]
    found, truth = (
        results(sab, x[:, 13:], p, sparsity, state, rule) for sab in (dispatch_sab, reference.sab)
    )
    check_same(found, truth, 1e-9)


@pytest.mark.parametrize(("H", "k_att"), [(17, 1), (64, 3), (17, 20)])
@over_others
def test_segments_equal_the_whole_sequence(rule: Rule, H: int, k_att: int) -> None:
    x, p = noise(3, 300, 4, dtype=torch.float64), parameters(H, 4, torch.float64, scale=0.5)
    x[:, 20:150] *= 0.02  # scores change slowly, then quickly
    p = for_rule(p, rule)
    sparsity = Sparsity(k_top=3, k_att=k_att, k_trunc=7)
    with torch.no_grad():
        truth = reference.sab(x, reference.initial_state(3, p), p, **sparsity, rule=rule)
        for cuts in ((), (1, 3, 40)):
            state = reference.initial_state(3, p)
            parts = []
            for stretch in x.tensor_split(cuts, dim=1):
                hidden, summary, state = dispatch_sab(stretch, state, p, **sparsity, rule=rule)
                parts.append((hidden, summary))
            for got, true in zip(zip(*parts, strict=True), truth[:2], strict=True):
                torch.testing.assert_close(torch.cat(got, dim=1), true, rtol=0, atol=1e-9)
            for name in ("h", "c", "memory", "keys"):
                torch.testing.assert_close(getattr(state, name), getattr(truth[2], name))


def test_a_state_continues_with_another_rule() -> None:
    x, p = noise(2, 40, 4, dtype=torch.float64), parameters(17, 4, torch.float64)
    sparsity = Sparsity(k_top=3, k_att=2, k_trunc=5)
    with torch.no_grad():
        for rule, then in itertools.permutations(RULES, 2):
            state = reference.initial_state(2, p)
            state = dispatch_sab(x, state, for_rule(p, rule), **sparsity, rule=rule)[2]
            found, truth = (
                sab(-x, state, for_rule(p, then), **sparsity, rule=then)[0]
                for sab in (dispatch_sab, reference.sab)
            )
            torch.testing.assert_close(found, truth)
