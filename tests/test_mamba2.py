"""Test Mamba-2 against its recurrence, written out step by step."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sabtune.errors import ConfigError
from sabtune.models import Mamba2
from sabtune.ops.ssd import ssd
from sabtune.seeding import Stream, generator

B, T, I, O = 3, 19, 4, 5
SIZES: dict[str, Any] = {"hidden": 6, "heads": 3, "state_size": 5}


def built(seed: int = 0, **values: Any) -> Any:
    config = Mamba2.Config(**SIZES | values)
    drawn = generator(seed, Stream.INITIALIZATION)
    model = config.build(I, O, steps=T, generator=drawn).double()
    assert isinstance(model, Mamba2)
    return model


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed, Stream.TEST))


def normed(x: Tensor, weight: Any) -> Any:
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * weight


def by_equations(model: Any, u: Tensor) -> Any:
    """Compute the logits layer by layer and step by step, with the equations of the paper."""
    E, N, heads = model.config.inner, model.config.state_size, model.config.heads
    K = model.config.conv_width
    hidden = u @ model.embedding.weight.T + model.embedding.bias
    for layer in model.layers:
        rows = normed(hidden, layer.norm.weight) @ layer.in_proj.weight.T
        z, inputs, dt = rows.split([E, E + 2 * N, heads], dim=-1)
        before = [torch.zeros_like(inputs[:, 0])] * (K - 1) + list(inputs.unbind(1))
        state, out = u.new_zeros(len(u), heads, E // heads, N), []
        for t in range(u.shape[1]):
            seen = sum(layer.conv_weight[k] * before[t + k] for k in range(K)) + layer.conv_bias
            x, b, c = (seen * seen.sigmoid()).split([E, N, N], dim=-1)
            x = x.view(len(u), heads, -1)
            step = softplus(dt[:, t] + layer.dt_bias)[:, :, None]
            decay = torch.exp(-layer.A_log.exp()[:, None] * step)
            added = torch.einsum("bhp,bn->bhpn", step * x, b)
            state = decay[..., None] * state + added
            y = torch.einsum("bhpn,bn->bhp", state, c) + layer.D[:, None] * x
            gated = y.flatten(1) * z[:, t] * z[:, t].sigmoid()
            out.append(normed(gated, layer.gated_norm.weight) @ layer.out_proj.weight.T)
        hidden = hidden + torch.stack(out, dim=1)
    return normed(hidden, model.norm.weight) @ model.V.T + model.b


@pytest.mark.parametrize("chunk", [1, 4, 7, 19, 64])
@pytest.mark.parametrize("conv_width", [4, 1])
def test_it_is_that_of_its_equations(chunk: int, conv_width: int) -> None:
    model, x = built(chunk=chunk, conv_width=conv_width), 3 * noise(B, T, I)
    ours, theirs = model(x)[0], by_equations(model, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    cotangent = noise(*ours.shape, seed=1)
    gradients = [
        torch.autograd.grad((logits * cotangent).sum(), list(model.parameters()))
        for logits in (ours, theirs)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def sequential(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    out = []
    for t in range(x.shape[1]):
        added = torch.einsum("bn,bhp->bnhp", B[:, t], dt[:, t, :, None] * x[:, t])
        state = torch.exp(dt[:, t] * A)[:, None, :, None] * state + added
        out.append(torch.einsum("bn,bnhp->bhp", C[:, t], state))
    return torch.stack(out, dim=1), state


def operands(steps: int, speed: float = 1.0) -> list[Tensor]:
    """Return the arguments of `ssd`; log decays have the size `speed`."""
    h, P, N = 3, 2, 4
    return [
        noise(B, steps, h, P),
        speed * noise(B, steps, h, seed=1).exp(),
        -noise(h, seed=2).exp(),
        noise(B, steps, N, seed=3),
        noise(B, steps, N, seed=4),
        noise(B, N, h, P, seed=5),
    ]


@pytest.mark.parametrize("steps", [1, 2, 31, 32, 33, 100])
@pytest.mark.parametrize("chunk", [1, 8, 32])
def test_chunks_are_the_recurrence_from_any_state(steps: int, chunk: int) -> None:
    found = []
    runs: list[Any] = [partial(ssd, chunk=chunk), sequential]
    for run in runs:
        given = [leaf.clone().requires_grad_() for leaf in operands(steps)]
        y, last = run(*given)
        loss = (y * noise(*y.shape, seed=6)).sum() + (last * noise(*last.shape, seed=7)).sum()
        found.append((y, last, *torch.autograd.grad(loss, given)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("speed", [1e-4, 1.0, 1e3])
def test_chunks_are_accurate_in_single_precision(speed: float) -> None:
    """Neither slow nor fast decays overflow, or give gradients that are not finite."""
    given = [leaf.float() for leaf in operands(2000, speed)]
    given[1] = given[1] / max(1.0, speed)  # inputs of size 1, decays of size `speed`
    given[2] = given[2] * max(1.0, speed)
    exact, _ = sequential(*(leaf.double() for leaf in given))
    leaves = [leaf.requires_grad_() for leaf in given]
    run: Any = partial(ssd, chunk=32)
    y, _ = run(*leaves)
    scale = exact.abs().max()
    torch.testing.assert_close(y.double() / scale, exact / scale, rtol=0, atol=1e-5)
    for gradient in torch.autograd.grad(y.sum(), leaves):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("pieces", [(1,) * 19, (5, 1, 13), (2, 3, 7, 7)])
def test_a_sequence_in_odd_pieces_gives_the_same_logits(pieces: tuple[int, ...]) -> None:
    model, x = built(chunk=4), noise(B, T, I)
    whole, end = model(x)
    logits, state = [], None
    for piece in x.split(pieces, dim=1):  # type: ignore[no-untyped-call]
        out, state = model(piece, state)
        logits.append(out)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, rtol=1e-10, atol=1e-10)
    assert state is not None
    torch.testing.assert_close(state.ssm, end.ssm)
    torch.testing.assert_close(state.conv, end.conv)


def test_state_passing_starts_from_the_final_states_of_every_layer() -> None:
    model, before, x = built(), noise(B, T, I, seed=1), noise(B, T, I)
    _, state = model(before)
    passed = model.restart(state)
    assert passed.step == 0
    assert not passed.ssm.requires_grad
    continued = model(torch.cat([before, x], dim=1))[0][:, T:]
    torch.testing.assert_close(model(x, passed)[0], continued)
    assert not torch.allclose(model(x)[0], continued)


def test_the_initial_values_are_those_of_the_authors() -> None:
    model = built(hidden=500, heads=500)
    for layer in model.layers:
        decay, step = layer.A_log.detach().exp(), softplus(layer.dt_bias).detach()
        assert 1 <= decay.min() < 1.5 < 15.5 < decay.max() <= 16
        assert 1e-3 <= step.min() < 1.2e-3 < 0.08 < step.max() <= 0.1001
        assert float(step.log().mean().exp()) == pytest.approx(1e-2, rel=0.15)
        assert torch.equal(layer.D, torch.ones(500, dtype=torch.float64))
        assert isinstance(layer.in_proj, nn.Linear)
        assert layer.in_proj.bias is None


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"hidden": 7, "heads": 4},
            "hidden is 7: give a multiple of 2 for heads=4 and expand=2, or other heads",
        ),
        ({"state_size": 0}, "state_size is 0: give a whole number of at least 1"),
        ({"chunk": 0}, "chunk is 0: give a whole number of at least 1"),
        ({"conv_width": 0}, "conv_width is 0: give a whole number of at least 1"),
        ({"layers": 65}, "layers is 65: give a whole number from 1 to 64"),
        ({"expand": 0}, "expand is 0: give a whole number of at least 1"),
    ],
)
def test_values_out_of_range_are_named(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Mamba2.Config(**values)
