"""Associative recall of two pairs, trained at distance 10: which sparsity still recalls at 80?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.baselines import baselines
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Recall
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="recall",
    task=Recall.Config(length=10, pairs=2, keys=8, values=4),
    ladder=Ladder(lengths=(10, 20, 40, 80), select=(10, 20)),
    trials=8,
    startup=4,
    pruning=ASHA(grace=2000, reduction=2),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample the sparsity, the truncation length and the learning rate."""
    model = SAB.Config(
        hidden=64,
        k_top=trial.suggest_int("k_top", 1, 8),
        k_att=trial.suggest_int("k_att", 1, 3),
        k_trunc=trial.suggest_int("k_trunc", 2, 8),
    )
    return TrialConfig(model=model, train=train(trial))


def train(trial: optuna.Trial) -> TrainConfig:
    """Sample the learning rate. The baselines share this function."""
    return TrainConfig(
        updates=5000,
        batch_size=64,
        learning_rate=trial.suggest_float("learning_rate", 4e-3, 2e-2, log=True),
        decay=0.5,
        report_every=1000,
    )


BASELINES = baselines(train, hidden=64, k_trunc=(2, 8), task=STUDY.task)
