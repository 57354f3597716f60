"""MNIST by rows, one row of 28 pixels per step: how accurate are SAB and a GRU?"""

import optuna
from gru import GRU

import sabtune as sab

STUDY = sab.Study(
    name="mnist_rows",
    task=sab.Pixels.Config(images="mnist", length=28, by="row"),
    ladder=sab.Ladder(lengths=(28, 56), select=(28,), sequences=2000),
    trials=3,  # three seeds of the first configuration; more trials search the space
    seeds=sab.Seeds(first=3, most=3),
    pruning=None,
    points=({"learning_rate": 2e-3},),
)


def train(trial: optuna.Trial) -> sab.TrainConfig:
    rate = trial.suggest_float("learning_rate", 5e-4, 4e-3, log=True)
    return sab.TrainConfig(
        updates=3000, batch_size=100, learning_rate=rate, decay=0.25, report_every=1000
    )


def space(trial: optuna.Trial) -> sab.TrialConfig:
    model = sab.SAB.Config(hidden=64, k_top=5, k_att=1, k_trunc=14)
    return sab.TrialConfig(model=model, train=train(trial))


def gru(trial: optuna.Trial) -> sab.TrialConfig:
    """A GRU of the same width, with full back-propagation."""
    return sab.TrialConfig(model=GRU.Config(hidden=64), train=train(trial))


BASELINES = {"gru": gru}
