"""A passkey of 3 digits in 50 digits of noise: which sparsity still finds it in 1,000?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.baselines import baselines
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Passkey
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="passkey",
    task=Passkey.Config(length=50, digits=3),
    ladder=Ladder(lengths=(50, 100, 200, 1000), select=(50, 100, 200)),
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
        k_top=trial.suggest_int("k_top", 1, 10),
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
        shortest=trial.suggest_int("shortest", 1, 50),
        report_every=1000,
    )


BASELINES = baselines(train, hidden=64, k_trunc=(2, 25), task=STUDY.task)
