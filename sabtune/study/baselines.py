"""The search spaces of the baselines, for the BASELINES of a study file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import optuna

from sabtune.config import TrainConfig, TrialConfig
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
from sabtune.models.transformer import POSITIONS, Positions
from sabtune.study.definition import Space
from sabtune.tasks import TaskConfig
from sabtune.training.matching import matched


def zero(_: optuna.Trial) -> float:
    """Return 0 for any trial."""
    return 0.0


def baselines(
    train: Callable[[optuna.Trial], TrainConfig],
    *,
    hidden: int,
    k_trunc: tuple[int, int],
    forget_bias: Callable[[optuna.Trial], float] = zero,
    task: TaskConfig | None = None,
) -> dict[str, Space]:
    """Return the spaces of the baselines, by name.

    "lstm", "truncated" and "self_attention" are those of the paper. "entmax" is self-attention with
    entmax-1.5, and "sparse_test" is self-attention that is sparse at test alone. "h_detach" is an
    LSTM with h-detach. These have the width of SAB. The others, such as "gru", have its number of
    parameters, as closely as the heads of a Transformer and of Mamba-2 allow. The batches of
    "mamba2_passing" start from the final states of the one before.

    train: a function that suggests the training configuration of a trial. forget_bias: a function
    that suggests the forget bias of a trial. hidden: the number of hidden units of SAB. k_trunc:
    the smallest and the largest number of steps of truncated back-propagation. task: the task of
    the study, whose inputs and outputs decide the numbers of parameters; None counts for copying.
    """

    def as_large(model: ModelConfig) -> ModelConfig:
        return matched(model, parameters=SAB.Config(hidden=hidden), task=task)

    def lstm(trial: optuna.Trial) -> TrialConfig:
        """An LSTM of the same size without a memory, under full back-propagation through time."""
        model = LSTM.Config(hidden=hidden, forget_bias=forget_bias(trial))
        return TrialConfig(model=model, train=train(trial))

    def truncated(trial: optuna.Trial) -> TrialConfig:
        """An LSTM of the same size without a memory, under truncated back-propagation."""
        steps = trial.suggest_int("k_trunc", *k_trunc)
        model = LSTM.Config(hidden=hidden, k_trunc=steps, forget_bias=forget_bias(trial))
        return TrialConfig(model=model, train=train(trial))

    def self_attention(trial: optuna.Trial) -> TrialConfig:
        """An LSTM of the same size with attention to, and gradients through, all earlier states."""
        model = SelfAttention.Config(hidden=hidden, forget_bias=forget_bias(trial))
        return TrialConfig(model=model, train=train(trial))

    def entmax(trial: optuna.Trial) -> TrialConfig:
        """An LSTM of the same size that attends to earlier states with weights from entmax-1.5."""
        model = SelfAttention.Config(
            hidden=hidden, weights="entmax15", forget_bias=forget_bias(trial)
        )
        return TrialConfig(model=model, train=train(trial))

    def sparse_test(trial: optuna.Trial) -> TrialConfig:
        """An LSTM of the same size with full attention in training, and top-k attention at test."""
        k_top = trial.suggest_int("k_top", 1, 20)
        model = SelfAttention.Config(
            hidden=hidden, test_weights="top_k", k_top=k_top, forget_bias=forget_bias(trial)
        )
        return TrialConfig(model=model, train=train(trial))

    def h_detach(trial: optuna.Trial) -> TrialConfig:
        """An LSTM of the same size that blocks gradients through h at random steps."""
        probability = trial.suggest_float("h_detach", 0.1, 0.9)
        model = LSTM.Config(hidden=hidden, h_detach=probability, forget_bias=forget_bias(trial))
        return TrialConfig(model=model, train=train(trial))

    def gru(trial: optuna.Trial) -> TrialConfig:
        """A GRU with the number of parameters of SAB, under full back-propagation through time."""
        return TrialConfig(model=as_large(GRU.Config()), train=train(trial))

    def slstm(trial: optuna.Trial) -> TrialConfig:
        """An sLSTM with the number of parameters of SAB, under full back-propagation."""
        model = as_large(SLSTM.Config(forget_bias=forget_bias(trial)))
        return TrialConfig(model=model, train=train(trial))

    def mingru(trial: optuna.Trial) -> TrialConfig:
        """Two layers of minGRU with the number of parameters of SAB."""
        return TrialConfig(model=as_large(MinGRU.Config()), train=train(trial))

    def minlstm(trial: optuna.Trial) -> TrialConfig:
        """Two layers of minLSTM with the number of parameters of SAB."""
        model = as_large(MinLSTM.Config(forget_bias=forget_bias(trial)))
        return TrialConfig(model=model, train=train(trial))

    def mem_lstm(trial: optuna.Trial) -> TrialConfig:
        """An LSTM that reads its attention to all states, with the number of parameters of SAB."""
        model = as_large(MemLSTM.Config(forget_bias=forget_bias(trial)))
        return TrialConfig(model=model, train=train(trial))

    def rel_lstm(trial: optuna.Trial) -> TrialConfig:
        """MemLSTM with relevancy screening: it attends to recent and to relevant states."""
        model = RelLSTM.Config(
            hidden=as_large(MemLSTM.Config()).hidden,  # it has the same parameters
            short_term=trial.suggest_int("short_term", 1, 20),
            relevant=trial.suggest_int("relevant", 1, 20),
            forget_bias=forget_bias(trial),
        )
        return TrialConfig(model=model, train=train(trial))

    def transformer(trial: optuna.Trial) -> TrialConfig:
        """Two layers of a Transformer with about the number of parameters of SAB."""
        model = Transformer.Config(
            heads=trial.suggest_categorical("heads", (1, 2)),
            positions=cast(Positions, trial.suggest_categorical("positions", tuple(POSITIONS))),
        )
        return TrialConfig(model=as_large(model), train=train(trial))

    def mamba2(trial: optuna.Trial) -> TrialConfig:
        """Two layers of Mamba-2 with the number of parameters of SAB."""
        model = Mamba2.Config(state_size=trial.suggest_categorical("state_size", (16, 32, 64)))
        return TrialConfig(model=as_large(model), train=train(trial))

    def mamba2_passing(trial: optuna.Trial) -> TrialConfig:
        """Mamba-2 whose training sequences start from the final states of the batch before."""
        config = mamba2(trial)
        return replace(config, train=replace(config.train, initial="passed"))

    return {
        "lstm": lstm,
        "truncated": truncated,
        "self_attention": self_attention,
        "entmax": entmax,
        "sparse_test": sparse_test,
        "h_detach": h_detach,
        "gru": gru,
        "slstm": slstm,
        "mingru": mingru,
        "minlstm": minlstm,
        "mem_lstm": mem_lstm,
        "rel_lstm": rel_lstm,
        "transformer": transformer,
        "mamba2": mamba2,
        "mamba2_passing": mamba2_passing,
    }


rivals = baselines  # the name in version 0.1
