"""Handwritten digits of 64 pixels in permuted order: which sparsity tells them apart?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.evaluation import Ladder
from sabtune.models import LSTM, SAB, SelfAttention
from sabtune.search.study import ASHA, Study
from sabtune.tasks import Pixels

STUDY = Study(
    name="digits",
    task=Pixels.Config(images="digits", length=64, permutation=0),
    ladder=Ladder(lengths=(64, 80, 128), select=(64,)),
    trials=6,
    startup=4,
    pruning=ASHA(grace=500, reduction=2),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Sparsity, how far credit runs locally, and the learning rate."""
    model = SAB.Config(
        hidden=64,
        k_top=trial.suggest_int("k_top", 2, 10),
        k_att=trial.suggest_int("k_att", 2, 16),
        k_trunc=trial.suggest_int("k_trunc", 8, 64),
    )
    return TrialConfig(model=model, train=train(trial))


def lstm(trial: optuna.Trial) -> TrialConfig:
    """The same LSTM without a memory, under full back-propagation through time."""
    return TrialConfig(model=LSTM.Config(hidden=64), train=train(trial))


def truncated(trial: optuna.Trial) -> TrialConfig:
    """The same LSTM without a memory, under back-propagation through a few steps alone."""
    k_trunc = trial.suggest_int("k_trunc", 8, 64)
    return TrialConfig(model=LSTM.Config(hidden=64, k_trunc=k_trunc), train=train(trial))


def self_attention(trial: optuna.Trial) -> TrialConfig:
    """The same LSTM that attends to each of its states so far, and sends credit through all."""
    return TrialConfig(model=SelfAttention.Config(hidden=64), train=train(trial))


RIVALS = {"lstm": lstm, "truncated": truncated, "self_attention": self_attention}


def train(trial: optuna.Trial) -> TrainConfig:
    """The learning rate; all have the same updates."""
    return TrainConfig(
        updates=1500,
        batch_size=32,
        learning_rate=trial.suggest_float("learning_rate", 2e-3, 1e-2, log=True),
        decay=0.5,
        report_every=250,
    )
