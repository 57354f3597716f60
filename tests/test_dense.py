"""Compare compiled self-attention with its equations: values and every gradient."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial

import pytest
import torch
from torch import Tensor

from sabtune.models import SelfAttention
from sabtune.ops import self_attention
from sabtune.ops.compiled import backend
from sabtune.ops.compiled.buffers import BUFFERS
from sabtune.ops.compiled.dense_call import DenseCall
from sabtune.ops.reference import Parameters
from sabtune.ops.self_attention import DENSE, Attention, State
from sabtune.seeding import Stream, generator
from tests.fused_cases import NAMES, check_same, noise, parameters, to

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
SHAPES = [*itertools.product((1, 3, 33), (1, 2, 37), (17, 64)), (2, 9, 300), (5, 150, 80)]
over_dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
Attend = Callable[[Tensor, State, Parameters], tuple[Tensor, Tensor, State]]

pytestmark = pytest.mark.usefixtures("_poisoned")


def beginning(batch: int, p: Parameters) -> State:
    """Return a state with noise for h and c and an empty memory."""
    H, dtype = p.w3.shape[0], p.w3.dtype
    return self_attention.start(*noise(2, batch, H, dtype=torch.float64, seed=5).to(dtype).unbind())


def to_dtype(state: State, dtype: torch.dtype) -> State:
    return State(*(getattr(state, field.name).to(dtype) for field in fields(State)))


def results(attend: Attend, x: Tensor, p: Parameters, state: State) -> dict[str, Tensor]:
    """Return a call's outputs, final state and the gradients of a weighted sum of its outputs."""
    x = x.clone().requires_grad_()
    p = Parameters(**{name: getattr(p, name).clone().requires_grad_() for name in NAMES})
    hidden, summary, after = attend(x, state, p)
    weigh = noise(*hidden.shape, 2, dtype=x.dtype, seed=2)
    (hidden * weigh[..., 0] + summary * weigh[..., 1]).sum().backward()  # type: ignore[no-untyped-call]
    found = {"hidden": hidden, "summary": summary}
    found |= {field.name: getattr(after, field.name) for field in fields(State)}
    leaves = {"x": x} | {name: getattr(p, name) for name in NAMES}
    for name, leaf in leaves.items():
        found["d_" + name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return {name: tensor.detach() for name, tensor in found.items()}


def check(
    x: Tensor,
    p: Parameters,
    state: State | None = None,
    tolerance: float = 0.0,
    attention: Attention = DENSE,
) -> dict[str, Tensor]:
    """Compare the compiled pass with the equations, to `tolerance` or the dtype's if larger."""
    state = state or beginning(x.shape[0], p)
    real = torch.float64
    equations, attend = (
        partial(run, attention=attention)
        for run in (self_attention.equations, self_attention.attend)
    )
    truth = results(equations, x.to(real), to(p, real), to_dtype(state, real))
    found = results(attend, x, p, state)
    rounded = results(equations, x, p, state) if x.dtype != real else None
    check_same(found, truth, max(tolerance, TOLERANCE[x.dtype]), rounded)
    return found


def remembering(steps: int, p: Parameters, batch: int) -> State:
    """Return the state after `steps` steps of noise."""
    x = noise(batch, steps, p.weight_ih.shape[1], dtype=torch.float64, seed=6)
    with torch.no_grad():
        before = to_dtype(beginning(batch, p), torch.float64)
        after = self_attention.equations(x, before, to(p, torch.float64))[2]
    return to_dtype(after, p.w3.dtype)


def test_self_attention_is_compiled() -> None:
    x, p = noise(3, 2, 4, dtype=torch.float32), parameters(5, 4, torch.float32)
    assert not self_attention.unsupported(x, beginning(3, p), p)


@over_dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_as_the_equations(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    B, T, H = shape
    check(noise(B, T, 4, dtype=dtype), parameters(H, 4, dtype))


ATTENTIONS = [
    Attention(weights="sparsemax"),
    Attention(weights="entmax15"),
    Attention(weights="top_k", k_top=1),
    Attention(weights="top_k", k_top=20),
    Attention(form="early"),
]
every_attention = pytest.mark.parametrize("attention", ATTENTIONS, ids=lambda a: a.words + a.form)


@over_dtypes
@every_attention
@pytest.mark.parametrize("shape", [(33, 1, 17), (3, 37, 64), (5, 100, 80)], ids=str)
def test_other_weights(
    shape: tuple[int, int, int], attention: Attention, dtype: torch.dtype
) -> None:
    B, T, H = shape
    p = parameters(H, 4, dtype)
    p = replace(p, w3=p.w3 * 3)  # scores far enough apart for zeros
    x = noise(B, T, 4, dtype=dtype)
    check(x, p, attention=attention)
    check(x[:, :9], p, remembering(21, p, B), attention=attention)
    with torch.no_grad():
        truth = self_attention.equations(x, beginning(B, p), p, attention)[0]
        found = self_attention.attend(x, beginning(B, p), p, attention)[0]
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-3 if dtype is torch.float32 else 1e-9)


@over_dtypes
@every_attention
def test_other_weights_of_extreme_scores(attention: Attention, dtype: torch.dtype) -> None:
    p = parameters(17, 4, dtype)
    x = noise(4, 30, 4, dtype=dtype)
    if attention.weights != "top_k":  # saturated scores are ties, and rounding decides them
        wide = replace(p, W1=p.W1 * 60, W2=p.W2 * 60)
        check(x, wide, remembering(20, wide, 4), 1e-12 * 60, attention)
    apart = replace(p, w3=p.w3 * (0.01 if attention.form == "early" else 100))
    check(x, apart, attention=attention)


@over_dtypes
@pytest.mark.parametrize("k_top", [1, 3, 16, 19, 20, 2**40])
def test_of_equal_scores_the_first_are_kept(k_top: int, dtype: torch.dtype) -> None:
    """All keys are equal, so the weights are equal, too."""
    p, memory = parameters(17, 4, dtype), noise(3, 20, 17, dtype=dtype)
    state = replace(beginning(3, p), memory=memory, keys=torch.zeros_like(memory))
    x, attention = noise(3, 1, 4, dtype=dtype), Attention(weights="top_k", k_top=k_top)
    for attend in (self_attention.equations, self_attention.attend):
        summary = attend(x, state, p, attention)[1]
        torch.testing.assert_close(summary[:, 0], memory[:, :k_top].mean(dim=1))


@every_attention
def test_a_nan_stays_in_its_example_with_other_weights(attention: Attention) -> None:
    x, p = noise(5, 30, 4, dtype=torch.float32), parameters(17, 4, torch.float32)
    with torch.no_grad():
        clean, _, _ = self_attention.attend(x, beginning(5, p), p, attention)
        x[1, 4] = torch.nan
        hidden, _, _ = self_attention.attend(x, beginning(5, p), p, attention)
    assert hidden[1, 4:].isnan().all()
    assert torch.equal(hidden[[0, 2, 3, 4]], clean[[0, 2, 3, 4]])


@over_dtypes
@pytest.mark.parametrize("inputs", [1, 16, 33])
def test_any_number_of_inputs(inputs: int, dtype: torch.dtype) -> None:
    check(noise(3, 9, inputs, dtype=dtype), parameters(17, inputs, dtype))


@over_dtypes
@pytest.mark.parametrize("memories", [1, 16, 23])
@pytest.mark.parametrize("shape", [(1, 1, 17), (3, 37, 64), (33, 12, 17)], ids=str)
def test_from_a_carried_state(
    shape: tuple[int, int, int], memories: int, dtype: torch.dtype
) -> None:
    B, T, H = shape
    p = parameters(H, 4, dtype)
    check(noise(B, T, 4, dtype=dtype), p, remembering(memories, p, B))


@over_dtypes
@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("H", [17, 64])
@pytest.mark.parametrize("batch", [1, 7])
def test_two_threads(batch: int, H: int, dtype: torch.dtype) -> None:
    x, p = noise(batch, 20, 4, dtype=dtype), parameters(H, 4, dtype)
    found = check(x, p)
    again = results(self_attention.attend, x, p, beginning(batch, p))
    assert all(torch.equal(found[name], again[name]) for name in found)


@over_dtypes
def test_same_bits_whatever_was_computed_before(dtype: torch.dtype) -> None:
    x, p = noise(5, 20, 4, dtype=dtype), parameters(17, 4, dtype)
    first = results(self_attention.attend, x, p, beginning(5, p))
    results(self_attention.attend, noise(9, 31, 4, dtype=dtype), p, beginning(9, p))
    BUFFERS.poisoned = False
    again = results(self_attention.attend, x, p, beginning(5, p))
    assert all(torch.equal(first[name], again[name]) for name in first)


@over_dtypes
def test_large_inputs(dtype: torch.dtype) -> None:
    check(100 * noise(3, 37, 4, dtype=dtype), parameters(17, 4, dtype))


@over_dtypes
@pytest.mark.parametrize("memories", [0, 20])
@pytest.mark.parametrize(("keys", "query"), [(100.0, 1.0), (1.0, 40.0), (60.0, 60.0), (1e4, 1e4)])
def test_keys_and_queries_whose_exponential_overflows(
    keys: float, query: float, memories: int, dtype: torch.dtype
) -> None:
    p = parameters(17, 4, dtype)
    p = replace(p, W1=p.W1 * keys, W2=p.W2 * query)
    x = noise(4, 30, 4, dtype=dtype)
    x[0] = 0  # one example whose scores stay small for longer
    # the larger of k and q decides the rounding of k + q
    check(x, p, remembering(memories, p, 4) if memories else None, 1e-12 * max(keys, query))


def test_scores_that_are_far_apart() -> None:
    p = parameters(17, 4, torch.float64)
    p = replace(p, w3=p.w3 * 2000)
    found = check(noise(3, 30, 4, dtype=torch.float64), p)
    assert found["d_w3"].abs().max() > 0


@over_dtypes
def test_a_nan_stays_in_its_example(dtype: torch.dtype) -> None:
    """A NaN in the input appears in the output, but only in its own example."""
    x, p = noise(5, 9, 4, dtype=dtype), parameters(17, 4, dtype)
    x[1, 4] = torch.nan
    with torch.no_grad():
        hidden, _, _ = self_attention.attend(x, beginning(5, p), p)
    lost = hidden.isnan().all(dim=2)
    assert lost[1].tolist() == [False] * 4 + [True] * 5
    assert not lost[[0, 2, 3, 4]].any()


@pytest.mark.parametrize("H", [17, 64])
def test_segments_equal_the_whole_sequence(H: int) -> None:
    x, p = noise(3, 100, 4, dtype=torch.float64), parameters(H, 4, torch.float64)
    with torch.no_grad():
        truth = self_attention.equations(x, beginning(3, p), p)
        for cuts in ((), (1, 3, 40), (64,)):
            state, parts = beginning(3, p), []
            for stretch in x.tensor_split(cuts, dim=1):
                hidden, summary, state = self_attention.attend(stretch, state, p)
                parts.append((hidden, summary))
            for got, true in zip(zip(*parts, strict=True), truth[:2], strict=True):
                torch.testing.assert_close(torch.cat(got, dim=1), true, rtol=0, atol=1e-12)
            for field in fields(State):
                found, true = (getattr(s, field.name) for s in (state, truth[2]))
                torch.testing.assert_close(found, true, rtol=0, atol=1e-12)


def model_of(hidden: int) -> SelfAttention:
    config = SelfAttention.Config(hidden=hidden)
    made = config.build(4, 3, steps=20, generator=generator(0, Stream.INITIALIZATION)).double()
    assert isinstance(made, SelfAttention)
    return made


@pytest.mark.parametrize("span", [0, 7, 30])
def test_updates_that_carry_a_state(span: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make three updates, each from the state that the previous one left, trimmed to `span`."""
    x = noise(3, 45, 4, dtype=torch.float64)
    weights = []
    for compiled in (True, False):
        monkeypatch.setattr(backend, "HAS_NUMBA", compiled)
        model = model_of(17)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        state = None
        for stretch in x.split(15, dim=1):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            logits, after = model(stretch, state)
            logits.square().mean().backward()
            optimizer.step()
            state = model.carry(after, span)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert (
        weights[0] - torch.cat([p.flatten() for p in model_of(17).parameters()])
    ).abs().max() > 0
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["h", "c", "memory", "keys"])
def test_the_equations_compute_gradients_of_a_state(name: str) -> None:
    x, p = noise(2, 5, 4, dtype=torch.float64), parameters(5, 4, torch.float64)
    state = remembering(3, p, 2)
    leaf = getattr(state, name).clone().requires_grad_()
    state = replace(state, **{name: leaf})
    assert self_attention.unsupported(x, state, p)
    self_attention.attend(x, state, p)[0].sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() > 0
    with torch.no_grad():
        assert not self_attention.unsupported(x, state, p)


def test_the_equations_compute_other_dtypes() -> None:
    x, p = noise(2, 5, 4, dtype=torch.bfloat16), parameters(5, 4, torch.bfloat16)
    state = beginning(2, p)
    assert self_attention.unsupported(x, state, p)
    hidden, _, _ = self_attention.attend(x, state, p)
    assert hidden.dtype is torch.bfloat16
    assert self_attention.unsupported(x.float(), state, p)


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    x, p = noise(2, 5, 4, dtype=torch.float64), parameters(5, 4, torch.float64)
    monkeypatch.setattr(backend, "HAS_NUMBA", False)
    assert self_attention.unsupported(x, beginning(2, p), p)
    found, truth = (
        f(x, beginning(2, p), p)[0] for f in (self_attention.attend, self_attention.equations)
    )
    assert torch.equal(found, truth)


def test_the_initial_state_is_not_modified() -> None:
    p = parameters(16, 4, torch.float64)
    state = remembering(3, p, 2)
    copies = [getattr(state, field.name).clone() for field in fields(State)]
    results(self_attention.attend, noise(2, 5, 4, dtype=torch.float64), p, state)
    assert all(
        torch.equal(getattr(state, f.name), c) for f, c in zip(fields(State), copies, strict=True)
    )


@pytest.mark.parametrize("kept", [0, 1])
def test_gradients_of_one_output_only(kept: int) -> None:
    x, p = noise(3, 8, 4, dtype=torch.float64), parameters(16, 4, torch.float64)
    found = []
    for attend in (self_attention.attend, self_attention.equations):
        W2 = p.W2.clone().requires_grad_()
        output = attend(x, beginning(3, p), replace(p, W2=W2))[:2][kept]
        output.sum().backward()  # type: ignore[no-untyped-call]
        found.append(W2.grad)
    torch.testing.assert_close(found[0], found[1])


def test_gradients_of_any_strides() -> None:
    x, p = noise(3, 8, 4, dtype=torch.float64), parameters(16, 4, torch.float64)
    W1 = p.W1.requires_grad_()
    found = []
    for attend in (self_attention.attend, self_attention.equations):
        hidden, summary, _ = attend(x, beginning(3, p), p)
        turned = summary.detach().transpose(0, 2).contiguous()
        (hidden.transpose(0, 2) * turned).sum().backward()  # type: ignore[no-untyped-call]
        found.append(W1.grad)
        W1.grad = None
    torch.testing.assert_close(found[0], found[1])


def test_a_second_backward_pass() -> None:
    """Check that a retained graph gives the same bits again and that a freed graph raises."""
    x, p = noise(2, 5, 4, dtype=torch.float64), parameters(5, 4, torch.float64)
    p.W1.requires_grad_()
    hidden, _, _ = self_attention.attend(x, beginning(2, p), p)
    loss = hidden.square().sum()
    (first,) = torch.autograd.grad(loss, p.W1, retain_graph=True)
    (again,) = torch.autograd.grad(loss, p.W1)
    assert torch.equal(first, again)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, p.W1)


def test_modified_outputs_are_detected() -> None:
    x, p = noise(2, 5, 4, dtype=torch.float64), parameters(16, 4, torch.float64)
    p.W1.requires_grad_()
    hidden, summary, _ = self_attention.attend(x, beginning(2, p), p)
    with torch.no_grad():
        hidden.zero_()
    with pytest.raises(RuntimeError, match="inplace operation"):
        summary.sum().backward()  # type: ignore[no-untyped-call]


@over_dtypes
def test_memory_for_the_backward_pass_is_not_hidden_size_per_pair_of_steps(
    dtype: torch.dtype,
) -> None:
    B, T, H = 2, 200, 64
    x, p = noise(B, T, 4, dtype=dtype), parameters(H, 4, dtype)
    state = beginning(B, p)
    tape = DenseCall(x, (state.h, state.c, state.memory, state.keys), p, DENSE).compute(keep=True)
    kept = sum(array.nbytes for array in tape.workspace.arrays)
    assert kept < 0.2 * B * T * T / 2 * H * x.itemsize
    tape.release()
