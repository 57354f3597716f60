"""Compare the eager pass with the equations: values, gradients and memory for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from sabtune.models.sab import ALL
from sabtune.ops import compiled, eager, reference
from sabtune.ops.compiled import backend
from sabtune.ops.reference import PAPER, Parameters, Rule, Scoring, State
from tests.fused_cases import (
    NAMES,
    RULES,
    SHAPES,
    TOLERANCE,
    Sparsity,
    call_of,
    check_same,
    dispatch_sab,
    eager_sab,
    for_rule,
    noise,
    parameters,
    results,
    roundings,
    to,
)

EVERY = [*RULES, replace(PAPER, epsilon=0.1)]
EVERY += [replace(PAPER, form="released"), replace(PAPER, form="early")]
over_rules = pytest.mark.parametrize(
    "rule", EVERY, ids=lambda r: f"{r.form}-{r.scoring}-{r.normalizer}-{r.epsilon:g}"
)
SPARSITY = Sparsity(k_top=3, k_att=2, k_trunc=5)


@pytest.fixture
def _no_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a call falls back to the equations."""

    def refused(*_: object, **__: object) -> None:
        pytest.fail("the equations were asked")

    monkeypatch.setattr(reference, "steps", refused)


@pytest.fixture
def _two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def weights(H: int, rule: Rule, dtype: torch.dtype = torch.float64) -> Parameters:
    """Return weights, smaller for the authors' forms, whose scores as weights amplify rounding."""
    return parameters(H, 4, dtype, scale=2.0 if rule.form == "paper" else 0.5)


@over_rules
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_as_reference(shape: tuple[int, ...], rule: Rule) -> None:
    B, T, H, k_top, k_att, k_trunc = shape
    x, p = noise(B, T, 4, dtype=torch.float64), weights(H, rule)
    sparsity = Sparsity(k_top=k_top, k_att=k_att, k_trunc=k_trunc)
    truth = results(reference.sab, x, p, sparsity, rule=rule)
    check_same(results(eager_sab, x, p, sparsity, rule=rule), truth, 1e-10)


@over_rules
def test_in_float32(rule: Rule) -> None:
    x, p = noise(7, 37, 4, dtype=torch.float32), weights(17, rule, torch.float32)
    truth = results(reference.sab, x.double(), to(p, torch.float64), SPARSITY, rule=rule)
    rounded = results(reference.sab, x, p, SPARSITY, rule=rule)
    found = results(eager_sab, x, p, SPARSITY, rule=rule)
    assert all(tensor.dtype is torch.float32 for tensor in found.values())
    check_same(found, truth, TOLERANCE[torch.float32], rounded)


@over_rules
@pytest.mark.usefixtures("_two_threads")
def test_a_repeated_call_gives_the_same_bits(rule: Rule) -> None:
    x, p = noise(9, 40, 4, dtype=torch.float32), weights(64, rule, torch.float32)
    first = results(eager_sab, x, p, SPARSITY, rule=rule)
    again = results(eager_sab, x, p, SPARSITY, rule=rule)
    assert all(torch.equal(first[name], again[name]) for name in first)


@over_rules
def test_k_top_changes_between_two_calls(rule: Rule) -> None:
    x, p = noise(3, 30, 4, dtype=torch.float64), weights(17, rule)
    for k_top in (ALL, 29, 5, 1):
        sparsity = Sparsity(k_top=k_top, k_att=1, k_trunc=5)
        truth = results(reference.sab, x, p, sparsity, rule=rule)
        check_same(results(eager_sab, x, p, sparsity, rule=rule), truth, 1e-10)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.scoring}-{r.normalizer}")
def test_large_inputs_and_weights(rule: Rule) -> None:
    x, p = noise(3, 30, 4, dtype=torch.float64), parameters(17, 4, torch.float64)
    truth = results(reference.sab, 100 * x, p, SPARSITY, rule=rule)
    check_same(results(eager_sab, 100 * x, p, SPARSITY, rule=rule), truth, 1e-7)
    p = replace(p, W1=p.W1 * 60, W2=p.W2 * 60)
    found = results(eager_sab, x, p, SPARSITY, rule=rule)
    assert all(tensor.isfinite().all() for tensor in found.values())


def test_a_nan_in_the_input_reaches_the_gradients() -> None:
    """Check that a NaN reaches the gradients, where training detects it and skips the update."""
    x, p = noise(2, 20, 4, dtype=torch.float64), parameters(5, 4, torch.float64)
    x[0, 7] = torch.nan
    found = results(eager_sab, x, p, SPARSITY)
    assert found["d_W1"].isnan().any()
    assert found["d_weight_hh"].isnan().any()


@over_rules
def test_segments_equal_the_whole_sequence(rule: Rule) -> None:
    x, p = noise(3, 60, 4, dtype=torch.float64), for_rule(weights(17, rule), rule)
    with torch.no_grad():
        truth = reference.sab(x, reference.initial_state(3, p), p, **SPARSITY, rule=rule)
        state, parts = reference.initial_state(3, p), []
        for stretch in x.tensor_split((1, 3, 40), dim=1):
            hidden, summary, state = eager_sab(stretch, state, p, **SPARSITY, rule=rule)
            parts.append((hidden, summary))
    for got, true in zip(zip(*parts, strict=True), truth[:2], strict=True):
        torch.testing.assert_close(torch.cat(got, dim=1), true, rtol=0, atol=1e-10)
    for name in ("h", "c", "memory", "keys"):
        torch.testing.assert_close(getattr(state, name), getattr(truth[2], name))
    assert state.step == truth[2].step


@over_rules
@pytest.mark.parametrize("k_top", [2, 5, ALL])
def test_from_a_carried_state(k_top: int, rule: Rule) -> None:
    x, p = noise(3, 30, 4, dtype=torch.float64), weights(17, rule)
    sparsity = Sparsity(k_top=k_top, k_att=2, k_trunc=4)
    with torch.no_grad():
        state = reference.initial_state(3, p)
        state = reference.sab(x[:, :13], state, for_rule(p, rule), **sparsity, rule=rule)[2]
    truth = results(reference.sab, x[:, 13:], p, sparsity, state, rule)
    check_same(results(eager_sab, x[:, 13:], p, sparsity, state, rule), truth, 1e-10)


@over_rules
@pytest.mark.parametrize("k_trunc", [0, 4])
def test_gradients_pass_through_a_state_between_segments(k_trunc: int, rule: Rule) -> None:
    """The gradient of the second segment passes through the state of the first one."""
    x, p = noise(3, 16, 4, dtype=torch.float64), for_rule(weights(7, rule), rule)
    p.weight_hh.requires_grad_()
    sparsity = Sparsity(k_top=2, k_att=2, k_trunc=k_trunc)
    found = []
    for sab in (eager_sab, reference.sab):
        before = noise(4, 3, 5, 7, dtype=torch.float64).requires_grad_()
        memory, keys, (h, c, *_) = before[0], before[1], before[2].unbind(dim=1)
        state = State(h=h, c=c, memory=memory, keys=keys, step=3)
        for stretch in x.split([9, 7], dim=1):  # type: ignore[no-untyped-call]
            hidden, summary, state = sab(stretch, state, p, **sparsity, rule=rule)
        parts = (hidden, summary, state.c, 0.1 * state.memory, 0.1 * state.keys)
        total = torch.stack([part.square().sum() for part in parts]).sum()
        found.append(torch.autograd.grad(total, [before, p.weight_hh]))
    for ours, truth in zip(*found, strict=True):
        assert (ours - truth).abs().max() < 1e-10 * truth.abs().max()


def test_the_final_state_is_detached() -> None:
    x, p = noise(2, 5, 4, dtype=torch.float64), parameters(5, 4, torch.float64)
    p.W1.requires_grad_()
    state = eager_sab(x, reference.initial_state(2, p), p, **SPARSITY)[2]
    assert not any(getattr(state, name).requires_grad for name in ("h", "c", "memory", "keys"))


def only(chosen: Callable[[Tensor, Tensor, State], Tensor]) -> list[tuple[Tensor, ...]]:
    """Return the gradients of one tensor by the eager pass and by the equations.

    chosen: a function that computes the tensor from a call's outputs and final state.
    """
    x, p = noise(3, 20, 4, dtype=torch.float64), parameters(17, 4, torch.float64)
    leaves = [getattr(p, name).requires_grad_() for name in NAMES]
    state = reference.initial_state(3, p)
    # An initial state that requires gradients gives the final state one, too.
    state = replace(state, h=state.h.requires_grad_())
    return [
        torch.autograd.grad(chosen(*sab(x, state, p, **SPARSITY)), leaves)
        for sab in (eager_sab, reference.sab)
    ]


@pytest.mark.parametrize(
    "chosen",
    [
        lambda hidden, _, __: hidden.sum(),  # a gradient expanded from one number
        lambda _, summary, __: summary.transpose(0, 2).square().sum(),
        lambda _, __, state: state.c.sum(),
    ],
    ids=["hidden", "summary", "c"],
)
def test_gradients_of_one_output_only(chosen: Callable[..., Tensor]) -> None:
    for ours, truth in zip(*only(chosen), strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-12)


def test_tied_scores_give_zero_summaries() -> None:
    x = noise(3, 12, 4, dtype=torch.float64)
    p = replace(parameters(5, 4, torch.float64), w3=torch.zeros(5, dtype=torch.float64))
    for normalizer in ("sum", "softmax"):
        rule = replace(PAPER, normalizer=normalizer)
        truth = results(reference.sab, x, p, SPARSITY, rule=rule)
        assert truth["summary"].eq(0).all()
        check_same(results(eager_sab, x, p, SPARSITY, rule=rule), truth, 1e-10)


@pytest.mark.parametrize("scoring", get_args(Scoring))
@pytest.mark.parametrize("k_top", range(2, 7))
def test_duplicate_memories(k_top: int, scoring: Scoring) -> None:
    """Each memory occurs twice, so scores are tied in pairs around the threshold θ.

    The scores of a pair differ by rounding. The softmax normalizer is left out, because it is
    discontinuous where a score passes θ.
    """
    rule = replace(PAPER, scoring=scoring)
    x, p = noise(2, 6, 4, dtype=torch.float64), parameters(5, 4, torch.float64)
    memory = noise(2, 3, 5, dtype=torch.float64).repeat(1, 2, 1)
    keys = reference.key(memory, p, rule)
    state = replace(reference.initial_state(2, p), memory=memory, keys=keys)
    sparsity = Sparsity(k_top=k_top, k_att=9, k_trunc=0)
    truth = results(reference.sab, x, p, sparsity, state, rule)
    rounded = roundings(x, p, sparsity, state, rule)
    check_same(results(eager_sab, x, p, sparsity, state, rule), truth, 1e-10, *rounded)


def kept(T: int, sab: Callable[..., Any] = eager_sab, **options: Any) -> int:
    """Return the bytes that a call of T steps saves for the backward pass."""
    x, p = noise(2, T, 4, dtype=torch.float32), parameters(64, 4, torch.float32)
    p.W1.requires_grad_()
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        sparsity = SPARSITY | {"k_att": 1} | options
        outputs = sab(x, reference.initial_state(2, p), p, **sparsity)
    assert outputs[0].requires_grad
    return sum(seen.values())


def test_memory_for_the_backward_pass_is_linear_in_the_steps() -> None:
    short, middle, long = kept(100), kept(200), kept(400)
    assert long - middle == 2 * (middle - short)
    # Gates, c, h, s, a memory and its key: 9H per step and example; 4 scores with their rows.
    assert (long - middle) / 200 < 2 * 4 * (9 * 64 + 4 * 3 + 8)
    assert kept(200, reference.sab) > 10 * middle


def test_a_second_backward_pass() -> None:
    x, p = noise(2, 12, 4, dtype=torch.float64), parameters(5, 4, torch.float64)
    p.W1.requires_grad_()
    hidden = eager_sab(x, reference.initial_state(2, p), p, **SPARSITY)[0]
    loss = hidden.square().sum()
    (first,) = torch.autograd.grad(loss, p.W1, retain_graph=True)
    (again,) = torch.autograd.grad(loss, p.W1)
    assert torch.equal(first, again)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, p.W1)


def test_weights_modified_before_the_backward_pass_are_detected() -> None:
    x, p = noise(2, 12, 4, dtype=torch.float64), parameters(5, 4, torch.float64)
    p.W1.requires_grad_()
    hidden = eager_sab(x, reference.initial_state(2, p), p, **SPARSITY)[0]
    with torch.no_grad():
        p.W1.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        hidden.sum().backward()  # type: ignore[no-untyped-call]


@pytest.mark.usefixtures("_no_equations")
@pytest.mark.parametrize("why", ["no numba", "released", "a state's gradient"])
def test_the_eager_pass_replaces_the_compiled_pass(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = replace(PAPER, form="released") if why == "released" else PAPER
    x, p = noise(2, 9, 4, dtype=torch.float32), for_rule(weights(5, rule, torch.float32), rule)
    state = reference.initial_state(2, p)
    if why == "no numba":
        monkeypatch.setattr(backend, "HAS_NUMBA", False)
    if why == "a state's gradient":
        state = replace(state, c=state.c.requires_grad_())
    assert not compiled.BACKEND.supports(call_of(x, state, p, **SPARSITY, rule=rule))
    found = dispatch_sab(x, state, p, **SPARSITY, rule=rule)
    torch.testing.assert_close(found[:2], eager_sab(x, state, p, **SPARSITY, rule=rule)[:2])


def test_the_equations_compute_other_dtypes() -> None:
    x, p = noise(2, 9, 4, dtype=torch.bfloat16), parameters(5, 4, torch.bfloat16)
    state = reference.initial_state(2, p)
    assert not eager.BACKEND.supports(call_of(x, state, p, **SPARSITY))
    hidden = dispatch_sab(x, state, p, **SPARSITY)[0]
    torch.testing.assert_close(hidden, reference.sab(x, state, p, **SPARSITY)[0])
    x, p = x.float(), to(p, torch.float32)
    call = call_of(x, reference.initial_state(2, p), p, **SPARSITY)
    assert eager.BACKEND.supports(call)
    assert not eager.BACKEND.supports(replace(call, x=x[:, :0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not eager.BACKEND.supports(call)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@over_rules
def test_same_on_a_gpu(rule: Rule) -> None:
    x, p = noise(7, 37, 4, dtype=torch.float64), weights(17, rule)
    truth = results(reference.sab, x, p, SPARSITY, rule=rule)
    on = Parameters(**{name: getattr(p, name).cuda() for name in NAMES})
    first, again = (results(dispatch_sab, x.cuda(), on, SPARSITY, rule=rule) for _ in range(2))
    assert all(tensor.is_cuda for tensor in first.values())
    assert all(torch.equal(first[name], again[name]) for name in first)
    check_same({name: tensor.cpu() for name, tensor in first.items()}, truth, 1e-9)
