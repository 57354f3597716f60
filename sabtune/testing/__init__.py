"""Checks that a task, a model or a schedule of your own keeps the contract of its base class.

`check_task`, `check_model` and `check_schedule` take a configuration, build the part, and check
every promise that searches, evaluations and reports rely on. Call them in a test or a notebook
before you search with a part of your own. sabtune's own tests run them over all built-in parts.
"""

from sabtune.testing.models import check_model
from sabtune.testing.result import CheckResult
from sabtune.testing.schedules import check_schedule
from sabtune.testing.tasks import check_task

__all__ = ["CheckResult", "check_model", "check_schedule", "check_task"]
