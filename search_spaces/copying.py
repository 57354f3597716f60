"""The copying task, trained at lengths up to 100: which sparsity still recalls at length 5,000?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.schedule import Constant, Cosine, Linear, Moving, Schedule
from sabtune.study.baselines import baselines
from sabtune.study.configurations import Seeds
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Copying
from sabtune.training.evaluation import Ladder

# The values that all points below share.
USUAL = {
    "schedule": "constant",
    "forget_bias": 0,
    "learning_rate": 1e-3,
    "clip_norm": 0.5,
    "warmup": 0.0,
}
PAPER = USUAL | {"k_att": 5, "k_trunc": 5, "k_top": 5}

STUDY = Study(
    name="copying",
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
        # The paper's values for this task (Ke et al. 2018, from memory; k_att is our reading).
        PAPER | {"shortest": 100},
        # The same values, also trained on shorter sequences.
        PAPER | {"shortest": 5},
        # The paper's best values for adding, also trained on shorter sequences.
        USUAL | {"k_att": 10, "k_trunc": 10, "k_top": 10, "shortest": 5},
    ),
)

DECREASING: dict[str, type[Moving]] = {"linear": Linear, "cosine": Cosine}


def space(trial: optuna.Trial) -> TrialConfig:
    """Sample the sparsity, its schedule, the initialization and the training parameters.

    k_att and k_trunc are independent: a truncated block need not end at a memory.
    """
    model = SAB.Config(
        hidden=64,
        k_top=trial.suggest_int("k_top", 2, 15),
        k_att=trial.suggest_int("k_att", 1, 10),
        k_trunc=trial.suggest_int("k_trunc", 1, 20),
        schedule=schedule(trial),
        forget_bias=forget_bias(trial),
    )
    return TrialConfig(model=model, train=train(trial))


def train(trial: optuna.Trial) -> TrainConfig:
    """Sample the learning rate, clipping, warm-up and shortest training length.

    The baselines share this function.
    """
    return TrainConfig(
        updates=20_000,
        batch_size=32,
        learning_rate=trial.suggest_float("learning_rate", 5e-4, 4e-3, log=True),
        clip_norm=trial.suggest_float("clip_norm", 0.25, 2.0, log=True),
        warmup=trial.suggest_float("warmup", 0.0, 0.1),
        shortest=trial.suggest_int("shortest", 5, 100),
        report_every=1000,
    )


def forget_bias(trial: optuna.Trial) -> int:
    """Sample the initial forget-gate bias: above 0, the LSTM starts out keeping its cell state."""
    return trial.suggest_int("forget_bias", 0, 3)


def schedule(trial: optuna.Trial) -> Schedule:
    """Sample the schedule of k_top: constant, or decreasing from dense attention.

    `share` is the share of the updates that the decrease takes.
    """
    name = trial.suggest_categorical("schedule", ["constant", *DECREASING])
    if name == "constant":
        return Constant()
    return DECREASING[name](start="all", share=trial.suggest_float("share", 0.05, 0.5))


BASELINES = baselines(train, hidden=64, k_trunc=(5, 50), forget_bias=forget_bias, task=STUDY.task)
