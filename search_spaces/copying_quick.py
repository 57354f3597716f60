"""The copying task, trained at length 20: which sparsity still recalls at length 200?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.schedule import Constant, Linear
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Copying
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="copying_quick",
    task=Copying.Config(length=20, symbols=5),
    ladder=Ladder(lengths=(20, 40, 100, 200), select=(20, 40, 100)),
    trials=20,
    startup=8,  # trials drawn at random before the sampler models the space
    pruning=ASHA(grace=2000, reduction=2),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample the sparsity, its schedule, the truncation length and the learning rate."""
    schedule = trial.suggest_categorical("schedule", ["constant", "linear"])
    return TrialConfig(
        model=SAB.Config(
            hidden=64,
            k_top=trial.suggest_int("k_top", 2, 8),
            k_att=trial.suggest_int("k_att", 1, 5),
            k_trunc=trial.suggest_int("k_trunc", 2, 10),
            schedule=Linear(start="all") if schedule == "linear" else Constant(),
        ),
        train=TrainConfig(
            updates=8000,
            batch_size=32,
            learning_rate=trial.suggest_float("learning_rate", 1e-3, 5e-3, log=True),
            report_every=500,
        ),
    )
