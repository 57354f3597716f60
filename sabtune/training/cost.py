"""The cost of a model in a trial: its parameters, and the multiply-adds of a step."""

from __future__ import annotations

from dataclasses import dataclass

from sabtune.models import Model
from sabtune.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a model for a task.

    parameters: the number of parameters, readout included. multiply_adds: those of a step for one
    sequence, as `Model.multiply_adds` counts them at the training length.
    """

    parameters: int
    multiply_adds: float


def cost_of(model: Model, task: Task) -> Cost:
    """Return the cost of a model, which depends on the configuration alone."""
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=float(model.multiply_adds(task.inputs, task.remembered_steps)),
    )
