"""The search spaces of the paper's baselines, for the BASELINES of a study file."""

from __future__ import annotations

from collections.abc import Callable

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import LSTM, SelfAttention
from sabtune.study.definition import Space


def zero(_: optuna.Trial) -> float:
    """Return 0 for any trial."""
    return 0.0


def baselines(
    train: Callable[[optuna.Trial], TrainConfig],
    *,
    hidden: int,
    k_trunc: tuple[int, int],
    forget_bias: Callable[[optuna.Trial], float] = zero,
) -> dict[str, Space]:
    """Return the spaces of the baselines "lstm", "truncated" and "self_attention", by name.

    train: a function that suggests the training configuration of a trial. forget_bias: a function
    that suggests the forget bias of a trial. hidden: the number of hidden units. k_trunc: the
    smallest and the largest number of steps of truncated back-propagation.
    """

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

    return {"lstm": lstm, "truncated": truncated, "self_attention": self_attention}


rivals = baselines  # the name in version 0.1
