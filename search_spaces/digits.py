"""Handwritten digits, 64 pixels in permuted order: which sparsity classifies best?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.baselines import baselines
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Pixels
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="digits",
    task=Pixels.Config(images="digits", length=64, permutation=0),
    ladder=Ladder(lengths=(64, 80, 128), select=(64,)),
    trials=6,
    startup=4,
    pruning=ASHA(grace=500, reduction=2),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample the sparsity, the truncation length and the learning rate."""
    model = SAB.Config(
        hidden=64,
        k_top=trial.suggest_int("k_top", 2, 10),
        k_att=trial.suggest_int("k_att", 2, 16),
        k_trunc=trial.suggest_int("k_trunc", 8, 64),
    )
    return TrialConfig(model=model, train=train(trial))


def train(trial: optuna.Trial) -> TrainConfig:
    """Sample the learning rate. The baselines share this function."""
    return TrainConfig(
        updates=1500,
        batch_size=32,
        learning_rate=trial.suggest_float("learning_rate", 2e-3, 1e-2, log=True),
        decay=0.5,
        report_every=250,
    )


BASELINES = baselines(train, hidden=64, k_trunc=(8, 64), task=STUDY.task)
