"""Selective copying of 5 symbols among 20 blanks: which sparsity still recalls among 500?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.baselines import baselines
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import SelectiveCopying
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="selective_copying",
    task=SelectiveCopying.Config(length=20, symbols=5),
    ladder=Ladder(lengths=(20, 40, 100, 200, 500), select=(20, 40, 100)),
    trials=20,
    startup=8,
    pruning=ASHA(grace=2000, reduction=2),
    # The first trial has values that beat chance in a short training.
    points=({"k_top": 5, "k_att": 1, "k_trunc": 5, "learning_rate": 4e-3, "shortest": 1},),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample the sparsity, the truncation length and the training parameters."""
    model = SAB.Config(
        hidden=64,
        k_top=trial.suggest_int("k_top", 2, 10),
        k_att=trial.suggest_int("k_att", 1, 5),
        k_trunc=trial.suggest_int("k_trunc", 2, 10),
    )
    return TrialConfig(model=model, train=train(trial))


def train(trial: optuna.Trial) -> TrainConfig:
    """Sample the learning rate and the shortest training length. The baselines share this."""
    return TrainConfig(
        updates=8000,
        batch_size=32,
        learning_rate=trial.suggest_float("learning_rate", 1e-3, 8e-3, log=True),
        shortest=trial.suggest_int("shortest", 1, 20),
        report_every=1000,
    )


BASELINES = baselines(train, hidden=64, k_trunc=(2, 25), task=STUDY.task)
