"""Test the recurrent models and h-detach against their equations, written out step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sabtune.config import PARTS, TrialConfig
from sabtune.errors import ConfigError
from sabtune.models import GRU, LSTM, SLSTM, MinGRU, MinLSTM, Model, ModelConfig
from sabtune.ops.scan import scan
from sabtune.schema import from_dict, to_dict
from sabtune.seeding import Stream, generator

B, T, I, O, H = 3, 19, 4, 5, 6


def built(config: ModelConfig, seed: int = 0) -> Any:
    drawn = generator(seed, Stream.INITIALIZATION)
    return config.build(I, O, steps=T, generator=drawn).double()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed, Stream.TEST))


def gradients(model: Model, logits: Tensor) -> list[Tensor]:
    cotangent = noise(*logits.shape, seed=1)
    return list(torch.autograd.grad((logits * cotangent).sum(), list(model.parameters())))


def check_same(model: Model, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Check that a model and a function that uses its weights give equal logits and gradients."""
    ours, theirs = model(x)[0], run(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    for one, other in zip(gradients(model, ours), gradients(model, theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


# GRU


@pytest.mark.parametrize("k_trunc", [0, 1, 5])
def test_a_gru_is_that_of_its_equations(k_trunc: int) -> None:
    model = built(GRU.Config(hidden=H, k_trunc=k_trunc))
    assert isinstance(model, GRU)
    gru: Any = model.gru

    def run(x: Tensor) -> Tensor:
        h, hidden = x.new_zeros(B, H), []
        for t in range(T):
            if k_trunc and t % k_trunc == 0:
                h = h.detach()
            of_x = (x[:, t] @ gru.weight_ih_l0.T + gru.bias_ih_l0).chunk(3, dim=1)
            of_h = (h @ gru.weight_hh_l0.T + gru.bias_hh_l0).chunk(3, dim=1)
            r, z = ((a + b).sigmoid() for a, b in zip(of_x[:2], of_h[:2], strict=True))
            h = (1 - z) * (of_x[2] + r * of_h[2]).tanh() + z * h
            hidden.append(h)
        return torch.stack(hidden, dim=1) @ model.V.T + model.b

    check_same(model, run, noise(B, T, I))


def test_a_gru_equals_that_of_torch() -> None:
    model = built(GRU.Config(hidden=H))
    theirs = nn.GRU(I, H, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict(model.gru.state_dict())
    x = noise(B, 2 * T, I)
    hidden, h = theirs(x)
    logits, state = model(x)
    torch.testing.assert_close(logits, hidden @ model.V.T + model.b)
    torch.testing.assert_close(state.h, h[0])


# sLSTM


def slstm_by_equations(model: SLSTM, x: Tensor) -> Tensor:
    """Compute the logits with the cell, the normalizer and the stabilizer of the paper."""
    h, c, n = (x.new_zeros(len(x), H) for _ in range(3))
    m, hidden = x.new_full((len(x), H), -torch.inf), []
    for t in range(x.shape[1]):
        gates = x[:, t] @ model.weight_ih.T + h @ model.weight_hh.T + model.bias
        i, f, z, o = gates.chunk(4, dim=1)
        forget = f.sigmoid().log()
        before, m = m, torch.maximum(forget + m, i).detach()
        i, f = (i - m).exp(), (forget + before - m).exp()
        c, n = f * c + i * z.tanh(), f * n + i
        h = o.sigmoid() * c / n
        hidden.append(h)
    return torch.stack(hidden, dim=1) @ model.V.T + model.b


def test_an_slstm_is_that_of_its_equations() -> None:
    model = built(SLSTM.Config(hidden=H, forget_bias=1.0))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    check_same(model, lambda x: slstm_by_equations(model, x), 3 * noise(B, T, I))


def test_an_slstm_has_gradients_through_its_state() -> None:
    model, x = built(SLSTM.Config(hidden=H)), noise(B, T, I)
    state, logits = None, []
    for piece in x.split((5, 1, 13), dim=1):  # type: ignore[no-untyped-call]
        out, state = model(piece, state)
        logits.append(out)
    check_same(model, lambda _: torch.cat(logits, dim=1), x)


@pytest.mark.parametrize("size", [1e-3, 1e3, 1e5])
def test_the_exponential_gates_of_an_slstm_overflow_nowhere(size: float) -> None:
    model = built(SLSTM.Config(hidden=H)).float()
    x = (size * noise(B, 200, I)).float().requires_grad_()
    logits, _ = model(x)
    assert logits.isfinite().all()
    for gradient in torch.autograd.grad(logits.sum(), [x, *model.parameters()]):
        assert gradient.isfinite().all()


# The parallel scan


def sequential(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    h, hidden = start, []
    for a_t, b_t in zip(a, b, strict=True):
        h = a_t * h + b_t
        hidden.append(h)
    return torch.stack(hidden)


def in_log_space(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """Compute the scan as in the paper's appendix, for positive numbers."""
    sums = nn.functional.pad(a.log().cumsum(0), (0, 0, 0, 0, 1, 0))
    values = torch.cat([start[None], b]).log()
    return (sums + (values - sums).logcumsumexp(0)).exp()[1:]


def coefficients(steps: int, size: float = 1.0) -> list[Tensor]:
    """Return a_t, b_t and h_0, all positive; log a_t has this size."""
    a = (-size * noise(steps, 2, 3).abs()).exp()
    return [a, noise(steps, 2, 3, seed=1).exp(), noise(2, 3, seed=2).exp()]


@pytest.mark.parametrize("truth", [sequential, in_log_space])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 63, 64, 120, 300])
def test_the_scan_is_the_recurrence(truth: Any, steps: int) -> None:
    found = []
    for run in (scan, truth):
        given = [leaf.clone().requires_grad_() for leaf in coefficients(steps)]
        h = run(*given)
        weights = noise(*h.shape, seed=3)
        found.append((h, *torch.autograd.grad((h * weights).sum(), given)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_the_scan_has_second_derivatives() -> None:
    given = [leaf.requires_grad_() for leaf in coefficients(11)]
    given[2] = (-given[2]).detach().requires_grad_()
    assert torch.autograd.gradcheck(scan, given)
    assert torch.autograd.gradgradcheck(scan, given)


@pytest.mark.parametrize("size", [0.001, 1.0, 10.0, 200.0])
def test_the_scan_is_accurate_in_single_precision(size: float) -> None:
    """The difference of cumulative sums in log space is wrong by up to 100 % for gates of 200."""
    given = [leaf.float() for leaf in coefficients(3000, size)]
    exact = sequential(*(leaf.double() for leaf in given))
    leaves = [leaf.requires_grad_() for leaf in given]
    h = scan(*leaves)
    torch.testing.assert_close(h.double(), exact, rtol=2e-5, atol=0)
    for gradient in torch.autograd.grad(h.sum(), leaves):
        assert gradient.isfinite().all()


# minGRU and minLSTM


def g(x: Tensor) -> Tensor:
    return torch.where(x >= 0, x + 0.5, x.sigmoid())


def min_gru_step(parts: tuple[Tensor, ...], h: Tensor) -> Tensor:
    z, candidate = parts[0].sigmoid(), g(parts[1])
    return (1 - z) * h + z * candidate


def min_lstm_step(parts: tuple[Tensor, ...], h: Tensor) -> Tensor:
    f, i = parts[0].sigmoid(), parts[1].sigmoid()
    return f / (f + i) * h + i / (f + i) * g(parts[2])


MINIMAL = pytest.mark.parametrize(
    ("kind", "step"),
    [(MinGRU.Config, min_gru_step), (MinLSTM.Config, min_lstm_step)],
    ids=["mingru", "minlstm"],
)


@MINIMAL
@pytest.mark.parametrize("layers", [1, 3])
def test_a_minimal_model_is_that_of_its_equations(kind: Any, step: Any, layers: int) -> None:
    model = built(kind(hidden=H, layers=layers))

    def run(x: Tensor) -> Tensor:
        hidden = x
        for projection in model.projections:
            h, out = x.new_zeros(B, H), []
            for t in range(T):
                parts = (hidden[:, t] @ projection.weight.T + projection.bias).chunk(
                    len(projection.bias) // H, dim=1
                )
                h = step(parts, h)
                out.append(h)
            hidden = torch.stack(out, dim=1)
        logits: Tensor = hidden @ model.V.T + model.b
        return logits

    check_same(model, run, 3 * noise(B, T, I))


@MINIMAL
def test_a_minimal_model_continues_from_a_state_of_any_sign(kind: Any, step: Any) -> None:
    model = built(kind(hidden=H, layers=1))
    start = model.random_start(B, 2.0, generator(0, Stream.STATES))
    start = type(start)(start.h.double(), 0)
    assert (start.h < 0).any()
    x = noise(B, 1, I)
    (projection,) = model.projections
    parts = (x[:, 0] @ projection.weight.T + projection.bias).chunk(len(projection.bias) // H, 1)
    _, after = model(x, start)
    torch.testing.assert_close(after.h[:, 0], step(parts, start.h[:, 0]))


def test_forget_bias_opens_the_forget_gates_of_every_layer() -> None:
    plain, opened = (
        built(MinLSTM.Config(hidden=H, forget_bias=by)).state_dict() for by in (0.0, 1.5)
    )
    changed = {name for name in plain if not torch.equal(plain[name], opened[name])}
    assert changed == {"projections.0.bias", "projections.1.bias"}
    by = torch.tensor([1.5, 0.0, 0.0], dtype=torch.float64).repeat_interleave(H)
    for name in changed:
        torch.testing.assert_close(opened[name] - plain[name], by)


@pytest.mark.parametrize("kind", [MinGRU.Config, MinLSTM.Config])
@pytest.mark.parametrize("layers", [0, 65])
def test_a_number_of_layers_out_of_range_is_named(kind: Any, layers: int) -> None:
    with pytest.raises(ConfigError, match=f"layers is {layers}: give a whole number"):
        kind(layers=layers)


# h-detach


def detaching(model: LSTM, x: Tensor, steps: set[int], k_trunc: int) -> Tensor:
    """Run an LSTM step by step, whose gates see a detached h at these steps."""
    lstm: Any = model.lstm
    h, c, hidden = x.new_zeros(B, H), x.new_zeros(B, H), []
    for t in range(x.shape[1]):
        if k_trunc and t % k_trunc == 0:
            h, c = h.detach(), c.detach()
        seen = h.detach() if t in steps else h
        gates = x[:, t] @ lstm.weight_ih_l0.T + lstm.bias_ih_l0
        gates = gates + seen @ lstm.weight_hh_l0.T + lstm.bias_hh_l0
        i, f, candidate, o = gates.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * candidate.tanh()
        h = o.sigmoid() * c.tanh()
        hidden.append(h)
    return torch.stack(hidden, dim=1) @ model.V.T + model.b


@pytest.mark.parametrize("p", [0.3, 1.0])
@pytest.mark.parametrize("k_trunc", [0, 4])
def test_h_detach_blocks_the_gradient_through_h_alone(p: float, k_trunc: int) -> None:
    model = built(LSTM.Config(hidden=H, h_detach=p, k_trunc=k_trunc))
    steps = set(model.detached_steps(0, T))
    assert 0 < len(steps) < T if p < 1 else steps == set(range(T))
    x = noise(B, T, I)
    check_same(model, lambda x: detaching(model, x, steps, k_trunc), x)
    plain = built(LSTM.Config(hidden=H, k_trunc=k_trunc))
    torch.testing.assert_close(model(x)[0], plain(x)[0], rtol=1e-12, atol=1e-12)
    ours, theirs = (gradients(each, each(x)[0]) for each in (model, plain))
    recurrent = [name for name, _ in model.named_parameters()].index("lstm.weight_hh_l0")
    assert not torch.allclose(ours[recurrent], theirs[recurrent])
    torch.testing.assert_close(gradients(model, model.eval()(x)[0]), theirs)


def test_the_steps_of_h_detach_follow_from_the_seed_and_the_update() -> None:
    model, same, other = (built(LSTM.Config(hidden=H, h_detach=0.25), seed) for seed in (0, 0, 1))
    drawn = []
    for update in range(40):
        for each in (model, same, other):
            each.set_progress(update / 40)
        drawn.append(tuple(model.detached_steps(0, 200)))
        assert drawn[-1] == tuple(same.detached_steps(0, 200))
        assert drawn[-1] != tuple(other.detached_steps(0, 200))
        assert drawn[-1] != tuple(model.detached_steps(200, 200))
    assert len(set(drawn)) == 40
    assert sum(map(len, drawn)) / (40 * 200) == pytest.approx(0.25, abs=0.02)
    with torch.no_grad():
        assert model.detached_steps(0, 200) == []


def test_h_detach_changes_neither_the_weights_nor_the_stored_form_of_an_lstm() -> None:
    plain, detached = LSTM.Config(hidden=H), LSTM.Config(hidden=H, h_detach=0.5)
    one, other = built(plain).state_dict(), built(detached).state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    stored = {"kind": "lstm", "hidden": H, "forget_bias": 0.0, "k_trunc": 0}
    assert to_dict(plain, PARTS) == stored
    assert to_dict(detached, PARTS) == stored | {"h_detach": 0.5}
    for config in (plain, detached):
        trial = TrialConfig(model=config)
        assert from_dict(TrialConfig, to_dict(trial, PARTS), PARTS) == trial


@pytest.mark.parametrize("p", [-0.1, 1.5])
def test_a_probability_out_of_range_is_named(p: float) -> None:
    with pytest.raises(ConfigError, match=f"h_detach is {p}: give a probability from 0 to 1"):
        LSTM.Config(h_detach=p)
