"""Penn Treebank, one character per step: which sparsity makes use of more context?"""

import optuna

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Language
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="ptb",
    task=Language.Config(text="ptb", length=100, memory_span=500),
    ladder=Ladder(lengths=(100, 200, 500, 1000), select=(100, 500), sequences=256),
    trials=40,
    startup=10,
    pruning=ASHA(grace=5000, reduction=2),
    # The paper's k_trunc on this task (Ke et al. 2018, quoted from memory), tried first.
    points=({"k_top": 5, "k_att": 20, "k_trunc": 20, "learning_rate": 2e-3},),
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
            updates=40_000,
            batch_size=32,
            learning_rate=trial.suggest_float("learning_rate", 5e-4, 4e-3, log=True),
            decay=0.25,
            report_every=2500,
        ),
    )
