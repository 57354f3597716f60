"""Associative recall of 4 pairs among thousands of keys: which sparsity recalls 64 pairs?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.baselines import baselines
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import MQAR
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="mqar",
    # Zoology has as many values as keys. The logits of 4,096 values take much of the time.
    task=MQAR.Config(length=64, pairs=4, keys=4096, values=256, grows="pairs"),
    ladder=Ladder(lengths=(64, 128, 256, 1024), select=(64, 128), sequences=256),
    trials=12,
    startup=6,
    pruning=ASHA(grace=1000, reduction=2),
    # The first trial has values that beat chance in a short training.
    points=({"k_top": 2, "k_att": 1, "k_trunc": 4, "learning_rate": 5e-3},),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample the sparsity, the truncation length and the learning rate."""
    model = SAB.Config(
        hidden=128,
        k_top=trial.suggest_int("k_top", 1, 8),
        k_att=trial.suggest_int("k_att", 1, 2),
        k_trunc=trial.suggest_int("k_trunc", 2, 8),
    )
    return TrialConfig(model=model, train=train(trial))


def train(trial: optuna.Trial) -> TrainConfig:
    """Sample the learning rate. The baselines share this function."""
    return TrainConfig(
        updates=5000,
        batch_size=64,
        learning_rate=trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True),
        decay=0.5,
        report_every=1000,
    )


BASELINES = baselines(train, hidden=128, k_trunc=(2, 16), task=STUDY.task)
