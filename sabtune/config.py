"""What one training needs, and nothing else: no parameter reaches a trial by another way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

import torch

from sabtune import schema
from sabtune.models import MODELS, Model, ModelConfig
from sabtune.schedule import SCHEDULES, Schedule
from sabtune.schema import Config, check, check_name, check_whole
from sabtune.seeding import Stream, generator
from sabtune.tasks import TASKS, Source, Task, TaskConfig
from sabtune.tasks.batch import CPU

Initial = Literal["zero", "noise", "passed"]

PARTS: schema.Parts = {ModelConfig: MODELS, TaskConfig: TASKS, Schedule: SCHEDULES}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How a model is trained.

    updates: optimiser steps. batch_size: sequences an update. learning_rate: Adam's, at its peak.
    warmup, decay: shares of the updates, at the start and at the end, over which the rate rises
    from zero and falls to it in a straight line.
    clip_norm: the largest gradient norm that is applied. report_every: updates between two reports.
    shortest: each batch has a length of its own, drawn evenly from this to the task's, where the
    task makes its sequences; None: always the task's.
    initial: the h and c that a training sequence starts from: zero; noise, normal with the standard
    deviation initial_scale; or passed, those that the sequence in its place in the batch before
    ended with. The last two are from Ruiz and Gu (2025, arXiv 2507.02782), for models that are to
    carry over to longer sequences; here the memory starts empty, and tests start from zero.
    """

    updates: int = 5000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.0
    decay: float = 0.0
    clip_norm: float = 1.0
    report_every: int = 250
    shortest: int | None = None
    initial: Initial = "zero"
    initial_scale: float = 0.5

    def __post_init__(self) -> None:
        check_whole("updates", self.updates, least=1)
        check_whole("batch_size", self.batch_size, least=1, most=2**20)
        check(self.learning_rate > 0, "learning_rate", self.learning_rate, "a rate above 0")
        for name in ("warmup", "decay"):
            share = getattr(self, name)
            check(0 <= share <= 1, name, share, "a share of the updates, from 0 to 1")
        check(self.clip_norm > 0, "clip_norm", self.clip_norm, "a norm above 0")
        check_whole("report_every", self.report_every, least=1)
        check_name("initial", self.initial, get_args(Initial))
        check(self.initial_scale > 0, "initial_scale", self.initial_scale, "a number above 0")

    def rate(self, step: int) -> float:
        """The learning rate of the update that takes training from `step` to `step` + 1."""
        rising, falling = self.warmup * self.updates, self.decay * self.updates
        up = (step + 1) / rising if rising else 1.0
        down = (self.updates - step) / falling if falling else 1.0
        return self.learning_rate * min(up, down, 1.0)


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
        if self.trial.train.shortest is not None:
            self.batches(self.task.build(), torch.Generator())

    def share_kept(self, length: int | None = None) -> float | None:
        """Return the share of the memories that a step keeps at the end of a sequence of `length`,
        by default the training length; None for a model without memories.

        Where training carries a state, there are those of `memory_span` more steps.
        """
        task = self.task.build()
        steps = task.remembered_steps if length is None else task.steps(length)
        if task.memory_span is not None:
            steps = min(steps, task.remembered_steps)
        return self.trial.model.share_kept(steps)

    def build_model(self, task: Task) -> Model:
        """The model before its first update."""
        return self.trial.model.build(
            task.inputs,
            task.outputs,
            steps=task.remembered_steps,
            generator=generator(self.seed, Stream.INITIALISATION),
        )

    def batches(self, task: Task, generator: torch.Generator, device: torch.device = CPU) -> Source:
        """What the model is trained on. Raises as `Task.batches` and `Task.varied` do."""
        shortest = self.trial.train.shortest
        if shortest is not None:
            return task.varied(shortest, generator, device)
        return task.batches(task.length, Stream.TRAINING, generator, device)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for checkpoints, workers and MLflow."""
        return schema.to_dict(self, PARTS)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """What `to_dict` gave. Raises ConfigError on an unknown key or a value that is off."""
        if isinstance(data, dict) and "shortest" in (task := data.get("task", {})):  # older ones
            train = data["trial"]["train"] | {"shortest": task["shortest"]}
            task = {key: value for key, value in task.items() if key != "shortest"}
            data = data | {"task": task, "trial": data["trial"] | {"train": train}}
        return schema.from_dict(cls, data, PARTS)
