"""Compare the equations with independent float64 runs of both forms and finite differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sabtune.models import SAB
from sabtune.models.weights import attention_shapes
from sabtune.ops import reference
from sabtune.ops.call import VARIABLE
from sabtune.ops.reference import PAPER, Parameters, Rule
from sabtune.seeding import Stream, generator
from tests.conftest import GOLDEN
from tests.fused_cases import eager_sab

FILES = {
    "paper": GOLDEN / "paper_T37_trunc5_att2_top3.npz",
    "released": GOLDEN / "released_T37_trunc5_att2_top4.npz",
}
NAMES = {"fc_weight": "V", "fc_bias": "b"}  # the golden files' names for the readout

Golden = Mapping[str, np.ndarray]


@pytest.fixture(scope="module", params=FILES)
def golden(request: pytest.FixtureRequest) -> Golden:
    with np.load(FILES[request.param], allow_pickle=False) as data:
        return dict(data)


@pytest.fixture(params=["reference", "eager", ""])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the model with each backend for float64, and with the one that is chosen by default."""
    monkeypatch.setenv(VARIABLE, request.param)


def of(golden: Golden, kind: str) -> dict[str, Tensor]:
    prefix = f"{kind}/"
    return {
        NAMES.get(key.removeprefix(prefix), key.removeprefix(prefix)): torch.from_numpy(value)
        for key, value in golden.items()
        if key.startswith(prefix)
    }


def golden_model(golden: Golden) -> SAB:
    inputs = golden["param/weight_ih"].shape[1]
    config = SAB.Config(
        hidden=golden["param/weight_hh"].shape[1],
        form="released" if golden["form"] == "released" else "paper",
        k_top=int(golden["k_top"]),
        k_att=int(golden["k_att"]),
        k_trunc=int(golden["k_trunc"]),
    )
    outputs = len(golden["param/fc_bias"])
    model = SAB(config, inputs, outputs, steps=37, generator=generator(0, Stream.TEST)).double()
    model.load_state_dict(of(golden, "param"))
    return model


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("path")
def test_values_agree_with_the_golden_run(golden: Golden) -> None:
    model = golden_model(golden)
    x = torch.from_numpy(golden["x"])
    hidden, summary, _ = model.recall(x)
    logits, _ = model(x)
    close(hidden, torch.from_numpy(golden["hidden"]))
    close(summary, torch.from_numpy(golden["summary"]))
    close(logits, torch.from_numpy(golden["logits"]))


@pytest.mark.usefixtures("path")
def test_every_gradient_agrees_with_the_golden_run(golden: Golden) -> None:
    model = golden_model(golden)
    logits, _ = model(torch.from_numpy(golden["x"]))
    (logits * torch.from_numpy(golden["cotangent"])).sum().backward()
    gradients = of(golden, "grad")
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        close(parameter.grad, gradients[name])


def test_the_number_of_memories_kept_agrees_with_the_golden_run(golden: Golden) -> None:
    model = golden_model(golden)
    p = model.weights()
    x = torch.from_numpy(golden["x"])
    state = reference.initial_state(x.shape[0], p)
    for t in range(x.shape[1]):
        gates = x[:, t] @ p.weight_ih.T + p.bias_ih
        h, _ = reference.lstm_cell(gates, state.h, state.c, p)
        a = reference.scores(state.keys, h, p, model.rule)
        kept = (reference.sparse_weights(a, model.config.k_top, model.rule) != 0).sum(dim=-1)
        assert kept.tolist() == golden["selected"][:, t].tolist()
        _, _, state = reference.sab(
            x[:, t : t + 1],
            state,
            p,
            k_top=model.config.k_top,
            k_att=model.config.k_att,
            k_trunc=model.config.k_trunc,
            rule=model.rule,
        )


def random_parameters(inputs: int, hidden: int, rule: Rule = PAPER) -> dict[str, Tensor]:
    source = generator(3, Stream.TEST)
    shapes = {
        "weight_ih": (4 * hidden, inputs),
        "weight_hh": (4 * hidden, hidden),
        "bias_ih": (4 * hidden,),
        "bias_hh": (4 * hidden,),
        **dict.fromkeys(("W1", "W2", "w3"), (0,)),
        **{"w3" if name == "w" else name: s for name, s in attention_shapes(rule, hidden).items()},
    }
    return {
        name: torch.randn(shape, generator=source, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }


RULES = {
    "mlp": PAPER,
    "dot": Rule(scoring="dot"),
    "separable": Rule(scoring="separable"),
    "softmax": Rule(normalizer="softmax"),
    "large epsilon": Rule(epsilon=0.5),
    "released": Rule(form="released"),
    "early": Rule(form="early"),
}


@pytest.mark.parametrize("sab", [reference.sab, eager_sab], ids=["reference", "eager"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(
    ("k_top", "k_att"),
    [(1, 1), (2, 2), (3, 1), (50, 2)],
    ids=["one kept", "every other", "every step", "all kept"],
)
def test_gradcheck(k_top: int, k_att: int, rule: Rule, sab: Callable[..., Any]) -> None:
    """Without truncation and ties, the gradient is that of the function."""
    parameters = random_parameters(2, 3, rule)
    x = torch.randn(2, 6, 2, generator=generator(4, Stream.TEST), dtype=torch.float64)

    def function(x: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        p = Parameters(**dict(zip(parameters, values, strict=True)))
        h, s, _ = sab(
            x, reference.initial_state(2, p), p, k_top=k_top, k_att=k_att, k_trunc=0, rule=rule
        )
        return h, s

    assert torch.autograd.gradcheck(function, (x.requires_grad_(), *parameters.values()))


def test_each_scoring_by_its_formula() -> None:
    p = Parameters(**random_parameters(2, 3))
    m, q = (
        torch.randn(3, generator=generator(i, Stream.TEST), dtype=torch.float64) for i in (1, 2)
    )
    dot, separable = Rule(scoring="dot"), Rule(scoring="separable")
    for rule, expected in (
        (PAPER, p.w3 @ torch.tanh(p.W1 @ m + p.W2 @ q)),
        (dot, (p.W1 @ m) @ (p.W2 @ q) / 3**0.5),
        (separable, p.w3 @ torch.tanh(p.W1 @ m)),
    ):
        keys = reference.key(m, p, rule).reshape(1, 1, 3)
        close(reference.scores(keys, q.reshape(1, 3), p, rule), expected.reshape(1, 1))


def test_softmax_is_over_the_scores_above_the_threshold() -> None:
    a = torch.tensor([[3.0, 1.0, 4.0, 1.5, 9.0]])
    kept = torch.softmax(torch.tensor([4.0, 9.0]), dim=0).tolist()
    weights = reference.sparse_weights(a, 2, Rule(normalizer="softmax"))
    torch.testing.assert_close(weights, torch.tensor([[0.0, 0.0, kept[0], 0.0, kept[1]]]))
    alone = reference.sparse_weights(torch.tensor([[2.0]]), 3, Rule(normalizer="softmax"))
    assert alone.tolist() == [[0.0]]


def reached(k_top: int, k_att: int, k_trunc: int, T: int = 9) -> list[int]:
    """Return the steps, from 1, whose input gets a gradient from the last step."""
    p = Parameters(**random_parameters(2, 3))
    x = torch.randn(1, T, 2, generator=generator(5, Stream.TEST), dtype=torch.float64)
    x.requires_grad_()
    h, _, _ = reference.sab(
        x, reference.initial_state(1, p), p, k_top=k_top, k_att=k_att, k_trunc=k_trunc
    )
    torch.autograd.backward(h[:, -1].sum())
    assert x.grad is not None
    return [t + 1 for t in range(T) if x.grad[0, t].abs().sum() > 0]


def test_truncation_cuts_after_every_k_trunc_th_step() -> None:
    assert reached(k_top=5, k_att=100, k_trunc=4) == [9]  # blocks of 1-4, 5-8 and 9
    assert reached(k_top=5, k_att=100, k_trunc=5) == [6, 7, 8, 9]
    assert reached(k_top=5, k_att=100, k_trunc=0) == list(range(1, 10))


def test_gradients_reach_remembered_steps_and_back_to_the_start_of_their_blocks() -> None:
    # At step 9 the memory holds h_4 and h_8, the ends of blocks, so every step gets a gradient.
    assert reached(k_top=5, k_att=4, k_trunc=4) == list(range(1, 10))
    # Here the memory holds h_3 and h_6. Steps 4, 7 and 8 come after them in their blocks.
    assert reached(k_top=5, k_att=3, k_trunc=4) == [1, 2, 3, 5, 6, 9]


def test_the_threshold_is_the_highest_score_not_kept() -> None:
    a = torch.tensor([[3.0, 1.0, 4.0, 1.5, 9.0]])
    assert reference.threshold(a, 2).item() == 3.0
    assert reference.threshold(a, 5).item() == 1.0  # the smallest score while |M| <= k_top
    torch.testing.assert_close(
        reference.sparse_weights(a, 2), torch.tensor([[0.0, 0.0, 1 / 7, 0.0, 6 / 7]])
    )


def test_a_lone_memory_has_no_weight() -> None:
    assert reference.sparse_weights(torch.tensor([[2.0]]), 3).tolist() == [[0.0]]
