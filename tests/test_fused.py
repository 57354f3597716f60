"""Compare the compiled pass with the equations, with the paper's rule: values and gradients."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sabtune.ops import reference
from sabtune.ops.compiled import backend
from sabtune.ops.compiled.buffers import BUFFERS
from sabtune.ops.reference import Parameters
from tests.fused_cases import (
    NAMES,
    SHAPES,
    TOLERANCE,
    Sparsity,
    by_equations,
    check_same,
    dispatch_predict,
    dispatch_sab,
    noise,
    parameters,
    readout_results,
    results,
    roundings,
    to,
)

GOLDEN = Path(__file__).parent / "golden" / "paper_T37_trunc5_att2_top3.npz"

pytestmark = pytest.mark.usefixtures("_poisoned")


def test_sab_is_compiled() -> None:
    assert backend.HAS_NUMBA


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_as_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    B, T, H, k_top, k_att, k_trunc = shape
    x, p = noise(B, T, 4, dtype=dtype), parameters(H, 4, dtype)
    sparsity = Sparsity(k_top=k_top, k_att=k_att, k_trunc=k_trunc)
    truth = results(reference.sab, x.double(), to(p, torch.float64), sparsity)
    rounded = roundings(x, p, sparsity)
    check_same(results(dispatch_sab, x, p, sparsity), truth, TOLERANCE[dtype], *rounded)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_readout_is_part_of_the_pass(shape: tuple[int, ...]) -> None:
    B, T, H, k_top, k_att, k_trunc = shape
    x, p = noise(B, T, 4, dtype=torch.float64), parameters(H, 4, torch.float64)
    sparsity = Sparsity(k_top=k_top, k_att=k_att, k_trunc=k_trunc)
    truth = readout_results(by_equations, x, p, sparsity)
    check_same(readout_results(dispatch_predict, x, p, sparsity), truth, 1e-9)
    with torch.no_grad():
        V, b = noise(7, 2 * H, dtype=x.dtype), noise(7, dtype=x.dtype)
        state = reference.initial_state(B, p)
        found, true = (
            predict(x, state, p, (V, b), **sparsity) for predict in (dispatch_predict, by_equations)
        )
    torch.testing.assert_close(found[0], true[0])
    torch.testing.assert_close(found[1].memory, true[1].memory)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_inputs_that_are_mostly_zero(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    B, T, H, k_top, k_att, k_trunc = shape
    x, p = noise(B, T, 20, dtype=dtype), parameters(H, 20, dtype)
    x[noise(B, T, 20, dtype=dtype, seed=3) < 1.5] = 0
    sparsity = Sparsity(k_top=k_top, k_att=k_att, k_trunc=k_trunc)
    truth = results(reference.sab, x.double(), to(p, torch.float64), sparsity)
    rounded = results(reference.sab, x, p, sparsity)
    check_same(results(dispatch_sab, x, p, sparsity), truth, TOLERANCE[dtype], rounded)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("inputs", [1, 17, 32, 33])
def test_any_number_of_inputs(inputs: int, dtype: torch.dtype) -> None:
    x, p = noise(3, 9, inputs, dtype=dtype), parameters(17, inputs, dtype)
    sparsity = Sparsity(k_top=3, k_att=2, k_trunc=4)
    truth = results(reference.sab, x.double(), to(p, torch.float64), sparsity)
    rounded = results(reference.sab, x, p, sparsity)
    check_same(results(dispatch_sab, x, p, sparsity), truth, TOLERANCE[dtype], rounded)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.usefixtures("_two_threads")
def test_two_threads(dtype: torch.dtype) -> None:
    x, p = noise(7, 20, 4, dtype=dtype), parameters(17, 4, dtype)
    sparsity = Sparsity(k_top=3, k_att=2, k_trunc=5)
    truth = results(reference.sab, x, p, sparsity)
    found = results(dispatch_sab, x, p, sparsity)
    check_same(found, truth, TOLERANCE[dtype])
    again = results(dispatch_sab, x, p, sparsity)
    assert all(torch.equal(found[name], again[name]) for name in found)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_same_bits_whatever_was_computed_before(dtype: torch.dtype) -> None:
    x, p = noise(5, 20, 4, dtype=dtype), parameters(17, 4, dtype)
    sparsity = Sparsity(k_top=3, k_att=2, k_trunc=5)
    first = results(dispatch_sab, x, p, sparsity)
    results(dispatch_sab, noise(9, 31, 4, dtype=dtype), p, Sparsity(k_top=7, k_att=1, k_trunc=0))
    BUFFERS.poisoned = False
    again = results(dispatch_sab, x, p, sparsity)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_k_top_changes_between_two_calls() -> None:
    x, p = noise(3, 30, 4, dtype=torch.float64), parameters(17, 4, torch.float64)
    for k_top in (1000, 5, 2, 1):
        sparsity = Sparsity(k_top=k_top, k_att=1, k_trunc=5)
        check_same(
            results(dispatch_sab, x, p, sparsity), results(reference.sab, x, p, sparsity), 1e-9
        )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_large_inputs_stay_finite(dtype: torch.dtype) -> None:
    x, p = 100 * noise(3, 30, 4, dtype=dtype), parameters(17, 4, dtype)
    sparsity = Sparsity(k_top=3, k_att=2, k_trunc=5)
    truth = results(reference.sab, x.double(), to(p, torch.float64), sparsity)
    rounded = results(reference.sab, x, p, sparsity)
    check_same(results(dispatch_sab, x, p, sparsity), truth, TOLERANCE[dtype], rounded)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("keys", "query"), [(100.0, 1.0), (1.0, 40.0), (60.0, 60.0), (1e4, 1e4)])
def test_keys_and_queries_whose_exponential_overflows(
    keys: float, query: float, dtype: torch.dtype
) -> None:
    p = parameters(17, 4, dtype)
    p = replace(p, W1=p.W1 * keys, W2=p.W2 * query)
    x = noise(4, 30, 4, dtype=dtype)
    x[0] = 0  # one example whose scores stay small for longer
    sparsity = Sparsity(k_top=3, k_att=2, k_trunc=5)
    truth = results(reference.sab, x.double(), to(p, torch.float64), sparsity)
    rounded = roundings(x, p, sparsity)
    found = results(dispatch_sab, x, p, sparsity)
    # Nearly saturated scores are so close to each other that Σ w is mostly rounding error, and
    # the gradients in float32 are meaningless.
    if dtype is torch.float32:
        assert all(tensor.isfinite().all() for tensor in found.values())
        truth = {name: truth[name] for name in ("hidden", "summary")}
    check_same(found, truth, max(TOLERANCE[dtype], 1e-7), *rounded)


@pytest.mark.parametrize("H", [17, 64])
@pytest.mark.parametrize("k_att", [1, 3, 20])
def test_segments_equal_the_whole_sequence(H: int, k_att: int) -> None:
    x, p = noise(3, 300, 4, dtype=torch.float64), parameters(H, 4, torch.float64, scale=0.5)
    x[:, 20:150] *= 0.02  # scores change slowly, then quickly
    sparsity = Sparsity(k_top=3, k_att=k_att, k_trunc=7)
    with torch.no_grad():
        truth = reference.sab(x, reference.initial_state(3, p), p, **sparsity)
        for cuts in ((), (1, 3, 40), (150,)):
            state = reference.initial_state(3, p)
            parts = []
            for stretch in x.tensor_split(cuts, dim=1):
                hidden, summary, state = dispatch_sab(stretch, state, p, **sparsity)
                parts.append((hidden, summary))
            for got, true in zip(zip(*parts, strict=True), truth[:2], strict=True):
                torch.testing.assert_close(torch.cat(got, dim=1), true, rtol=0, atol=1e-9)
            for name in ("h", "c", "memory", "keys"):
                torch.testing.assert_close(getattr(state, name), getattr(truth[2], name))
            assert state.step == truth[2].step


def test_two_continuations_of_one_state() -> None:
    x, p = noise(2, 40, 4, dtype=torch.float64), parameters(17, 4, torch.float64)
    sparsity = Sparsity(k_top=3, k_att=2, k_trunc=5)
    with torch.no_grad():
        state = dispatch_sab(x, reference.initial_state(2, p), p, **sparsity)[2]
        ways = [dispatch_sab(step * x, state, p, **sparsity) for step in (1, 2, 1)]
        for name in ("h", "c", "memory", "keys"):
            torch.testing.assert_close(getattr(ways[0][2], name), getattr(ways[2][2], name))
        truth = reference.sab(2 * x, state, p, **sparsity)
    torch.testing.assert_close(ways[1][0], truth[0])
    torch.testing.assert_close(ways[1][2].memory, truth[2].memory)


@pytest.mark.parametrize("k_trunc", [0, 4])
def test_gradients_from_a_carried_state(k_trunc: int) -> None:
    x, p = noise(3, 30, 4, dtype=torch.float64), parameters(17, 4, torch.float64)
    sparsity = Sparsity(k_top=3, k_att=2, k_trunc=k_trunc)
    with torch.no_grad():
        state = reference.sab(x[:, :13], reference.initial_state(3, p), p, **sparsity)[2]
    found, truth = (
        results(sab, x[:, 13:], p, sparsity, state) for sab in (dispatch_sab, reference.sab)
    )
    check_same(found, truth, 1e-9)


def test_another_pass_computes_gradients_of_a_state() -> None:
    x, p = noise(2, 5, 4, dtype=torch.float64), parameters(5, 4, torch.float64)
    state = reference.initial_state(2, p)
    h = state.h.clone().requires_grad_()
    hidden, _, _ = dispatch_sab(x, replace(state, h=h), p, k_top=2, k_att=1, k_trunc=0)
    hidden.sum().backward()  # type: ignore[no-untyped-call]
    assert h.grad is not None
    assert h.grad.abs().sum() > 0


def test_another_epsilon() -> None:
    x, p = noise(2, 20, 4, dtype=torch.float64), parameters(5, 4, torch.float64)
    state, rule = reference.initial_state(2, p), reference.Rule(epsilon=0.1)
    found, truth = (
        sab(x, state, p, k_top=2, k_att=1, k_trunc=3, rule=rule)[0]
        for sab in (dispatch_sab, reference.sab)
    )
    torch.testing.assert_close(found, truth)


def test_gradients_of_any_strides() -> None:
    x, p = noise(3, 8, 4, dtype=torch.float64), parameters(16, 4, torch.float64)
    W1 = p.W1.requires_grad_()
    found = []
    for sab, view in itertools.product((dispatch_sab, reference.sab), ("expanded", "transposed")):
        state = reference.initial_state(3, p)
        hidden, summary, _ = sab(x, state, p, k_top=2, k_att=1, k_trunc=3)
        if view == "expanded":
            hidden.sum().backward()
        else:
            (
                hidden.transpose(0, 2) * summary.detach().transpose(0, 2).contiguous()
            ).sum().backward()
        assert W1.grad is not None
        found.append(W1.grad)
        W1.grad = None
    torch.testing.assert_close(found[:2], found[2:])


def test_a_second_backward_pass() -> None:
    """A retained graph gives the same bits again."""
    x, p = noise(2, 5, 4, dtype=torch.float64), parameters(5, 4, torch.float64)
    p.W1.requires_grad_()
    hidden, _, _ = dispatch_sab(x, reference.initial_state(2, p), p, k_top=2, k_att=1, k_trunc=0)
    loss = hidden.square().sum()
    (first,) = torch.autograd.grad(loss, p.W1, retain_graph=True)
    (again,) = torch.autograd.grad(loss, p.W1)
    assert torch.equal(first, again)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, p.W1)


def test_golden_run() -> None:
    with np.load(GOLDEN) as file:
        golden = {
            name: torch.from_numpy(file[name]) for name in file if file[name].dtype.kind == "f"
        }
        sparsity = Sparsity(
            k_top=int(file["k_top"]), k_att=int(file["k_att"]), k_trunc=int(file["k_trunc"])
        )
    p = Parameters(**{name: golden["param/" + name].requires_grad_() for name in NAMES})
    state = reference.initial_state(golden["x"].shape[0], p)
    hidden, summary, _ = dispatch_sab(golden["x"], state, p, **sparsity)
    logits = reference.readout(hidden, summary, golden["param/fc_weight"], golden["param/fc_bias"])
    (logits * golden["cotangent"]).sum().backward()  # type: ignore[no-untyped-call]
    found = {"hidden": hidden, "summary": summary, "logits": logits}
    found |= {"grad/" + name: getattr(p, name).grad for name in NAMES}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.detach(), golden[name], rtol=1e-10, atol=1e-10)
