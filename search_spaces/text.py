"""Python's help texts, one character per step: which sparsity makes use of more context?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.baselines import baselines
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Language
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="text",
    task=Language.Config(text="pydoc", length=50, memory_span=100),
    ladder=Ladder(lengths=(50, 100, 200, 400), select=(50, 200), sequences=128),
    trials=6,
    startup=4,
    pruning=ASHA(grace=500, reduction=2),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample the sparsity, the truncation length and the learning rate."""
    model = SAB.Config(
        hidden=128,
        k_top=trial.suggest_int("k_top", 2, 10),
        k_att=trial.suggest_int("k_att", 2, 10),
        k_trunc=trial.suggest_int("k_trunc", 10, 50),
    )
    return TrialConfig(model=model, train=train(trial))


def train(trial: optuna.Trial) -> TrainConfig:
    """Sample the learning rate. The baselines share this function."""
    return TrainConfig(
        updates=2000,
        batch_size=32,
        learning_rate=trial.suggest_float("learning_rate", 2e-3, 1e-2, log=True),
        decay=0.5,
        report_every=250,
    )


BASELINES = baselines(train, hidden=128, k_trunc=(10, 50), task=STUDY.task)
