"""The configuration of a training: the task, the model, the training itself, and the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

import torch

from sabtune import schema
from sabtune.models import MODELS, Model, ModelConfig
from sabtune.parts import local
from sabtune.parts.table import OwnParts
from sabtune.schedule import SCHEDULES, Schedule
from sabtune.schema import Config, check, check_name, check_whole
from sabtune.seeding import Stream, generator
from sabtune.tasks import TASKS, Source, Task, TaskConfig
from sabtune.tasks.batch import CPU

Initial = Literal["zero", "noise", "passed"]

PARTS: schema.Parts = {
    ModelConfig: OwnParts(ModelConfig, MODELS),
    TaskConfig: OwnParts(TaskConfig, TASKS),
    Schedule: OwnParts(Schedule, SCHEDULES),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """The parameters of training, apart from the model and the seed.

    The optimizer is Adam. `initial` affects only training, and none of its values provides
    memories. A batch that continues the previous one, as in the language task, starts from the
    carried state instead.

    Args:
        updates: The number of optimizer steps, at least 1.
        batch_size: The number of sequences per update, from 1 to `2**20`.
        learning_rate: The peak learning rate of Adam, above 0.
        warmup: The share of the updates, at the start, over which the rate rises linearly from
            zero; from 0 to 1.
        decay: The share of the updates, at the end, over which the rate falls linearly to zero;
            from 0 to 1.
        clip_norm: The gradient norm that gradients are clipped to, above 0.
        report_every: The number of updates between two measurements, at least 1.
        shortest: If given, each batch has a length drawn uniformly from `shortest` to the training
            length. Only for tasks that generate their sequences, such as copying. With
            None, every batch has the training length.
        initial: The recurrent state, such as h and c, at the start of a training sequence: "zero";
            "noise", normally distributed with standard deviation `initial_scale`; or "passed", the
            final state of the same row of the previous batch. "noise" and "passed" are from Ruiz
            and Gu (2025, arXiv 2507.02782) and help models to generalize to longer sequences. A
            Transformer has no recurrent state: they change nothing there.
        initial_scale: The standard deviation of "noise", above 0.

    Raises:
        ConfigError: A field is unknown, out of range or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> train = sab.TrainConfig(learning_rate=0.01, warmup=0.1, decay=0.2)
        >>> train.rate(249), train.rate(2500), train.rate(4500)  # of 5000 updates
        (0.005, 0.01, 0.005)
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
        """Return the learning rate of the update from `step` to `step` + 1."""
        warmup, decay = self.warmup * self.updates, self.decay * self.updates
        rise = (step + 1) / warmup if warmup else 1.0
        fall = (self.updates - step) / decay if decay else 1.0
        return self.learning_rate * min(rise, fall, 1.0)


@dataclass(frozen=True, kw_only=True)
class TrialConfig(Config):
    """The configuration that a space returns: a model, and how it is trained.

    Args:
        model: The configuration of the model.
        train: The parameters of training. Defaults to those of `TrainConfig()`.

    Raises:
        ConfigError: A field is missing, unknown or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> config = sab.TrialConfig(model=sab.LSTM.Config(hidden=64, k_trunc=5))
        >>> config.model.label(), config.train.updates
        ('lstm k_trunc=5', 5000)
    """

    model: ModelConfig
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """The complete configuration of a training, from which you can repeat it."""

    task: TaskConfig
    model: ModelConfig
    train: TrainConfig
    seed: int

    def __post_init__(self) -> None:
        check_whole("seed", self.seed, least=0)
        if self.train.shortest is not None:
            self.batches(self.task.build(), torch.Generator())

    @classmethod
    def of(cls, *, task: TaskConfig, trial: TrialConfig, seed: int) -> Self:
        """Return the configuration of a trial. trial: what the space has returned."""
        return cls(task=task, model=trial.model, train=trial.train, seed=seed)

    @property
    def trial(self) -> TrialConfig:
        """The configuration that a space returned."""
        return TrialConfig(model=self.model, train=self.train)

    def share_kept(self, length: int | None = None) -> float | None:
        """Return the share of the memories that a step attends to at the end of a sequence.

        length: the length of the sequence; None for the training length. For a task that carries a
        state, the memories include those of `memory_span` earlier steps. Returns None for a model
        without memories.
        """
        task = self.task.build()
        steps = task.remembered_steps if length is None else task.steps(length)
        if task.memory_span is not None:
            steps = min(steps, task.remembered_steps)
        return self.model.share_kept(steps)

    def build_model(self, task: Task) -> Model:
        """Build the model for `task`, with initial weights that are drawn from the seed."""
        return self.model.build(
            task.inputs,
            task.outputs,
            steps=task.remembered_steps,
            generator=generator(self.seed, Stream.INITIALIZATION),
        )

    def batches(self, task: Task, generator: torch.Generator, device: torch.device = CPU) -> Source:
        """Return the source of training batches.

        Raises DataError if the task's data is missing or damaged, and ConfigError if the task does
        not support a length of these batches.
        """
        shortest = self.train.shortest
        if shortest is not None:
            return task.varied(shortest, generator, device)
        return task.batches(task.length, Stream.TRAINING, generator, device)

    def activate(self) -> None:
        """Make the modules of own parts importable, for imports within their functions."""
        local.activate(schema.codes(self.to_dict()).values())

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values, for checkpoints, workers and MLflow."""
        stored = _StoredRun(task=self.task, trial=self.trial, seed=self.seed)
        return schema.to_dict(stored, PARTS)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Build from the result of `to_dict`. Raises ConfigError if a key or a value is wrong."""
        task = data.get("task") if isinstance(data, dict) else None
        if isinstance(data, dict) and isinstance(task, dict) and has_former_shortest(task):
            train = data["trial"]["train"] | {"shortest": task["shortest"]}
            task = {key: value for key, value in task.items() if key != "shortest"}
            data = data | {"task": task, "trial": data["trial"] | {"train": train}}
        stored = schema.from_dict(_StoredRun, data, PARTS, cls.__qualname__)
        return cls.of(task=stored.task, trial=stored.trial, seed=stored.seed)


def has_former_shortest(task: Mapping[str, Any]) -> bool:
    """Return whether version 0.1 stored a task, in which "shortest" was a setting of the task."""
    return task.get(schema.KIND) in ("copying", "adding", "recall") and "shortest" in task


@dataclass(frozen=True, kw_only=True)
class _StoredRun(Config):
    """The form in which a `RunConfig` is stored."""

    task: TaskConfig
    trial: TrialConfig
    seed: int
