"""Permuted sequential MNIST, one pixel per step, 784 steps: which sparsity classifies best?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Pixels
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="mnist",
    task=Pixels.Config(images="mnist", length=784, permutation=0),
    ladder=Ladder(lengths=(784, 1000), select=(784,), sequences=2000),
    trials=40,
    startup=10,
    pruning=ASHA(grace=2000, reduction=2),
    # The paper's sparsity on this task (Ke et al. 2018, quoted from memory), tried first.
    points=({"k_top": 10, "k_att": 50, "k_trunc": 50, "learning_rate": 1e-3},),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample the sparsity, the truncation length and the learning rate."""
    return TrialConfig(
        model=SAB.Config(
            hidden=128,
            k_top=trial.suggest_int("k_top", 2, 20),
            k_att=trial.suggest_int("k_att", 10, 100),
            k_trunc=trial.suggest_int("k_trunc", 10, 200),
        ),
        train=TrainConfig(
            updates=20_000,
            batch_size=100,
            learning_rate=trial.suggest_float("learning_rate", 5e-4, 4e-3, log=True),
            decay=0.25,
            report_every=1000,
        ),
    )
