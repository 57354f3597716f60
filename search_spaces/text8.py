"""text8, one character per step: which sparsity makes use of more context?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Language
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="text8",
    task=Language.Config(text="text8", length=180, memory_span=1000),
    ladder=Ladder(lengths=(180, 500, 1000, 2000), select=(180, 1000), sequences=256),
    trials=40,
    startup=10,
    pruning=ASHA(grace=5000, reduction=2),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample the sparsity, the truncation length and the learning rate."""
    return TrialConfig(
        model=SAB.Config(
            hidden=512,
            k_top=trial.suggest_int("k_top", 2, 20),
            k_att=trial.suggest_int("k_att", 2, 50),
            k_trunc=trial.suggest_int("k_trunc", 10, 100),
        ),
        train=TrainConfig(
            updates=80_000,
            batch_size=64,
            learning_rate=trial.suggest_float("learning_rate", 5e-4, 4e-3, log=True),
            decay=0.25,
            report_every=5000,
        ),
    )
