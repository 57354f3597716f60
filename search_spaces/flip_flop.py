"""The flip-flop language, trained at 80 % ignored instructions: which sparsity reads at 98 %?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.baselines import baselines
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import FlipFlop
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="flip_flop",
    # Liu et al. (2023) train and test with 256 instructions. A test_ignore of 0.1 is their dense
    # test.
    task=FlipFlop.Config(length=64, ignore=0.8, test_ignore=0.98),
    ladder=Ladder(lengths=(64, 128, 256, 1024), select=(64, 128)),
    trials=12,
    startup=6,
    pruning=ASHA(grace=1000, reduction=2),
    # The first trial has values that beat chance in a short training.
    points=({"k_top": 5, "k_att": 2, "k_trunc": 5, "learning_rate": 5e-3},),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample the sparsity, the truncation length and the learning rate."""
    model = SAB.Config(
        hidden=64,
        k_top=trial.suggest_int("k_top", 1, 10),
        k_att=trial.suggest_int("k_att", 1, 8),
        k_trunc=trial.suggest_int("k_trunc", 2, 20),
    )
    return TrialConfig(model=model, train=train(trial))


def train(trial: optuna.Trial) -> TrainConfig:
    """Sample the learning rate. The baselines share this function."""
    return TrainConfig(
        updates=3000,
        batch_size=32,
        learning_rate=trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True),
        decay=0.5,
        report_every=500,
    )


BASELINES = baselines(train, hidden=64, k_trunc=(2, 20), task=STUDY.task)
