"""The tasks that a study can use, by their names in a configuration."""

from sabtune.tasks.adding import Adding
from sabtune.tasks.base import SyntheticTask, Task, TaskConfig, above_chance
from sabtune.tasks.batch import Batch, Tally
from sabtune.tasks.copying import Copying
from sabtune.tasks.flip_flop import FlipFlop
from sabtune.tasks.language import Language
from sabtune.tasks.mqar import MQAR
from sabtune.tasks.passkey import Passkey
from sabtune.tasks.pixels import Pixels
from sabtune.tasks.recall import Recall
from sabtune.tasks.selective_copying import SelectiveCopying
from sabtune.tasks.sequences import Sequences
from sabtune.tasks.source import Shuffled, Source
from sabtune.tasks.state_tracking import Parity, Permutations

TASKS: dict[str, type[TaskConfig]] = {
    "copying": Copying.Config,
    "adding": Adding.Config,
    "recall": Recall.Config,
    "mqar": MQAR.Config,
    "selective_copying": SelectiveCopying.Config,
    "flip_flop": FlipFlop.Config,
    "passkey": Passkey.Config,
    "parity": Parity.Config,
    "permutations": Permutations.Config,
    "pixels": Pixels.Config,
    "language": Language.Config,
    "sequences": Sequences.Config,
}

__all__ = [
    "MQAR",
    "TASKS",
    "Adding",
    "Batch",
    "Copying",
    "FlipFlop",
    "Language",
    "Parity",
    "Passkey",
    "Permutations",
    "Pixels",
    "Recall",
    "SelectiveCopying",
    "Sequences",
    "Shuffled",
    "Source",
    "SyntheticTask",
    "Tally",
    "Task",
    "TaskConfig",
    "above_chance",
]
