"""The composition of up to 10 permutations of 5 items: does sparse attention help to track 40?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.baselines import baselines
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Permutations
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="permutations",
    task=Permutations.Config(length=10, items=5),
    ladder=Ladder(lengths=(10, 20, 40), select=(10, 20)),
    trials=12,
    startup=6,
    pruning=ASHA(grace=2000, reduction=2),
    # The first trial has values that beat chance in a short training.
    points=({"k_top": 4, "k_att": 2, "k_trunc": 5, "learning_rate": 5e-3, "shortest": 2},),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample the sparsity, the truncation length and the training parameters."""
    model = SAB.Config(
        hidden=128,
        k_top=trial.suggest_int("k_top", 1, 8),
        k_att=trial.suggest_int("k_att", 1, 5),
        k_trunc=trial.suggest_int("k_trunc", 2, 10),
    )
    return TrialConfig(model=model, train=train(trial))


def train(trial: optuna.Trial) -> TrainConfig:
    """Sample the learning rate and the shortest training length. The baselines share this."""
    return TrainConfig(
        updates=10_000,
        batch_size=128,
        learning_rate=trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True),
        decay=0.5,
        shortest=trial.suggest_int("shortest", 2, 10),
        report_every=1000,
    )


BASELINES = baselines(train, hidden=128, k_trunc=(2, 10), task=STUDY.task)
