"""Sequential CIFAR-10, one pixel per step, 1,024 steps: which sparsity classifies best?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Pixels
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="cifar10",
    task=Pixels.Config(images="cifar10", length=1024),
    ladder=Ladder(lengths=(1024, 1500), select=(1024,), sequences=2000),
    trials=40,
    startup=10,
    pruning=ASHA(grace=4000, reduction=2),
    # The paper's sparsity on this task (Ke et al. 2018, quoted from memory), tried first.
    points=({"k_top": 10, "k_att": 16, "k_trunc": 16, "learning_rate": 1e-3},),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample the sparsity, the truncation length and the learning rate."""
    return TrialConfig(
        model=SAB.Config(
            hidden=128,
            k_top=trial.suggest_int("k_top", 2, 20),
            k_att=trial.suggest_int("k_att", 4, 64),
            k_trunc=trial.suggest_int("k_trunc", 8, 128),
        ),
        train=TrainConfig(
            updates=40_000,
            batch_size=100,
            learning_rate=trial.suggest_float("learning_rate", 5e-4, 4e-3, log=True),
            decay=0.25,
            report_every=2000,
        ),
    )
