"""The tasks that a study can use, by their names in a configuration."""

from sabtune.tasks.adding import Adding
from sabtune.tasks.base import SyntheticTask, Task, TaskConfig, above_chance
from sabtune.tasks.batch import Batch, Tally
from sabtune.tasks.copying import Copying
from sabtune.tasks.language import Language
from sabtune.tasks.pixels import Pixels
from sabtune.tasks.recall import Recall
from sabtune.tasks.sequences import Sequences
from sabtune.tasks.source import Shuffled, Source

TASKS: dict[str, type[TaskConfig]] = {
    "copying": Copying.Config,
    "adding": Adding.Config,
    "recall": Recall.Config,
    "pixels": Pixels.Config,
    "language": Language.Config,
    "sequences": Sequences.Config,
}

__all__ = [
    "TASKS",
    "Adding",
    "Batch",
    "Copying",
    "Language",
    "Pixels",
    "Recall",
    "Sequences",
    "Shuffled",
    "Source",
    "SyntheticTask",
    "Tally",
    "Task",
    "TaskConfig",
    "above_chance",
]
