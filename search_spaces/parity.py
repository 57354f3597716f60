"""The parity of up to 20 bits: is it still tracked over 500 bits if attention is sparse?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.baselines import baselines
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Parity
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="parity",
    task=Parity.Config(length=20),
    ladder=Ladder(lengths=(20, 40, 100, 500), select=(20, 40, 100)),
    trials=12,
    startup=6,
    pruning=ASHA(grace=1000, reduction=2),
    # The first trial has values that beat chance in a short training.
    points=({"k_top": 5, "k_att": 1, "k_trunc": 5, "learning_rate": 5e-3, "shortest": 2},),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample the sparsity, the truncation length and the training parameters."""
    model = SAB.Config(
        hidden=64,
        k_top=trial.suggest_int("k_top", 1, 10),
        k_att=trial.suggest_int("k_att", 1, 5),
        k_trunc=trial.suggest_int("k_trunc", 2, 20),
    )
    return TrialConfig(model=model, train=train(trial))


def train(trial: optuna.Trial) -> TrainConfig:
    """Sample the learning rate and the shortest training length. The baselines share this."""
    return TrainConfig(
        updates=4000,
        batch_size=64,
        learning_rate=trial.suggest_float("learning_rate", 1e-3, 2e-2, log=True),
        decay=0.5,
        shortest=trial.suggest_int("shortest", 2, 20),
        report_every=500,
    )


BASELINES = baselines(train, hidden=64, k_trunc=(2, 20), task=STUDY.task)
