"""The tasks that a study can pose, by the name a config gives them."""

from sabtune.tasks.base import Task, TaskConfig, above_chance
from sabtune.tasks.batch import Batch, Tally
from sabtune.tasks.copying import Copying
from sabtune.tasks.source import Source

TASKS: dict[str, type[TaskConfig]] = {"copying": Copying.Config}

__all__ = ["TASKS", "Batch", "Copying", "Source", "Tally", "Task", "TaskConfig", "above_chance"]
