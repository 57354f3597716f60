"""Compare the early form and the cuts of SAB with a plain loop over one sequence at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sabtune.config import PARTS
from sabtune.errors import ConfigError
from sabtune.models import SAB
from sabtune.ops import compiled, reference
from sabtune.ops.call import VARIABLE
from sabtune.ops.reference import PAPER, Cut, Form, Rule
from sabtune.schema import from_dict, to_dict
from sabtune.seeding import Stream, generator
from tests.fused_cases import (
    RULES,
    Sparsity,
    call_of,
    check_same,
    dispatch_sab,
    eager_sab,
    for_rule,
    noise,
    parameters,
    results,
)

B, T, I, O, H = 3, 23, 4, 5, 6


def built(seed: int = 0, **values: Any) -> SAB:
    config = SAB.Config(hidden=H, **values)
    drawn = generator(seed, Stream.INITIALIZATION)
    return config.build(I, O, steps=T, generator=drawn).double()


def by_hand(model: SAB, x: Tensor) -> Tensor:
    """Return the logits of sequences x (B, T, I), of which each has a list of memories."""
    config = model.config
    p: dict[str, Tensor] = dict(model.named_parameters())
    cell = nn.LSTMCell(I, H, dtype=torch.float64)
    logits = []
    for sequence in x:
        h = c = x.new_zeros(1, H)
        memories, outputs = [x.new_zeros(H)], []
        for t, x_t in enumerate(sequence, start=1):
            if config.k_trunc and (t if cuts_before(config) else t - 1) % config.k_trunc == 0:
                h, c = h.detach(), c.detach()
            weights = {name: p[name] for name in cell.state_dict()}
            h, c = torch.func.functional_call(cell, weights, (x_t[None], (h, c)))
            scores = [p["w3"] @ torch.tanh(p["W1"] @ m + p["W2"] @ h[0]) for m in memories]
            pairs = zip(recalled(config, scores), memories, strict=True)
            s = torch.stack([weight * m for weight, m in pairs]).sum(dim=0)
            h = h + s
            if t % config.k_att == 0:
                memories.append(h[0])
            outputs.append(p["V"] @ torch.cat([h[0], s]) + p["b"])
        logits.append(torch.stack(outputs))
    return torch.stack(logits)


def cuts_before(config: SAB.Config) -> bool:
    return {"before": True, "after": False, None: config.form == "early"}[config.cut]


def recalled(config: SAB.Config, scores: list[Tensor]) -> list[Tensor]:
    """Return the weight of each memory."""
    best = sorted(scores, key=Tensor.item, reverse=True)
    if config.form == "early":
        if len(scores) <= config.k_top:
            return scores
        threshold = best[config.k_top] - 1e-7
    else:
        threshold = best[min(config.k_top, len(best) - 1)]
    above = [(a - threshold).clamp(min=0) for a in scores]
    return [w / (sum(above) + 1e-7) for w in above]


CASES: list[dict[str, Any]] = [
    {"form": "early", "k_top": 3, "k_att": 2, "k_trunc": 5},
    {"form": "early", "k_top": 1, "k_att": 1, "k_trunc": 1},
    {"form": "early", "k_top": 50, "k_att": 3, "k_trunc": 4},
    {"form": "early", "k_top": 2, "k_att": 4, "k_trunc": 0},
    {"form": "early", "k_top": 2, "k_att": 4, "k_trunc": 4, "cut": "after"},
    {"form": "paper", "k_top": 3, "k_att": 4, "k_trunc": 4, "cut": "before"},
    {"form": "paper", "k_top": 3, "k_att": 2, "k_trunc": 7, "cut": "before"},
    {"form": "paper", "k_top": 3, "k_att": 2, "k_trunc": 7, "cut": "after"},
]


@pytest.mark.parametrize("backend", ["", "reference", "eager"])
@pytest.mark.parametrize("values", CASES, ids=str)
def test_values_and_gradients_are_those_of_a_plain_loop(
    values: dict[str, Any], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, backend)
    model = built(**values)
    x = torch.randn(B, T, I, dtype=torch.float64, generator=generator(0, Stream.TEST))
    cotangent = torch.randn(B, T, O, dtype=torch.float64, generator=generator(1, Stream.TEST))
    x.requires_grad_()
    ours, theirs = model(x)[0], by_hand(model, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    leaves = [x, *model.parameters()]
    for one, other in zip(
        *(torch.autograd.grad((y * cotangent).sum(), leaves) for y in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("values", CASES[:1] + CASES[5:6], ids=str)
def test_a_sequence_in_pieces_has_the_cuts_of_the_whole(values: dict[str, Any]) -> None:
    """Compare the gradient of a piece that starts within a block, from its own inputs alone."""
    model = built(**values)
    x = torch.randn(B, T, I, dtype=torch.float64, generator=generator(0, Stream.TEST))
    whole = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(whole)[0][:, 9:].square().sum(), whole)
    with torch.no_grad():
        _, state = model(x[:, :9])
    piece = x[:, 9:].clone().requires_grad_()
    (found,) = torch.autograd.grad(model(piece, state)[0].square().sum(), piece)
    torch.testing.assert_close(found, expected[:, 9:], rtol=1e-9, atol=1e-10)


def test_memories_that_tie_at_the_threshold_all_have_a_weight() -> None:
    """Weights of zero give all memories the same score, so each p is 1e-7 / (M 1e-7 + 1e-7)."""
    p = parameters(5, 4, torch.float64)
    p = replace(p, w3=torch.zeros_like(p.w3))
    how: dict[str, Any] = {"k_top": 2, "k_att": 1, "k_trunc": 0, "rule": Rule(form="early")}
    x = noise(2, 9, 4, dtype=torch.float64)
    for sab in (reference.sab, eager_sab):
        _, summary, after = sab(x, reference.initial_state(2, p), p, **how)
        expected = after.memory[:, :9].sum(dim=1) / 10
        torch.testing.assert_close(summary[:, -1], expected, rtol=1e-9, atol=1e-12)


# The cut


@pytest.mark.parametrize("sab", [dispatch_sab, eager_sab], ids=["compiled", "eager"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.scoring}-{rule.normalizer}")
@pytest.mark.parametrize("k_trunc", [0, 1, 4])
def test_a_backend_cuts_where_the_equations_do(k_trunc: int, rule: Rule, sab: Any) -> None:
    """Check calls from the start of a sequence and from within a block."""
    x, p = noise(5, 19, 4, dtype=torch.float64), parameters(17, 4, torch.float64)
    sparsity, rule = Sparsity(k_top=3, k_att=4, k_trunc=k_trunc), replace(rule, cut="before")
    state = None
    for stretch in x.tensor_split([6], dim=1):
        truth = results(reference.sab, stretch, p, sparsity, state, rule)
        check_same(results(sab, stretch, p, sparsity, state, rule), truth, 1e-9)
        with torch.no_grad():
            start = state or reference.initial_state(5, p)
            _, _, state = reference.sab(stretch, start, for_rule(p, rule), **sparsity, rule=rule)


def test_the_compiled_pass_takes_both_cuts() -> None:
    p = parameters(5, 4, torch.float32)
    x, state = noise(2, 5, 4, dtype=torch.float32), reference.initial_state(2, p)
    for cut, form, supported in (
        ("after", "paper", True),
        ("before", "paper", True),
        (None, "early", False),
    ):
        rule = Rule(cut=cut, form=form)  # type: ignore[arg-type]
        call = call_of(x, state, p, k_top=2, k_att=1, k_trunc=5, rule=rule)
        assert compiled.BACKEND.supports(call) == supported


@pytest.mark.parametrize(
    ("form", "cut", "steps"),
    [
        ("paper", None, range(1, 10)),
        ("paper", "after", range(1, 10)),
        ("paper", "before", [4, 8, 9]),
        ("early", None, [4, 8, 9]),
        ("early", "after", range(1, 10)),
    ],
)
def test_a_memory_has_its_block_or_its_step_behind_it(
    form: Form, cut: Cut | None, steps: list[int]
) -> None:
    """With k_att = k_trunc = 4, h_4 and h_8 are the ends of blocks if cuts are after them."""
    model = built(k_top=5, k_att=4, k_trunc=4, form=form, cut=cut)
    x = torch.randn(1, 9, I, dtype=torch.float64, generator=generator(5, Stream.TEST))
    (found,) = torch.autograd.grad(model(x.requires_grad_())[0][:, -1].sum(), x)
    assert [t + 1 for t in range(9) if found[0, t].any()] == list(steps)


def test_a_configuration_without_a_cut_is_stored_as_before() -> None:
    for config, words in ((SAB.Config(), False), (SAB.Config(cut="before"), True)):
        stored = to_dict(config, PARTS)
        assert ("cut" in stored) == words
        assert ("cut=before" in config.label()) == words
        assert ("cut=before" in config.legend()) == words
        assert from_dict(SAB.Config, stored, PARTS) == config
    assert Rule(cut=None) == PAPER


def test_the_early_form_has_its_own_scoring() -> None:
    assert SAB.Config(form="early").label().endswith("constant early")
    for change in ({"scoring": "dot"}, {"normalizer": "softmax"}):
        with pytest.raises(ConfigError, match="give the default, which the early form requires"):
            SAB.Config(form="early", **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cut is 'between': give 'after' or 'before' or None"):
        SAB.Config(cut="between")  # type: ignore[arg-type]
