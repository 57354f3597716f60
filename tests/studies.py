"""Study files for tests that run real searches."""

from __future__ import annotations

import signal
from pathlib import Path

from sabtune.tasks import TaskConfig

LEARNABLE = '''
"""One symbol of two, two steps later: learned in seconds, or not at all."""

from sabtune.config import TrainConfig, TrialConfig
from sabtune.training.evaluation import Ladder
from sabtune.models import SAB
from sabtune.schedule import Linear
from sabtune.study.definition import ASHA, Resources, Study
from sabtune.tasks import Copying

STUDY = Study(
    name="learnable",
    task=Copying.Config(length=2, symbols=1, alphabet=2),
    ladder=Ladder(lengths=(2, 4, 8), select=(2, 4), sequences=64),
    trials=8,
    startup=8,
    pruning=ASHA(grace=30, reduction=2),
)

RATES = {"good": 0.02, "bad": 1e-6, "mad": 3e38}


def space(trial):
    rate = RATES[trial.suggest_categorical("rate", list(RATES))]
    return TrialConfig(
        model=SAB.Config(
            hidden=12,
            k_top=trial.suggest_int("k_top", 1, 3),
            k_att=1,
            k_trunc=2,
            schedule=Linear(start=6),
        ),
        train=TrainConfig(updates=UPDATES, batch_size=16, learning_rate=rate, report_every=30),
    )
'''


def learnable(directory: Path, updates: int = 120, name: str = "learnable") -> Path:
    """Write a study whose trials report every 30 updates."""
    path = directory / f"{name}.py"
    text = LEARNABLE.replace("UPDATES", str(updates))
    path.write_text(text.replace('name="learnable"', f'name="{name}"'))
    return path


POSED = '''
"""A task, learned for 20 updates."""

from sabtune.config import TrainConfig, TrialConfig
from sabtune.training.evaluation import Ladder
from sabtune.models import SAB
from sabtune.study.definition import Study
from sabtune.tasks import *

TASK = CONFIG
STUDY = Study(
    name="posed",
    task=TASK,
    ladder=Ladder(lengths=(TASK.length, 2 * TASK.length), select=(TASK.length,), sequences=16),
    trials=TRIALS,
)


def space(trial):
    return TrialConfig(
        model=SAB.Config(hidden=8, k_top=trial.suggest_int("k_top", 1, 3)),
        train=TrainConfig(updates=20, batch_size=8, report_every=10),
    )
'''


def posed(task: TaskConfig, directory: Path, trials: int = 1) -> Path:
    """Write a study of the task, with trials of 20 updates."""
    path = directory / "posed.py"
    path.write_text(POSED.replace("CONFIG", repr(task)).replace("TRIALS", str(trials)))
    return path


def heed_interrupts() -> None:
    """Reset SIGINT and SIGHUP, for `preexec_fn`.

    Background jobs of a shell ignore SIGINT, and under nohup also SIGHUP; children inherit this.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
