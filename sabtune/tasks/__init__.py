"""The tasks that a study can pose, by the name a config gives them."""

from sabtune.tasks.base import Batch, Tally, Task, TaskConfig
from sabtune.tasks.copying import Copying

TASKS: dict[str, type[TaskConfig]] = {"copying": Copying.Config}

__all__ = ["TASKS", "Batch", "Copying", "Tally", "Task", "TaskConfig"]
