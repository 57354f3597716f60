"""The adding task, trained at lengths from 25 to 50: which sparsity still works at length 200?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.baselines import baselines
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Adding
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="adding",
    task=Adding.Config(length=50),
    ladder=Ladder(lengths=(50, 75, 100, 200), select=(50, 75), sequences=512),
    trials=8,
    startup=4,
    pruning=ASHA(grace=1000, reduction=2),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample the sparsity, the truncation length and the learning rate."""
    model = SAB.Config(
        hidden=64,
        k_top=trial.suggest_int("k_top", 2, 10),
        k_att=trial.suggest_int("k_att", 2, 10),
        k_trunc=trial.suggest_int("k_trunc", 5, 25),
    )
    return TrialConfig(model=model, train=train(trial))


def train(trial: optuna.Trial) -> TrainConfig:
    """Sample the learning rate. The baselines share this function."""
    return TrainConfig(
        updates=3000,
        batch_size=32,
        learning_rate=trial.suggest_float("learning_rate", 1e-3, 5e-3, log=True),
        decay=0.5,
        shortest=25,
        report_every=500,
    )


BASELINES = baselines(train, hidden=64, k_trunc=(5, 25), task=STUDY.task)
