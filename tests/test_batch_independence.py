"""Test that no example changes any bit of another's results, even with NaN, Inf or overflow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sabtune.models import (
    GRU,
    LSTM,
    SAB,
    SLSTM,
    Mamba2,
    MemLSTM,
    MinGRU,
    MinLSTM,
    Model,
    ModelConfig,
    RelLSTM,
    SelfAttention,
    Transformer,
)
from sabtune.models.base import state_tensors
from sabtune.models.transformer import Positions
from sabtune.ops import reference, self_attention
from sabtune.ops.reference import Rule
from tests.fused_cases import RULES, Sparsity, dispatch_sab, eager_sab, for_rule, noise, parameters

STEPS, HIDDEN = 24, 17
SPOILT = {"NaN": math.nan, "Inf": math.inf, "huge": 1e30, "negative": -1e38}
POSITIONS: tuple[Positions, ...] = get_args(Positions)
BATCHES = [4, 35]  # 35 exceeds the examples that the kernel processes together
Results = dict[str, Tensor]

pytestmark = pytest.mark.usefixtures("_poisoned")
over_rules = pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.scoring}-{r.normalizer}")
over_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
over_modes = pytest.mark.parametrize("learns", [True, False], ids=["learning", "evaluating"])


def inputs(batch: int, dtype: torch.dtype, kind: str) -> Tensor:
    x = noise(batch, STEPS, 6, dtype=dtype)
    if kind == "one-hot":
        return one_hot(x.argmax(dim=2), 6).to(dtype)
    if kind == "tied":  # the same input at every step makes the scores nearly equal
        return x[:, :1].expand_as(x).contiguous()
    return x


def of_sab(sab: Any, rule: Rule, x: Tensor, *, learns: bool) -> Results:
    """Return the outputs, state and gradients of each example, computed in two segments."""
    p = for_rule(parameters(HIDDEN, x.shape[2], x.dtype), rule)
    p.weight_hh.requires_grad_(learns)
    x = x.clone().requires_grad_(learns)
    sparsity = Sparsity(k_top=3, k_att=1, k_trunc=5)
    state = reference.initial_state(len(x), p)
    with torch.set_grad_enabled(learns):
        found: Results = {}
        for n, stretch in enumerate(x.tensor_split([15], dim=1)):
            hidden, summary, state = sab(stretch, state, p, **sparsity, rule=rule)
            found |= {f"hidden {n}": hidden, f"summary {n}": summary}
        found |= {"c": state.c, "memory": state.memory}
        if learns:
            sums = [found[name].sum() for name in found if found[name].requires_grad]
            (found["d_x"],) = torch.autograd.grad(torch.stack(sums).sum(), x)
    return {name: tensor.detach() for name, tensor in found.items()}


def of_model(model: Model, x: Tensor, *, learns: bool) -> Results:
    x = x.clone().requires_grad_(learns)
    with torch.set_grad_enabled(learns):
        logits, state = model(x)
        found = {"logits": logits}
        for name, tensor in state_tensors(state).items():
            if tensor.dim():  # h and c of an LSTM are (1, B, H), as in torch
                found[name] = tensor if len(tensor) == len(x) else tensor.squeeze(0)
        if learns:
            (found["d_x"],) = torch.autograd.grad(logits.square().sum(), x)
    return {name: tensor.detach() for name, tensor in found.items()}


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    return torch.equal(ours.isnan(), theirs.isnan()) and torch.equal(
        ours.nan_to_num(), theirs.nan_to_num()
    )


def check_others(run: Callable[[Tensor], Results], x: Tensor) -> list[tuple[Tensor, int]]:
    """Check that spoiling one example leaves the others as they are.

    Returns the spoiled batches, each with the index of the spoiled example.
    """
    clean, batches = run(x), []
    for value in SPOILT.values():
        for which in (1, len(x) - 1):
            spoilt = x.clone()
            spoilt[which, 7, 2] = value
            others = [b for b in range(len(x)) if b != which]
            found = run(spoilt)
            for name, tensor in clean.items():
                assert torch.equal(tensor[others], found[name][others]), (name, value, which)
            batches.append((spoilt, which))
    return batches


def check_alone(run: Callable[[Tensor], Results], x: Tensor, which: Iterable[int]) -> None:
    """Check that each of these examples gives the same bits as in a batch of its own."""
    together = run(x)
    for b in which:
        for name, tensor in run(x[b : b + 1]).items():
            assert same_bits(tensor, together[name][b : b + 1]), (name, b)


@over_dtypes
@over_modes
@over_rules
@pytest.mark.parametrize("kind", ["noise", "one-hot", "tied"])
def test_the_compiled_pass(rule: Rule, learns: bool, dtype: torch.dtype, kind: str) -> None:
    def run(x: Tensor) -> Results:
        return of_sab(dispatch_sab, rule, x, learns=learns)

    for batch in BATCHES:
        x = inputs(batch, dtype, kind)
        check_alone(run, x, (0, 2, batch - 1))
        for spoilt, which in check_others(run, x)[:: len(SPOILT) - 1]:
            check_alone(run, spoilt, (which,))


@over_dtypes
@over_modes
@pytest.mark.parametrize("scoring", ["mlp", "dot", "separable"])
def test_the_model(scoring: Any, learns: bool, dtype: torch.dtype) -> None:
    """Check the whole model, whose readout is part of the compiled pass."""
    config = SAB.Config(hidden=HIDDEN, k_top=3, k_att=2, k_trunc=5, scoring=scoring)
    model = built(config, dtype)

    def run(x: Tensor) -> Results:
        return of_model(model, x, learns=learns)

    x = inputs(5, dtype, "noise")
    check_alone(run, x, range(5))
    check_others(run, x)


@over_dtypes
@over_modes
@pytest.mark.parametrize("form", ["paper", "released", "early"])
@over_rules
def test_the_eager_pass(rule: Rule, form: Any, learns: bool, dtype: torch.dtype) -> None:
    """Check one batch size at a time, because torch's matrix products may depend on the size."""
    if form != "paper":
        if rule != RULES[0]:
            pytest.skip("has one rule")
        rule = replace(rule, form=form)
    for batch in BATCHES:
        x = inputs(batch, dtype, "noise")
        check_others(lambda x: of_sab(eager_sab, rule, x, learns=learns), x)


@over_dtypes
@over_modes
def test_self_attention(learns: bool, dtype: torch.dtype) -> None:
    p = parameters(HIDDEN, 6, dtype)
    p.weight_hh.requires_grad_(learns)

    def run(x: Tensor) -> Results:
        ends = x.new_zeros(len(x), HIDDEN)
        x = x.clone().requires_grad_(learns)
        with torch.set_grad_enabled(learns):
            hidden, summary, after = self_attention.attend(x, self_attention.start(ends, ends), p)
        found = {"hidden": hidden, "summary": summary, "c": after.c, "keys": after.keys}
        if learns:
            (found["d_x"],) = torch.autograd.grad((hidden + summary).sum(), x)
        return {name: tensor.detach() for name, tensor in found.items()}

    for batch in BATCHES:
        x = inputs(batch, dtype, "noise")
        check_alone(run, x, (0, 2, batch - 1))
        for spoilt, which in check_others(run, x)[:: len(SPOILT) - 1]:
            check_alone(run, spoilt, (which,))


@over_dtypes
@over_modes
@pytest.mark.parametrize(
    "config",
    [
        LSTM.Config(hidden=HIDDEN, k_trunc=5),
        SelfAttention.Config(hidden=HIDDEN),
        SelfAttention.Config(hidden=HIDDEN, weights="entmax15", test_weights="sparsemax"),
        SelfAttention.Config(hidden=HIDDEN, weights="top_k"),
        SelfAttention.Config(hidden=HIDDEN, form="early"),
        GRU.Config(hidden=HIDDEN),
        MinGRU.Config(hidden=HIDDEN, layers=1),
        MinLSTM.Config(hidden=HIDDEN, layers=1),
        MemLSTM.Config(hidden=HIDDEN),
        RelLSTM.Config(hidden=HIDDEN, short_term=4, relevant=3),
        *(Transformer.Config(hidden=8, layers=1, heads=2, positions=p) for p in POSITIONS),
        SLSTM.Config(hidden=HIDDEN),
        Mamba2.Config(hidden=HIDDEN, layers=1, heads=2, state_size=4, chunk=7),
    ],
    ids=lambda config: config.label(),
)
def test_the_other_models(config: ModelConfig, learns: bool, dtype: torch.dtype) -> None:
    model = built(config, dtype)
    for batch in BATCHES:
        check_others(lambda x: of_model(model, x, learns=learns), inputs(batch, dtype, "noise"))


def built(config: ModelConfig, dtype: torch.dtype) -> Model:
    generator = torch.Generator().manual_seed(0)
    return config.build(6, 4, steps=STEPS, generator=generator).to(dtype)
