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


OWN = {
    "own.py": '''
"""Does a GRU remember the first bit?"""

from dataclasses import dataclass

import torch

import sabtune as sab
from own_gru import GRU
from own_text import describe


class FirstBit(sab.SyntheticTask):
    inputs, outputs, chance = 1, 2, 0.5
    loss_everywhere = False

    @dataclass(frozen=True, kw_only=True)
    class Config(sab.TaskConfig):
        length: int = 4

        def build(self):
            return FirstBit(self)

    def batch(self, size, length, generator, device=torch.device("cpu")):
        x = torch.randint(0, 2, (size, length, 1), generator=generator)
        scored = torch.arange(length) == length - 1
        targets = x[:, :1, 0].expand(size, length)
        return sab.Batch(x=x.float().to(device), targets=targets.to(device), scored=scored)


STUDY = sab.Study(
    name="own",
    task=FirstBit.Config(length=4),
    ladder=sab.Ladder(lengths=(4, 8), select=(4,), sequences=32),
    trials=TRIALS,
    startup=TRIALS,
    pruning=None,
)


def space(trial):
    return sab.TrialConfig(
        model=GRU.Config(hidden=trial.suggest_int("hidden", 8, 32)),
        train=sab.TrainConfig(
            updates=UPDATES, batch_size=16, report_every=EVERY, learning_rate=0.02
        ),
    )
''',
    "own_gru.py": """
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

import sabtune as sab
from own_text import describe


@dataclass(frozen=True)
class State:
    h: torch.Tensor


class GRU(sab.Model):
    state_type = State

    @dataclass(frozen=True, kw_only=True)
    class Config(sab.ModelConfig):
        def label(self):
            return describe(self.hidden)

        def build(self, inputs, outputs, *, steps, generator):
            return GRU(self, inputs, outputs, generator)

    def __init__(self, config, inputs, outputs, generator):
        super().__init__()
        self.config = config
        self.gru = nn.GRU(inputs, config.hidden, batch_first=True)
        self.head = nn.Linear(config.hidden, outputs)
        for weight in self.parameters():
            nn.init.uniform_(weight, -0.2, 0.2, generator=generator)

    def forward(self, x, state=None):
        hidden, last = self.gru(x, None if state is None else state.h[None])
        return self.head(hidden), State(last[0])

    def carry(self, state, span):
        return State(state.h.detach())

    def restart(self, state):
        return State(state.h.detach())

    def random_start(self, batch, scale, generator):
        h = scale * torch.randn(batch, self.config.hidden, generator=generator)
        return State(h.to(self.device))
""",
    "own_text.py": """
def describe(hidden):
    return f"gru hidden={hidden}"
""",
}
"""A study with a task of its own, and a model of its own in a module that imports another one."""


def own(directory: Path, trials: int = 2, updates: int = 60) -> Path:
    """Write the study OWN and its modules to a folder, and return the path of the study file.

    Its trials report twice.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in OWN.items():
        text = text.replace("TRIALS", str(trials)).replace("UPDATES", str(updates))
        text = text.replace("EVERY", str(updates // 2))
        (directory / name).write_text(text)
    return directory / "own.py"
