"""Test the cost of models: their parameters and multiply-adds, and their way into the records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sabtune as sab
from sabtune.models import LSTM, MODELS, SAB, SelfAttention
from sabtune.models.base import matrix_weights
from sabtune.models.flops import MOST_OPERATIONS, counted
from sabtune.ops import reference, self_attention
from sabtune.study.events import Outcome
from sabtune.study.writer import StudyWriter
from sabtune.tracking.trial_run import cost_points
from sabtune.training.cost import cost_of
from sabtune.training.trial import Progress, TrialRun
from tests.records import spec

I, H, O, T = 3, 8, 5, 23


def built(config: sab.ModelConfig) -> sab.Model:
    return config.build(I, O, steps=T, generator=torch.Generator().manual_seed(0))


def by_hand(config: sab.SAB.Config) -> float:
    """Count the multiply-adds of SAB step by step, as the equations of the paper have them."""
    total, memories = 0, 1  # m_0
    for t in range(1, T + 1):
        total += 4 * H * (I + H)  # the gates of the LSTM
        total += H * H  # W2 h'
        total += memories * H  # w3 · tanh(…), for each memory
        total += min(config.k_top, memories) * H  # the weighted sum
        total += O * 2 * H  # the readout
        if t % config.k_att == 0:
            total += H * H  # W1 m
            memories += 1
    return total / T


def test_an_lstm_multiplies_by_each_weight_once_a_step() -> None:
    model = built(LSTM.Config(hidden=H))
    assert model.multiply_adds(I, T) == 4 * H * (I + H) + O * H
    assert model.multiply_adds(I, 5_000) == model.multiply_adds(I, T)


@pytest.mark.parametrize(("k_top", "k_att"), [(1, 1), (3, 2), (5, 5), (100, 1), (2, 50)])
def test_sab_is_counted_as_by_hand(k_top: int, k_att: int) -> None:
    config = SAB.Config(hidden=H, k_top=k_top, k_att=k_att, schedule=sab.Linear(start="all"))
    assert built(config).multiply_adds(I, T) == pytest.approx(by_hand(config))


def test_self_attention_is_sab_without_sparsity_and_the_zero_vector() -> None:
    dense = by_hand(SAB.Config(hidden=H, k_top=10**9, k_att=1))
    wanted = dense - 2 * H  # m_0 is neither scored nor summed up
    assert built(SelfAttention.Config(hidden=H)).multiply_adds(I, T) == pytest.approx(wanted)


def test_the_other_variants_of_self_attention_differ_in_the_readout_alone() -> None:
    dense = built(SelfAttention.Config(hidden=H)).multiply_adds(I, T)
    for values in ({"weights": "entmax15"}, {"test_weights": "top_k"}):
        config = SelfAttention.Config(hidden=H, **values)  # type: ignore[arg-type]
        assert built(config).multiply_adds(I, T) == dense
    early = built(SelfAttention.Config(hidden=H, form="early"))
    assert early.multiply_adds(I, T) == pytest.approx(dense - O * H)


@pytest.mark.parametrize("scoring", ["mlp", "dot", "separable"])
def test_the_products_of_the_equations_are_those_that_torch_sees(scoring: Any) -> None:
    # torch sees neither the products with a vector that score memories, nor the sum of one memory
    config = SAB.Config(hidden=H, k_top=10**9, k_att=1, scoring=scoring)
    model = config.build(I, O, steps=T, generator=torch.Generator())
    assert isinstance(model, SAB)
    p = model.weights()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden, summary, _ = reference.sab(
            torch.randn(1, T, I), reference.initial_state(1, p), p,
            k_top=10**9, k_att=1, k_trunc=0, rule=model.rule,
        )  # fmt: skip
        model.readout(hidden, summary)
    unseen = H * (T + 1) / 2 + H / T  # the scores of 1 + 2 + … + T memories of H numbers
    assert counter.get_total_flops() / 2 / T + unseen == pytest.approx(model.multiply_adds(I, T))


def test_self_attention_makes_the_products_that_torch_sees() -> None:
    model = built(SelfAttention.Config(hidden=H))
    assert isinstance(model, SelfAttention)
    zeros = torch.zeros(1, H)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden, summary, _ = self_attention.equations(
            torch.randn(1, T, I), self_attention.start(zeros, zeros), model.weights()
        )
        model.readout(hidden, summary)
    unseen = H * (T - 1) / 2 + H / T
    assert counter.get_total_flops() / 2 / T + unseen == pytest.approx(model.multiply_adds(I, T))


@pytest.mark.parametrize(
    "config",
    [
        sab.MemLSTM.Config(hidden=H),
        sab.RelLSTM.Config(hidden=H),
        sab.RelLSTM.Config(hidden=H, short_term=5, relevant=3),
        sab.RelLSTM.Config(hidden=H, short_term=1, relevant=0),
    ],
)
def test_relevancy_screening_makes_the_products_that_torch_sees(config: sab.ModelConfig) -> None:
    model = built(config)
    count = counted(model, I, T)
    assert count is not None
    single = T if config.label().endswith("relevant=0") else 1  # torch sees no sum of one memory
    assert count + single * H / T == pytest.approx(model.multiply_adds(I, T))


def test_self_attention_to_few_states_sums_up_only_those() -> None:
    full = built(SelfAttention.Config(hidden=H)).multiply_adds(I, T)
    few = built(SelfAttention.Config(hidden=H, weights="top_k", k_top=2)).multiply_adds(I, T)
    left_out = sum(max(0, memories - 2) for memories in range(T))
    assert few == pytest.approx(full - left_out * H / T)


@pytest.mark.parametrize(
    "kind", sorted({*MODELS} - {"sab", "self-attention", "mem-lstm", "rel-lstm", "transformer"})
)
def test_the_count_of_a_model_is_that_of_torch(kind: str) -> None:
    model = built(MODELS[kind](hidden=H))
    assert model.multiply_adds(I, T) == pytest.approx(counted(model, I, T))


def test_a_transformer_counts_the_pairs_of_steps_that_its_mask_allows() -> None:
    model = built(sab.Transformer.Config(hidden=H, layers=3))
    seen = counted(model, I, T)
    assert seen is not None
    masked = 3 * 2 * H * T * (T - 1) / 2  # torch counts all pairs
    assert model.multiply_adds(I, T) == pytest.approx(seen - masked / T)


class Layers(nn.Module):
    """Layers of torch, some of which are one operation on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(I, H, batch_first=True), nn.GRU(H, H, batch_first=True)
        self.attention = nn.TransformerEncoderLayer(H, 2, 2 * H, batch_first=True)

    def set_progress(self, progress: float) -> None:
        pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.gru(self.lstm(x)[0])[0]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.attention(hidden, mask, is_causal=True)  # type: ignore[no-any-return]


def test_layers_of_torch_are_counted_as_by_hand() -> None:
    recurrent = 4 * H * (I + H) + 3 * H * (H + H)
    attention = 4 * H * H + 2 * H * T  # projections; scores of all pairs, and their weighted sums
    assert counted(Layers(), I, T) == recurrent + attention + 2 * H * 2 * H


def test_the_count_of_a_layer_is_that_of_torchs_counter() -> None:
    model: Any = nn.Sequential(nn.Linear(I, H), nn.Linear(H, O), nn.Flatten(0, 1))
    model.set_progress = lambda _: None
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, T, I))
    assert counted(model, I, T) == counter.get_total_flops() / 2 / T


class Mixing(LSTM):
    """A model of one's own that multiplies sequences with each other, and remembers a mask."""

    mask: torch.Tensor | None = None
    looping = failing = False
    multiply_adds = sab.Model.multiply_adds

    def forward(self, x: Any, state: Any = None) -> Any:
        if self.failing:
            raise RuntimeError("no")
        if self.mask is None:
            self.mask = torch.ones(x.shape[1], x.shape[1], device=x.device).tril()
        for _ in range(MOST_OPERATIONS * self.looping):
            x = x + 0
        mixed = (self.mask * (x @ x.transpose(1, 2))) @ x  # 2 T² I multiply-adds
        logits = mixed @ self.V.T[:I] @ torch.ones(O, device=x.device)  # T O (I + 1)
        return logits, state


@dataclass(frozen=True, kw_only=True)
class MixingConfig(LSTM.Config):
    def build(self, inputs: int, outputs: int, *, steps: int, generator: Any) -> Mixing:
        return Mixing(self, inputs, outputs, generator)


def own(**attributes: bool) -> Mixing:
    model = built(MixingConfig(hidden=H))
    assert isinstance(model, Mixing)
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def test_a_model_of_ones_own_is_counted_and_stays_as_it_is() -> None:
    model = own()
    before = torch.random.get_rng_state()
    assert model.multiply_adds(I, T) == 2 * T * I + O * (I + 1)
    assert model.mask is None
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("attribute", ["looping", "failing"])
def test_a_model_that_cannot_be_counted_counts_its_weights(attribute: str) -> None:
    model = own(**{attribute: True})
    assert model.multiply_adds(I, T) == matrix_weights(model) == 4 * H * (I + H) + O * H


def test_a_trial_has_its_cost_however_often_it_is_resumed(tmp_path: Path) -> None:
    run = TrialRun(spec())
    (first, last) = run
    wanted = cost_of(run.training.model, run.training.task)
    assert (first.parameters, first.multiply_adds) == (wanted.parameters, wanted.multiply_adds)
    assert wanted.parameters == sum(p.numel() for p in run.training.model.parameters())
    steps = run.training.task.remembered_steps
    assert wanted.multiply_adds == run.training.model.multiply_adds(10, steps)
    paused = TrialRun(spec())
    next(iter(paused))
    paused.save(tmp_path)
    (resumed,) = list(TrialRun.resume(spec(), tmp_path))[-1:]
    assert (resumed.parameters, resumed.multiply_adds) == (last.parameters, last.multiply_adds)
    assert Progress.from_dict(last.to_dict()) == last


def ended(last: Progress) -> Any:
    """Return the record of a trial that was stored with its last progress."""
    writer = StudyWriter(optuna.create_study())
    trial = writer.optuna.ask()
    trial.set_user_attr("assignment", spec().to_dict())
    return writer.end(trial, Outcome(state="COMPLETE", ladder=last.ladder), [0.5], last)


def test_the_cost_is_stored_and_logged() -> None:
    *_, last = TrialRun(spec())
    record = ended(last)
    assert (record.parameters, record.multiply_adds) == (last.parameters, last.multiply_adds)
    logged = {point.key: point.value for point in cost_points(last, 0)}
    assert logged == {
        "peak_memory_mib": last.memory,
        "parameters": last.parameters,
        "multiply_adds_per_step": last.multiply_adds,
    }


def test_a_trial_of_version_0_1_lacks_the_cost() -> None:
    *_, last = TrialRun(spec())
    data = last.to_dict()
    del data["parameters"], data["multiply_adds"]
    former = Progress.from_dict(data)
    record = ended(former)
    assert (record.parameters, record.multiply_adds) == (None, None)
    assert [point.key for point in cost_points(former, 0)] == ["peak_memory_mib"]


def test_weights_in_matrices_are_counted() -> None:
    assert matrix_weights(nn.Linear(3, 4)) == 12
