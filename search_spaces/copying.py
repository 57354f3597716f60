"""Copying, trained at lengths up to 100: which sparsity still recalls at 5,000?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.schedule import Constant, Cosine, Linear, Moving, Schedule
from sabtune.study.baselines import baselines
from sabtune.study.configurations import Seeds
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Copying
from sabtune.training.evaluation import Ladder

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
        # The paper's own on this task (Ke et al. 2018, quoted from memory; k_att is our reading).
        PAPER | {"shortest": 100},
        # The same, trained on shorter sequences too.
        PAPER | {"shortest": 5},
        # And its best on adding, likewise.
        USUAL | {"k_att": 10, "k_trunc": 10, "k_top": 10, "shortest": 5},
    ),
)

MOVING: dict[str, type[Moving]] = {"linear": Linear, "cosine": Cosine}


def space(trial: optuna.Trial) -> TrialConfig:
    """Sparsity, how it sets in, initialisation, rates, lengths; blocks need not match memories."""
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
    """Rates and lengths; all have the same updates."""
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
    """0 is the usual initialisation; with more, gates begin by keeping what they hold."""
    return trial.suggest_int("forget_bias", 0, 3)


def schedule(trial: optuna.Trial) -> Schedule:
    """k_top as it is from the start, or down from dense attention in a share of the updates."""
    name = trial.suggest_categorical("schedule", ["constant", *MOVING])
    if name == "constant":
        return Constant()
    return MOVING[name](start="all", share=trial.suggest_float("share", 0.05, 0.5))


BASELINES = baselines(train, hidden=64, k_trunc=(5, 50), forget_bias=forget_bias)
