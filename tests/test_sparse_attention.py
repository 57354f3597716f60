"""Test self-attention with other weights than softmax, in training and at test, and its early form.

The truth is the package `entmax`, PyTorch's softmax and topk, and a loop over steps with PyTorch's
LSTM cell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import entmax
import pytest
import torch
from torch import Tensor, nn

from sabtune.config import PARTS, RunConfig, TrialConfig
from sabtune.errors import ConfigError
from sabtune.models import LSTM, SelfAttention
from sabtune.models.layers import SelfAttentionLayer
from sabtune.ops import normalizers
from sabtune.ops.call import VARIABLE
from sabtune.schema import from_dict, to_dict
from sabtune.seeding import Stream, generator
from sabtune.tasks import Copying
from sabtune.training.evaluation import measure
from tests.doc_blocks import block

B, T, I, O, H = 3, 17, 4, 5, 6


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed, Stream.TEST))


def built(**values: Any) -> SelfAttention:
    drawn = generator(0, Stream.INITIALIZATION)
    model = SelfAttention.Config(hidden=H, **values).build(I, O, steps=T, generator=drawn)
    return model.double()


# The normalizers


def top_3(a: Tensor) -> Tensor:
    """Return the softmax of the 3 highest scores, by torch.topk."""
    values, places = a.topk(min(3, a.shape[-1]), dim=-1)
    return torch.zeros_like(a).scatter(-1, places, torch.softmax(values, dim=-1))


Normalizer = Callable[[Tensor], Tensor]

TRUTHS: dict[str, tuple[Normalizer, Normalizer]] = {
    "sparsemax": (normalizers.sparsemax, entmax.sparsemax),
    "entmax15": (normalizers.entmax15, entmax.entmax15),
    "top_k": (lambda a: normalizers.top_k(a, 3), top_3),
}
every_normalizer = pytest.mark.parametrize(("ours", "theirs"), TRUTHS.values(), ids=TRUTHS)


@every_normalizer
@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("M", [1, 2, 4, 300])
def test_a_normalizer_equals_that_of_another_package(
    ours: Normalizer, theirs: Normalizer, M: int, size: float
) -> None:
    a, cotangent = size * noise(7, 2, M), noise(7, 2, M, seed=1)
    found = []
    for normalize in (ours, theirs):
        leaf = a.clone().requires_grad_()
        p = normalize(leaf)
        found.append((p.detach(), torch.autograd.grad((p * cotangent).sum(), leaf)[0]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    p = found[0][0]
    torch.testing.assert_close(p.sum(dim=-1), torch.ones(7, 2, dtype=torch.float64))
    if M == 300 and size >= 1:
        assert (p == 0).double().mean() > 0.5


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # raised by torch
@every_normalizer
def test_a_normalizer_has_first_and_second_derivatives(
    ours: Normalizer, theirs: Normalizer
) -> None:
    a = noise(4, 9).requires_grad_()
    assert torch.autograd.gradcheck(ours, a, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(ours, a)


@every_normalizer
def test_equal_scores_and_extreme_ones(ours: Normalizer, theirs: Normalizer) -> None:
    assert ours(torch.zeros(2, 0)).shape == (2, 0)
    assert ours(torch.tensor([[1e4, -1e4, 0.0]])).tolist() == [[1.0, 0.0, 0.0]]
    equal = ours(torch.full((1, 8), 1e4))
    kept = 3 if theirs is top_3 else 8
    torch.testing.assert_close(equal[0, :kept], torch.full((kept,), 1 / kept))
    assert not equal[0, kept:].any()
    spoilt = noise(2, 8)
    spoilt[0, 3] = torch.nan
    p = ours(spoilt)
    assert p[0].isnan().any()
    torch.testing.assert_close(p[1], theirs(spoilt[1:])[0])


@every_normalizer
def test_half_precision_is_computed_in_single_precision(
    ours: Normalizer, theirs: Normalizer
) -> None:
    a = noise(4, 300).bfloat16()
    p = ours(a)
    assert p.dtype == torch.bfloat16
    if theirs is not top_3:
        torch.testing.assert_close(p.double(), theirs(a.double()), rtol=0.01, atol=1e-4)


# The models

VARIANTS: dict[str, tuple[dict[str, Any], Normalizer]] = {
    "softmax": ({}, lambda a: torch.softmax(a, dim=-1)),
    "sparsemax": ({"weights": "sparsemax"}, entmax.sparsemax),
    "entmax15": ({"weights": "entmax15"}, entmax.entmax15),
    "top_k": ({"weights": "top_k", "k_top": 3}, top_3),
    "early": ({"form": "early"}, lambda a: a),
}
every_variant = pytest.mark.parametrize(("values", "normalize"), VARIANTS.values(), ids=VARIANTS)


def by_steps(model: SelfAttention, x: Tensor, normalize: Normalizer) -> Tensor:
    """Run a model step by step, with PyTorch's LSTM cell and an own normalizer."""
    cell = nn.LSTMCell(I, H, dtype=torch.float64)
    weights: dict[str, Tensor] = dict(model.named_parameters())
    W1, W2, w3, V, b = (weights[name] for name in ("W1", "W2", "w3", "V", "b"))
    early = model.config.form == "early"
    h, c = x.new_zeros(B, H), x.new_zeros(B, H)
    past: list[Tensor] = []
    logits: list[Tensor] = []
    for t in range(x.shape[1]):
        named = {name: weights[name] for name, _ in cell.named_parameters()}
        h, c = torch.func.functional_call(cell, named, (x[:, t], (h, c)))
        s = torch.zeros_like(h)
        if past:
            scores = [((m @ W1.T + h @ W2.T).tanh() * w3).sum(dim=1) for m in past]
            p = normalize(torch.stack(scores, dim=1))
            s = (p.unsqueeze(2) * torch.stack(past, dim=1)).sum(dim=1)
        if early:
            logits.append((h + h + s) @ V.T + b)
        else:
            h = h + s
            logits.append(h @ V[:, :H].T + s @ V[:, H:].T + b)
        past.append(h)
    return torch.stack(logits, dim=1)


@every_variant
@pytest.mark.parametrize("backend", ["", "reference"])
def test_a_model_is_that_of_its_equations(
    values: dict[str, Any], normalize: Normalizer, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, backend)
    model, x = built(**values), noise(B, T, I)
    with torch.no_grad():
        for name in ("W1", "W2", "w3"):  # scores far enough apart for zeros
            model.get_parameter(name).mul_(3)
    cotangent, found = noise(B, T, O, seed=1), []
    for logits in (model(x)[0], by_steps(model, x, normalize)):
        gradients = torch.autograd.grad((logits * cotangent).sum(), list(model.parameters()))
        found.append((logits, *gradients))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@every_variant
def test_a_model_runs_in_other_dtypes_and_on_an_empty_batch(
    values: dict[str, Any], normalize: Normalizer
) -> None:
    model, x = built(**values).float(), noise(B, T, I).float()
    truth, state = model(x)
    assert model(x[:0])[0].shape == (0, T, O)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x, state)[0].shape == truth.shape
        torch.testing.assert_close(model(x)[0].float(), truth, rtol=0.1, atol=0.1)
    for dtype in (torch.bfloat16, torch.float16):
        logits, _ = built(**values).to(dtype)(x.to(dtype))
        assert logits.dtype == dtype
        torch.testing.assert_close(logits.float(), truth, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("test_weights", ["sparsemax", "entmax15", "top_k"])
def test_a_model_uses_its_test_weights_in_evaluation_mode_alone(test_weights: str) -> None:
    model = built(test_weights=test_weights)
    trained, tested = built(), built(weights=test_weights)
    x = noise(B, T, I)
    assert torch.equal(model(x)[0], trained(x)[0])
    model.eval()
    assert torch.equal(model(x)[0], tested(x)[0])
    assert not torch.allclose(tested(x)[0], trained(x)[0])
    model.train()
    assert torch.equal(model(x)[0], trained(x)[0])


def test_a_state_goes_on_in_the_other_mode() -> None:
    model, x = built(test_weights="top_k", k_top=2), noise(B, T, I)
    _, state = model(x[:, :9])
    _, other = built()(x[:, :9])
    model.eval()
    ours, _ = model(x[:, 9:], state)
    theirs, _ = built(weights="top_k", k_top=2)(x[:, 9:], other)
    torch.testing.assert_close(ours, theirs)


def test_a_model_is_measured_with_its_test_weights() -> None:
    task = Copying.Config(length=12, symbols=3).build()

    def of(**values: Any) -> SelfAttention:
        drawn = generator(0, Stream.INITIALIZATION)
        config = SelfAttention.Config(hidden=8, **values)
        return config.build(task.inputs, task.outputs, steps=18, generator=drawn)

    kept: dict[str, Any] = {"sequences": 8, "seed": 0, "stream": Stream.TEST}
    dense, sparse, both = of(), of(weights="top_k", k_top=1), of(test_weights="top_k", k_top=1)
    assert measure(both, task, 12, **kept) == measure(sparse, task, 12, **kept)
    assert measure(both, task, 12, **kept) != measure(dense, task, 12, **kept)
    assert both.training
    assert measure(both.eval(), task, 12, **kept) == measure(sparse, task, 12, **kept)
    assert not both.training


def test_a_part_that_is_in_evaluation_mode_stays_in_it() -> None:
    """Check a frozen part of a model after a measurement."""
    task = Copying.Config(length=5, symbols=2).build()
    model = LSTM.Config(hidden=4).build(
        task.inputs, task.outputs, steps=9, generator=torch.Generator()
    )
    model.add_module("frozen", nn.Identity().eval())
    measure(model, task, 5, sequences=2, seed=0, stream=Stream.TEST)
    assert model.training
    assert not model.get_submodule("frozen").training


def test_a_layer_uses_its_test_weights() -> None:
    torch.manual_seed(0)
    layer = SelfAttentionLayer(I, H, batch_first=True, test_weights="top_k", k_top=2)
    plain, sparse = (
        SelfAttentionLayer(I, H, batch_first=True, **values)  # type: ignore[arg-type]
        for values in ({}, {"weights": "top_k", "k_top": 2})
    )
    for other in (plain, sparse):
        other.load_state_dict(layer.state_dict())
    x = noise(B, T, I).float()
    assert torch.equal(layer(x)[0], plain(x)[0])
    assert torch.equal(layer.eval()(x)[0], sparse(x)[0])
    assert repr(plain) == f"SelfAttentionLayer({I}, {H}, batch_first=True)"
    assert repr(layer) == f"SelfAttentionLayer({I}, {H}, batch_first=True, top_k=2 at test)"
    early = SelfAttentionLayer(I, H, batch_first=True, form="early")
    assert repr(early) == f"SelfAttentionLayer({I}, {H}, batch_first=True, form=early)"
    with pytest.raises(ConfigError, match="k_top is 0: give a whole number"):
        SelfAttentionLayer(I, H, weights="top_k", k_top=0)


# The configuration


@pytest.mark.parametrize(
    ("values", "label", "legend", "share"),
    [
        ({}, "", "", 1.0),
        ({"weights": "sparsemax"}, " sparsemax", ", sparsemax", None),
        ({"weights": "entmax15"}, " entmax15", ", entmax-1.5", None),
        ({"weights": "top_k"}, " top_k=5", ", top-5", 0.05),
        (
            {"test_weights": "top_k", "k_top": 10},
            " test=top_k=10",
            ", softmax, top-10 at test",
            0.1,
        ),
        (
            {"weights": "top_k", "k_top": 10, "test_k_top": 2},
            " top_k=10 test=top_k=2",
            ", top-10, top-2 at test",
            0.02,
        ),
        (
            {"weights": "entmax15", "test_weights": "softmax"},
            " entmax15 test=softmax",
            ", entmax-1.5, softmax at test",
            1.0,
        ),
        ({"form": "early"}, " early", ", early form", 1.0),
    ],
    ids=lambda value: str(value),
)
def test_names_and_stored_forms_distinguish_variants(
    values: dict[str, Any], label: str, legend: str, share: float | None
) -> None:
    config = SelfAttention.Config(hidden=8, **values)
    assert config.label() == "lstm self-attention" + label
    assert config.legend() == "Self-attention LSTM, full BPTT" + legend
    assert config.share_kept(101) == share
    stored = {"kind": "self-attention", "hidden": 8, "forget_bias": 0.0}
    assert to_dict(config, PARTS) == stored | values
    trial = TrialConfig(model=config)
    assert from_dict(TrialConfig, to_dict(trial, PARTS), PARTS) == trial
    task = Copying.Config(length=80)
    run = RunConfig.of(task=task, trial=trial, seed=0)
    assert RunConfig.from_dict(run.to_dict()) == run


def test_the_configurations_of_the_documentation() -> None:
    named: dict[str, Any] = {}
    exec(block("studies.md", "import sabtune as sab\n\ndense"), named)
    assert named["dense"] == SelfAttention.Config(hidden=64)
    assert named["sparse_at_test"].legend().endswith("softmax, top-10 at test")
    assert named["sparse"].legend().endswith("entmax-1.5")


def test_an_early_readout_has_half_of_the_weights() -> None:
    early, plain = built(form="early"), built()
    assert early.V.shape == (O, H)
    assert plain.V.shape == (O, 2 * H)
    for name in ("weight_ih", "W1", "W2", "w3"):
        assert torch.equal(early.get_parameter(name), plain.get_parameter(name))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": "relu"}, "weights is 'relu': give one of softmax, sparsemax, entmax15, top_k"),
        ({"k_top": 0}, "k_top is 0: give a whole number of at least 1"),
        ({"k_top": 3}, "k_top is 3: give the default, 5, or 'top_k' as weights or test_weights"),
        ({"weights": "top_k", "test_k_top": 0}, "test_k_top is 0: give a whole number of at least"),
        ({"test_k_top": 3}, "test_k_top is 3: give None, or 'top_k' as the weights at test"),
        (
            {"weights": "top_k", "test_weights": "softmax", "test_k_top": 3},
            "test_k_top is 3: give None, or 'top_k' as the weights at test",
        ),
        (
            {"form": "early", "weights": "sparsemax"},
            "weights is 'sparsemax': give the default, which the early form requires",
        ),
        (
            {"form": "early", "test_weights": "softmax"},
            "test_weights is 'softmax': give the default, which the early form requires",
        ),
    ],
    ids=lambda value: str(value),
)
def test_settings_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SelfAttention.Config(**values)
    assert message in str(caught.value)


def test_the_example_of_the_documentation_runs() -> None:
    names: dict[str, Any] = {}
    exec(block("studies.md", "import sabtune as sab\n\ndense"), names)
    assert names["sparse_at_test"].at_test.words == "top_k=10"
    assert names["sparse_at_test"].in_training.words == names["dense"].in_training.words
    assert names["sparse"].at_test.words == "entmax15"
