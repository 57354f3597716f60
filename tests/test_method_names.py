"""Test the names of methods in figures and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from sabtune.analysis.compared import comparison
from sabtune.models import (
    GRU,
    LSTM,
    SAB,
    SLSTM,
    Mamba2,
    MemLSTM,
    MinGRU,
    MinLSTM,
    ModelConfig,
    RelLSTM,
    SelfAttention,
    Transformer,
)
from sabtune.models.sab import ALL
from sabtune.schedule import Linear
from sabtune.storage.store import Store
from sabtune.study.method_names import method_names
from sabtune.study.record import StudyRecord
from tests.reports import confirmed

FULL, TRUNCATED, DENSE = LSTM.Config(), LSTM.Config(k_trunc=10), SelfAttention.Config()
SPARSE = SAB.Config(k_top=5, k_att=2)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (FULL, "LSTM, full BPTT"),
        (TRUNCATED, "LSTM, truncated BPTT (k_trunc=10)"),
        (DENSE, "Self-attention LSTM, full BPTT"),
        (SelfAttention.Config(weights="top_k"), "Self-attention LSTM, full BPTT, top-5"),
        (LSTM.Config(h_detach=0.25), "LSTM, full BPTT, h-detach (p=0.25)"),
        (GRU.Config(k_trunc=10), "GRU, truncated BPTT (k_trunc=10)"),
        (MinGRU.Config(), "minGRU, 2 layers"),
        (MinLSTM.Config(layers=1), "minLSTM, 1 layer"),
        (MemLSTM.Config(), "MemLSTM"),
        (RelLSTM.Config(short_term=8), "RelLSTM (short_term=8, relevant=15)"),
        (Transformer.Config(), "Transformer, 2 layers, rotary positions"),
        (Transformer.Config(layers=1, positions="none"), "Transformer, 1 layer, no positions"),
        (Transformer.Config(positions="alibi"), "Transformer, 2 layers, ALiBi"),
        (Mamba2.Config(layers=1), "Mamba-2, 1 layer"),
        (SLSTM.Config(), "sLSTM"),
        (SPARSE, "SAB (k_top=5, k_att=2, k_trunc=5)"),
        (SAB.Config(k_top=ALL, k_trunc=0), "SAB (k_top=all, k_att=5, full BPTT)"),
        (SAB.Config(schedule=Linear()), "SAB (k_top=5, k_att=5, k_trunc=5, linear schedule)"),
        (
            SAB.Config(scoring="dot", normalizer="softmax"),
            "SAB (k_top=5, k_att=5, k_trunc=5, dot scoring, softmax)",
        ),
        (SAB.Config(form="released"), "SAB (k_top=5, k_att=5, k_trunc=5, released form)"),
        (
            SAB.Config(form="early", cut="after"),
            "SAB (k_top=5, k_att=5, k_trunc=5, early form, cut=after)",
        ),
    ],
)
def test_a_model_has_the_name_of_its_kind_and_its_parameters(model: ModelConfig, name: str) -> None:
    assert model.legend() == name


class Own(ModelConfig):
    def label(self) -> str:
        return "gru"

    def build(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
        raise AssertionError


def test_a_model_of_your_own_has_its_label() -> None:
    assert Own().legend() == "gru"


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (
            {"#3 k_top=5 k_att=2 k_trunc=5 constant": SPARSE, "of.lstm #1 lstm full BPTT": FULL,
             "of.own #7 gru": Own()},
            ["SAB (k_top=5, k_att=2, k_trunc=5)", "LSTM, full BPTT", "gru"],
        ),
        ({"#3 words of an earlier version": FULL}, ["LSTM, full BPTT"]),
        (
            {"lstm": FULL, "truncated": TRUNCATED, "self_attention": DENSE, "sab": SPARSE},
            ["LSTM, full BPTT", "LSTM, truncated BPTT (k_trunc=10)",
             "Self-attention LSTM, full BPTT", "SAB (k_top=5, k_att=2, k_trunc=5)"],
        ),
        (
            {"#3 lstm full BPTT": FULL, "#4 lstm full BPTT": FULL, "copying.lstm #3 lstm": FULL},
            ["LSTM, full BPTT, #3", "LSTM, full BPTT, #4", "LSTM, full BPTT, copying.lstm #3"],
        ),
        (
            {"winner": SPARSE, "k_att → 1": SAB.Config(k_att=1), "c.lstm #1 lstm full BPTT": FULL,
             "c.lstm #1 lstm full BPTT: initial → noise": FULL},
            ["SAB (k_top=5, k_att=2, k_trunc=5), winner", "k_att → 1", "LSTM, full BPTT",
             "LSTM, full BPTT: initial → noise"],
        ),
        (
            {"entmax": SelfAttention.Config(weights="entmax15"),
             "sparse_test": SelfAttention.Config(test_weights="sparsemax")},
            ["Self-attention LSTM, full BPTT, entmax-1.5",
             "Self-attention LSTM, full BPTT, softmax, sparsemax at test"],
        ),
        ({"ours": SPARSE, "no #5": FULL}, ["ours", "no #5"]),
    ],
)  # fmt: skip
def test_labels_are_translated_and_names_stay_unique(
    models: Mapping[str, ModelConfig], names: list[str]
) -> None:
    assert list(method_names(models).values()) == names


def test_a_comparison_keeps_its_labels_and_shows_names_and_shares(tmp_path: Path) -> None:
    store = Store(tmp_path)
    label = "#3 k_top=12 k_att=1 k_trunc=5 constant"
    sparse = SAB.Config(hidden=8, k_top=12, k_att=1)
    confirmed(store, "of.confirm", {label: (sparse, [0.5]), "lstm": (FULL, [0.5, None])})
    result = comparison(StudyRecord.open(store, "of.confirm"))
    assert result is not None
    assert [(group.label, group.name, group.share) for group in result.groups] == [
        (label, "SAB (k_top=12, k_att=1, k_trunc=5)", 12 / 121),
        ("lstm", "LSTM, full BPTT", None),
    ]
