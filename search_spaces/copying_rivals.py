"""Copying, trained at lengths up to 100: how far do the rivals carry over, tuned as hard?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.evaluation import Ladder
from sabtune.models import LSTM, SelfAttention
from sabtune.models.base import ModelConfig
from sabtune.search.racing import Seeds
from sabtune.search.study import ASHA, Study
from sabtune.tasks import Copying

STUDY = Study(
    name="copying_rivals",
    task=Copying.Config(length=100, symbols=10),
    ladder=Ladder(
        lengths=(100, 200, 400, 2000, 5000),
        select=(100, 200, 400),
        sequences=64,
        solved_reports=3,
    ),
    trials=60,
    startup=12,
    pruning=ASHA(grace=3000, reduction=2),
    seeds=Seeds(first=1, most=4, reduction=3, objective="mean"),
    points=(
        {"model": "lstm"},
        {"model": "lstm_truncated", "k_trunc": 10},
        {"model": "self_attention"},
    ),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Each rival with its own options; the budget is that of the study of SAB."""
    return TrialConfig(
        model=model(trial),
        train=TrainConfig(
            updates=20_000,
            batch_size=32,
            learning_rate=trial.suggest_float("learning_rate", 5e-4, 4e-3, log=True),
            clip_norm=trial.suggest_float("clip_norm", 0.25, 2.0, log=True),
            warmup=trial.suggest_float("warmup", 0.0, 0.1),
            shortest=trial.suggest_int("shortest", 5, 100),
            report_every=1000,
        ),
    )


def model(trial: optuna.Trial) -> ModelConfig:
    """Full back-propagation, truncated, or attention to all that was."""
    forget_bias = trial.suggest_int("forget_bias", 0, 3)
    match trial.suggest_categorical("model", ["lstm", "lstm_truncated", "self_attention"]):
        case "lstm":
            return LSTM.Config(hidden=128, k_trunc=0, forget_bias=forget_bias)
        case "lstm_truncated":
            k_trunc = trial.suggest_int("k_trunc", 5, 50)
            return LSTM.Config(hidden=128, k_trunc=k_trunc, forget_bias=forget_bias)
        case _:
            return SelfAttention.Config(hidden=64, forget_bias=forget_bias)
