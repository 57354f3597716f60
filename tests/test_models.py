"""Test the contract of all models, and the configuration of SAB."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sabtune.errors import ConfigError
from sabtune.models import (
    GRU,
    LSTM,
    MODELS,
    SAB,
    Mamba2,
    MinGRU,
    MinLSTM,
    RelLSTM,
    SelfAttention,
    Transformer,
)
from sabtune.ops import reference
from sabtune.ops.reference import Normalizer, Scoring
from sabtune.schedule import Linear
from sabtune.seeding import Stream, generator
from sabtune.testing import check_model
from tests.small_models import small

every_model = pytest.mark.parametrize("kind", MODELS)
every_lstm = pytest.mark.parametrize(
    "kind", ["sab", "lstm", "self-attention", "mem-lstm", "rel-lstm"]
)

SPARSITY = {"k_top": 3, "k_att": 2, "k_trunc": 4}


@every_model
def test_every_model_keeps_its_contract(kind: str) -> None:
    result = check_model(small(kind, hidden=6))
    assert not [note for note in result.notes if not note.startswith("devices: ")]


def test_models_with_other_settings_keep_their_contract() -> None:
    check_model(LSTM.Config(hidden=6, k_trunc=4, h_detach=0.5))
    check_model(GRU.Config(hidden=6, k_trunc=4))
    check_model(MinGRU.Config(hidden=6, layers=1))
    check_model(MinLSTM.Config(hidden=6, layers=3, forget_bias=1.0))
    check_model(SelfAttention.Config(hidden=6, weights="sparsemax", test_weights="softmax"))
    check_model(SelfAttention.Config(hidden=6, test_weights="entmax15"))
    check_model(SelfAttention.Config(hidden=6, weights="top_k", k_top=3, test_k_top=2))
    check_model(SelfAttention.Config(hidden=6, form="early", forget_bias=1.0))
    check_model(RelLSTM.Config(hidden=6, short_term=3, relevant=2))
    check_model(RelLSTM.Config(hidden=6, short_term=2, relevant=5, forget_bias=1.0))
    check_model(Transformer.Config(hidden=6, layers=1, heads=3, positions="none"))
    check_model(Transformer.Config(hidden=12, layers=3, heads=3, positions="rotary"))
    check_model(Mamba2.Config(hidden=6, layers=1, heads=3, state_size=3, expand=1, conv_width=1))
    check_model(SAB.Config(hidden=6, schedule=Linear(), **SPARSITY))  # type: ignore[arg-type]
    check_model(SAB.Config(hidden=6, form="released", **SPARSITY))  # type: ignore[arg-type]
    check_model(SAB.Config(hidden=6, form="early", **SPARSITY))  # type: ignore[arg-type]
    check_model(SAB.Config(hidden=6, cut="before", **SPARSITY))  # type: ignore[arg-type]


@pytest.mark.parametrize("scoring", ["mlp", "dot", "separable"])
@pytest.mark.parametrize("normalizer", ["sum", "softmax"])
def test_every_parameter_of_every_rule_gets_a_gradient(
    scoring: Scoring, normalizer: Normalizer
) -> None:
    config = SAB.Config(hidden=6, scoring=scoring, normalizer=normalizer, **SPARSITY)  # type: ignore[arg-type]
    model = config.build(4, 3, steps=20, generator=generator(0, Stream.INITIALIZATION))
    model(torch.randn(2, 20, 4, generator=generator(0, Stream.TEST)))[0].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_labels_distinguish_rules() -> None:
    assert SAB.Config(scoring="dot").label().endswith("constant dot")
    assert SAB.Config(normalizer="softmax").label().endswith("constant softmax")
    assert SAB.Config(form="released").label().endswith("constant released")


def test_the_released_form_has_its_own_scoring() -> None:
    with pytest.raises(ConfigError, match="scoring is 'dot': give the default"):
        SAB.Config(form="released", scoring="dot")


def blockwise(model: LSTM, x: Tensor, k_trunc: int) -> Tensor:
    """Run an LSTM with the expected truncation: block by block, with a detached state between."""
    state, out = None, []
    for start in range(0, x.shape[1], k_trunc):
        hidden, state = model.lstm(x[:, start : start + k_trunc], state)
        state = tuple(tensor.detach() for tensor in state)
        out.append(hidden)
    return torch.cat(out, dim=1) @ model.V.T + model.b


@pytest.mark.parametrize("k_trunc", [1, 4, 5, 19, 100])
def test_a_truncated_lstm_is_cut_after_every_block(k_trunc: int) -> None:
    config = LSTM.Config(hidden=6, k_trunc=k_trunc)
    model = config.build(4, 3, steps=19, generator=generator(0, Stream.INITIALIZATION)).double()
    assert isinstance(model, LSTM)
    x = torch.randn(2, 19, 4, dtype=torch.float64, generator=generator(0, Stream.TEST))
    weigh = torch.randn(2, 19, 3, dtype=torch.float64, generator=generator(1, Stream.TEST))
    gradients = []
    for logits in (model(x)[0], blockwise(model, x, k_trunc)):
        gradients.append(torch.autograd.grad((logits * weigh).sum(), list(model.parameters())))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_segments_do_not_move_the_cuts() -> None:
    """Blocks count from the start of the sequence: with k_trunc 4, the next cut after 6 is at 8."""
    config = LSTM.Config(hidden=6, k_trunc=4)
    model = config.build(4, 3, steps=19, generator=generator(0, Stream.INITIALIZATION))
    assert isinstance(model, LSTM)
    assert [model.blocks(done, 9) for done in (0, 4, 6)] == [[4, 4, 1], [4, 4, 1], [2, 4, 3]]
    assert model.blocks(6, 1) == [1]


def test_self_attention_attends_to_every_earlier_step() -> None:
    """The last step's summary is the softmax-weighted sum of all earlier states."""
    config = SelfAttention.Config(hidden=5)
    model = config.build(3, 2, steps=9, generator=generator(0, Stream.INITIALIZATION)).double()
    assert isinstance(model, SelfAttention)
    x = torch.randn(1, 9, 3, dtype=torch.float64, generator=generator(0, Stream.TEST))
    _, before = model(x[:, :8])
    _, after = model(x[:, 8:], before)
    p = model.weights()
    query, _ = reference.lstm_cell(x[:, 8] @ p.weight_ih.T + p.bias_ih, before.h, before.c, p)
    score = torch.tanh(before.memory @ p.W1.T + (query @ p.W2.T)[:, None]) @ p.w3
    summary = (torch.softmax(score, dim=-1)[..., None] * before.memory).sum(dim=1)
    torch.testing.assert_close(after.h, query + summary, rtol=1e-12, atol=1e-12)
    assert before.memory.shape == (1, 8, 5)


def test_sab_follows_its_schedule() -> None:
    config = SAB.Config(hidden=4, k_top=2, schedule=Linear(start=10, share=0.5))
    model = config.build(3, 2, steps=20, generator=generator(0, Stream.INITIALIZATION))
    seen = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        model.set_progress(progress)
        seen.append(model.in_force()["k_top"])
    assert seen == [10, 6, 2, 2]


def test_k_top_changes_the_outputs() -> None:
    model = SAB.Config(hidden=8, k_top=1, k_att=1).build(
        3, 2, steps=20, generator=generator(0, Stream.INITIALIZATION)
    )
    assert isinstance(model, SAB)
    x = torch.randn(2, 12, 3, generator=generator(0, Stream.TEST))
    sparse, _ = model(x)
    model.k_top = 6
    assert not torch.allclose(model(x)[0], sparse)


@pytest.mark.parametrize(
    ("key", "value"),
    [("k_top", 0), ("k_top", -1), ("k_att", 0), ("k_trunc", -1), ("hidden", 0), ("k_top", 2.5)],
)
def test_model_values_out_of_range_are_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{key} is {value}: give a whole number"):
        SAB.Config(**{key: value})  # type: ignore[arg-type]


@every_lstm
def test_forget_bias_changes_only_the_forget_gates(kind: str) -> None:
    plain, opened = (
        MODELS[kind](**{"hidden": 6, "forget_bias": by})  # type: ignore[arg-type]
        .build(4, 3, steps=20, generator=generator(0, Stream.INITIALIZATION))
        .state_dict()
        for by in (0.0, 1.5)
    )
    changed = {name for name in plain if not torch.equal(plain[name], opened[name])}
    (name,) = changed
    assert name.endswith(("bias_ih", "bias_ih_l0"))
    # torch stacks the input, forget, cell and output gates
    by = torch.tensor([0.0, 1.5, 0.0, 0.0]).repeat_interleave(6)
    torch.testing.assert_close(opened[name] - plain[name], by)


@every_lstm
def test_a_restarted_sequence_starts_from_h_and_c_without_memory(kind: str) -> None:
    """Compare the first step with a step of torch's own LSTM cell from h and c."""
    model = MODELS[kind](hidden=6).build(
        4, 3, steps=20, generator=generator(0, Stream.INITIALIZATION)
    )
    before, x = torch.randn(2, 11, 4), torch.randn(2, 1, 4)
    _, ended = model(before)
    started = model.restart(ended)
    _, after = model(x, started)
    weights = dict(model.named_parameters())
    cell = torch.nn.LSTMCell(4, 6)
    cell.load_state_dict(
        {name: next(weights[of] for of in weights if name in of) for name in cell.state_dict()}
    )
    h, c = cell(x[:, 0], (ended.h.reshape(2, 6), ended.c.reshape(2, 6)))
    torch.testing.assert_close(after.h.reshape(2, 6), h)  # no memory to recall, so s = 0
    torch.testing.assert_close(after.c.reshape(2, 6), c)
    assert not any(t.requires_grad for t in (started.h, started.c))
