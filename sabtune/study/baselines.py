"""Search spaces of the paper's baselines, for the BASELINES of a study file."""

from __future__ import annotations

from collections.abc import Callable

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import LSTM, SelfAttention
from sabtune.study.definition import Space


def zero(_: optuna.Trial) -> float:
    return 0.0


def baselines(
    train: Callable[[optuna.Trial], TrainConfig],
    *,
    hidden: int,
    k_trunc: tuple[int, int],
    forget_bias: Callable[[optuna.Trial], float] = zero,
) -> dict[str, Space]:
    """By name: spaces of models of `hidden` units. train, forget_bias: draw theirs from a trial.
    k_trunc: the least and the most steps of truncated back-propagation.
    """

    def lstm(trial: optuna.Trial) -> TrialConfig:
        """The same LSTM without a memory, under full back-propagation through time."""
        model = LSTM.Config(hidden=hidden, forget_bias=forget_bias(trial))
        return TrialConfig(model=model, train=train(trial))

    def truncated(trial: optuna.Trial) -> TrialConfig:
        """The same LSTM without a memory, under back-propagation through a few steps alone."""
        steps = trial.suggest_int("k_trunc", *k_trunc)
        model = LSTM.Config(hidden=hidden, k_trunc=steps, forget_bias=forget_bias(trial))
        return TrialConfig(model=model, train=train(trial))

    def self_attention(trial: optuna.Trial) -> TrialConfig:
        """The same LSTM that attends to each of its states so far, and sends credit through all."""
        model = SelfAttention.Config(hidden=hidden, forget_bias=forget_bias(trial))
        return TrialConfig(model=model, train=train(trial))

    return {"lstm": lstm, "truncated": truncated, "self_attention": self_attention}


rivals = baselines  # the former name
