"""Test the Transformer against torch's, x-transformers and its equations, written step by step."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import scaled_dot_product_attention

from sabtune.errors import ConfigError
from sabtune.models import Transformer
from sabtune.models.transformer import POSITIONS, Positions
from sabtune.ops import attention
from sabtune.seeding import Stream, generator

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it uses torch.jit.script
    from x_transformers import Decoder

B, T, I, O, H, HEADS = 3, 19, 4, 5, 12, 3

every_position = pytest.mark.parametrize("positions", POSITIONS)


def built(positions: Positions = "none", heads: int = HEADS, seed: int = 0) -> Any:
    config = Transformer.Config(hidden=H, heads=heads, positions=positions)
    drawn = generator(seed, Stream.INITIALIZATION)
    model = config.build(I, O, steps=T, generator=drawn).double()
    with torch.no_grad():
        for weight in model.parameters():  # no weight of a norm is 1, no bias 0
            weight.add_(0.1 * noise(*weight.shape, seed=weight.numel()))
    assert isinstance(model, Transformer)
    return model


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed, Stream.TEST))


def check_same(model: nn.Module, ours: Tensor, theirs: Tensor) -> None:
    """Check that two logits are equal, and the gradients of every weight."""
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    cotangent = noise(*ours.shape, seed=1)
    gradients = [
        torch.autograd.grad((logits * cotangent).sum(), list(model.parameters()))
        for logits in (ours, theirs)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_without_positions_it_is_the_encoder_of_torch_with_a_causal_mask() -> None:
    model, x = built(), noise(B, T, I)
    layer = nn.TransformerEncoderLayer(
        H, HEADS, 4 * H, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(H), enable_nested_tensor=False)
    names = {
        name: name.replace("in_proj.", "self_attn.in_proj_").replace("out_pr", "self_attn.out_pr")
        for name, _ in encoder_weights(model)
    }
    weights = {names[name]: weight for name, weight in encoder_weights(model)}
    assert weights.keys() == dict(encoder.named_parameters()).keys()
    mask = nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64)
    hidden = functional_call(
        encoder.double(), weights, (model.embedding(x),), {"mask": mask, "is_causal": True}
    )
    check_same(model, model(x)[0], hidden @ model.V.T + model.b)


def encoder_weights(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the weights between the embedding and the readout."""
    named = model.named_parameters()
    return [(name, weight) for name, weight in named if name.startswith(("layers", "norm"))]


def turned(vector: Tensor, step: int) -> Tensor:
    """Rotate each pair of units (2i, 2i + 1) by step · 10000^(-2i / P), as in Su et al."""
    out = []
    for i in range(0, len(vector), 2):
        angle = step * 10_000 ** (-i / len(vector))
        out.append(vector[i] * math.cos(angle) - vector[i + 1] * math.sin(angle))
        out.append(vector[i] * math.sin(angle) + vector[i + 1] * math.cos(angle))
    return torch.stack(out)


def by_equations(model: Any, x: Tensor) -> Any:
    """Compute the logits step by step and head by head."""
    P = H // HEADS
    slopes = [2**-4, 2**-8, 2**-2]  # of 3 heads: those of 2, and the first of 4
    hidden = x @ model.embedding.weight.T + model.embedding.bias
    for layer in model.layers:
        query, key, value = layer.in_proj(layer.norm1(hidden)).chunk(3, dim=-1)
        rows = []
        for b in range(x.shape[0]):
            for t in range(x.shape[1]):
                heads = []
                for head in range(HEADS):
                    part = slice(head * P, (head + 1) * P)
                    q, scores = query[b, t, part], []
                    for i in range(t + 1):
                        k = key[b, i, part]
                        match model.config.positions:
                            case "rotary":
                                scores.append(turned(q, t) @ turned(k, i) / math.sqrt(P))
                            case "alibi":
                                scores.append(q @ k / math.sqrt(P) - slopes[head] * (t - i))
                            case "none":
                                scores.append(q @ k / math.sqrt(P))
                    weights = torch.stack(scores).softmax(dim=0)
                    heads.append(weights @ value[b, : t + 1, part])
                rows.append(torch.cat(heads))
        hidden = hidden + layer.out_proj(torch.stack(rows).view_as(hidden))
        inside = layer.linear1(layer.norm2(hidden))
        hidden = hidden + layer.linear2(inside * (1 + torch.erf(inside / math.sqrt(2))) / 2)
    return model.norm(hidden) @ model.V.T + model.b


@every_position
def test_it_is_that_of_its_equations(positions: Positions) -> None:
    model, x = built(positions), noise(2, 7, I)
    check_same(model, model(x)[0], by_equations(model, x))


@every_position
def test_it_is_that_of_x_transformers(positions: Positions) -> None:
    """Compare logits and gradients with those of x-transformers, whose angles are float32."""
    model, x, P = built(positions, heads=2), noise(B, T, I), H // 2
    decoder = Decoder(
        dim=H,
        depth=2,
        heads=2,
        attn_dim_head=P,
        alibi_pos_bias=positions == "alibi",
        rotary_pos_emb=positions == "rotary",
        rotary_emb_dim=P,
    ).double()
    with torch.no_grad():  # it has no biases in norms and attention
        for name, weight in encoder_weights(model):
            if name.endswith("bias") and "linear" not in name:
                weight.zero_()
    weights = {"final_norm.gamma": model.norm.weight - 1}
    for number, layer in enumerate(model.layers):
        attend, feed = f"layers.{2 * number}", f"layers.{2 * number + 1}"
        weights[f"{attend}.0.0.gamma"] = layer.norm1.weight - 1
        for name, rows in zip("qkv", layer.in_proj.weight.chunk(3), strict=True):
            weights[f"{attend}.1.to_{name}.weight"] = rows
        weights[f"{attend}.1.to_out.weight"] = layer.out_proj.weight
        weights[f"{feed}.0.0.gamma"] = layer.norm2.weight - 1
        for place, linear in (("0.0", layer.linear1), ("2", layer.linear2)):
            weights[f"{feed}.1.ff.{place}.weight"] = linear.weight
            weights[f"{feed}.1.ff.{place}.bias"] = linear.bias
    assert weights.keys() == dict(decoder.named_parameters()).keys()
    hidden = functional_call(decoder, weights, (model.embedding(x),))
    ours, theirs = model(x)[0], hidden @ model.V.T + model.b
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    shared = [model.embedding.weight, *(w for n, w in encoder_weights(model) if "weight" in n)]
    for one, other in zip(
        *(torch.autograd.grad(out.square().sum(), shared) for out in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("heads", [1, 2, 3, 8, 12])
def test_the_slopes_of_alibi_are_those_of_the_paper(heads: int) -> None:
    slopes = attention.alibi_slopes(heads)
    wanted = {
        1: [2**-8],
        2: [2**-4, 2**-8],
        3: [2**-4, 2**-8, 2**-2],
        8: [2**-i for i in range(1, 9)],
        12: [2**-i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5],
    }
    assert slopes == wanted[heads]


@every_position
@pytest.mark.parametrize("pieces", [(19,), (1,) * 19, (5, 1, 13), (2, 7, 3, 7)])
def test_masks_of_a_few_steps_change_nothing(
    positions: Positions, pieces: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = built(positions), noise(B, T, I)
    whole, _ = model(x)
    rows = []

    def watched(*arguments: Any, **how: Any) -> Tensor:
        mask = how.get("attn_mask")
        rows.append(0 if mask is None else mask.shape[-2])
        return scaled_dot_product_attention(*arguments, **how)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(attention, "QUERIES", 4)
    logits, state = [], None
    for piece in x.split(pieces, dim=1):  # type: ignore[no-untyped-call]
        out, state = model(piece, state)
        logits.append(out)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, rtol=1e-10, atol=1e-10)
    assert max(rows) <= 4
    if positions != "alibi" and len(pieces) in (1, 19):
        assert not any(rows)  # it needs no mask


@every_position
def test_a_carried_cache_is_that_of_the_last_steps_and_the_current_weights(
    positions: Positions,
) -> None:
    model, other, x = built(positions), built(positions, seed=1), noise(B, T, I)
    _, state = model(x)
    assert torch.equal(state.memory[:, 0], model.embedding(x))
    carried = other.carry(state, 6)
    assert torch.equal(carried.memory, state.memory[:, :, -6:])
    assert carried.step == T
    for number, layer in enumerate(other.layers):
        hidden = layer.norm1(state.memory[:, number, -6:])
        _, key, value = layer.in_proj(hidden).chunk(3, dim=-1)
        if positions == "rotary":
            key = torch.stack(
                [
                    torch.cat([turned(part, T - 6 + t) for part in row[t].split(H // HEADS)])
                    for row in key
                    for t in range(6)
                ]
            ).view_as(key)
        torch.testing.assert_close(carried.keys[:, number], key)
        torch.testing.assert_close(carried.values[:, number], value)


def test_rotary_positions_are_accurate_after_a_million_steps() -> None:
    """Compare the score of two rotated vectors far from the start with that at the start."""
    q, k = noise(1, 1, 1, 8).float(), noise(1, 1, 1, 8, seed=1).float()
    scores = []
    for first in (0, 1_000_000):
        a, b = (attention.rotation(first + by, 1, 8, q) for by in (7, 3))
        scores.append((attention.rotate(q, a) * attention.rotate(k, b)).sum())
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"hidden": 30},
            "hidden is 30: give a multiple of 8 for heads=4 and positions='rotary', or other heads",
        ),
        ({"hidden": 30, "positions": "none"}, "hidden is 30: give a multiple of 4 for heads=4 and"),
        ({"heads": 0}, "heads is 0: give a whole number of at least 1"),
        ({"layers": 65}, "layers is 65: give a whole number from 1 to 64"),
        ({"positions": "learned"}, "positions is 'learned': give "),
    ],
)
def test_values_out_of_range_are_named(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Transformer.Config(**values)
