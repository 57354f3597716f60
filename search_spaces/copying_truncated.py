"""Copying, trained at lengths up to 100: and back-propagation through a few steps alone?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.evaluation import Ladder
from sabtune.models import LSTM
from sabtune.search.racing import Seeds
from sabtune.search.study import ASHA, Study
from sabtune.tasks import Copying

USUAL = {"forget_bias": 0, "learning_rate": 1e-3, "clip_norm": 0.5, "warmup": 0.0}

STUDY = Study(
    name="copying_truncated",
    task=Copying.Config(length=100, symbols=10),
    ladder=Ladder(
        lengths=(100, 200, 400, 2000, 5000),
        select=(100, 200, 400),
        sequences=256,
        solved_reports=3,
    ),
    trials=60,
    startup=12,
    pruning=ASHA(grace=3000, reduction=2),
    seeds=Seeds(first=1, most=4, reduction=3, objective="mean"),
    points=(
        USUAL | {"k_trunc": 10, "shortest": 100},
        USUAL | {"k_trunc": 10, "shortest": 5},
    ),
)


def space(trial: optuna.Trial) -> TrialConfig:
    """Rates, lengths and initialisation as for SAB, over the same updates."""
    return TrialConfig(
        model=LSTM.Config(
            hidden=64,
            k_trunc=trial.suggest_int("k_trunc", 5, 50),
            forget_bias=trial.suggest_int("forget_bias", 0, 3),
        ),
        train=TrainConfig(
            updates=20_000,
            batch_size=32,
            learning_rate=trial.suggest_float("learning_rate", 5e-4, 4e-3, log=True),
            clip_norm=trial.suggest_float("clip_norm", 0.25, 2.0, log=True),
            warmup=trial.suggest_float("warmup", 0.0, 0.1),
            shortest=trial.suggest_int("shortest", 5, 100),
            report_every=1000,
        ),
    )
