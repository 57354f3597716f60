"""What one training needs, and nothing else: no parameter reaches a trial by another way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from sabtune import schema
from sabtune.models import MODELS, Model, ModelConfig
from sabtune.schedule import SCHEDULES, Schedule
from sabtune.schema import Config, check, check_whole
from sabtune.seeding import Stream, generator
from sabtune.tasks import TASKS, Task, TaskConfig

PARTS: schema.Parts = {ModelConfig: MODELS, TaskConfig: TASKS, Schedule: SCHEDULES}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How a model is trained.

    updates: optimiser steps. batch_size: sequences an update. learning_rate: Adam's, at its peak.
    decay: share of the updates, at the end, over which the rate falls to zero in a straight line.
    clip_norm: the largest gradient norm that is applied. report_every: updates between two reports.
    """

    updates: int = 5000
    batch_size: int = 64
    learning_rate: float = 1e-3
    decay: float = 0.0
    clip_norm: float = 1.0
    report_every: int = 250

    def __post_init__(self) -> None:
        check_whole("updates", self.updates, least=1)
        check_whole("batch_size", self.batch_size, least=1)
        check(self.learning_rate > 0, "learning_rate", self.learning_rate, "a rate above 0")
        check(0 <= self.decay <= 1, "decay", self.decay, "a share of the updates, from 0 to 1")
        check(self.clip_norm > 0, "clip_norm", self.clip_norm, "a norm above 0")
        check_whole("report_every", self.report_every, least=1)

    def rate(self, step: int) -> float:
        """The learning rate of the update that takes training from `step` to `step` + 1."""
        falling = self.decay * self.updates
        left = self.updates - step
        return self.learning_rate * min(left / falling, 1.0) if falling else self.learning_rate


@dataclass(frozen=True, kw_only=True)
class TrialConfig(Config):
    """What a search space returns for a trial: the model and how it is trained."""

    model: ModelConfig
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """One training, complete: from this alone it can be run again."""

    task: TaskConfig
    trial: TrialConfig
    seed: int

    def __post_init__(self) -> None:
        check_whole("seed", self.seed, least=0)

    def build_model(self, task: Task) -> Model:
        """The model before its first update."""
        return self.trial.model.build(
            task.inputs,
            task.outputs,
            steps=task.steps(task.length),
            generator=generator(self.seed, Stream.INITIALISATION),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for checkpoints, workers and MLflow."""
        return schema.to_dict(self, PARTS)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """What `to_dict` gave. Raises ConfigError on an unknown key or a value that is off."""
        return schema.from_dict(cls, data, PARTS)
