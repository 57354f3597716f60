"""The checks of a task."""

from __future__ import annotations

import math
from dataclasses import replace

from sabtune.errors import ConfigError
from sabtune.schema import shown
from sabtune.seeding import Stream
from sabtune.tasks import Task, TaskConfig
from sabtune.testing.answers import AnswerChecks
from sabtune.testing.configs import check_argument, check_config, run_of
from sabtune.testing.result import CheckResult, expect, is_number, is_whole, run_checks, wrong
from sabtune.testing.resuming import check_resuming
from sabtune.testing.sources import SourceChecks
from sabtune.testing.task_case import Guess
from sabtune.training.evaluation import measure


def check_task(config: TaskConfig, *, guess: Guess | None = None) -> CheckResult:
    """Check that a task keeps the contract of `sabtune.tasks.Task`.

    The checks, in this order, up to the first that fails:

    - config: the configuration is read from JSON as it was, and has a hash.
    - attributes: `inputs`, `outputs`, `chance`, `solved` and the others are in their ranges.
    - steps: `steps` returns an int of at least 1, or raises `ConfigError`.
    - batches: shapes, types and values fit at several lengths and batch sizes.
    - determinism: only the given generator decides the sequences.
    - restoring: a source continues from its `state`, which a checkpoint stores.
    - devices: batches are on the requested device, and are made without reading it.
    - streams: training, selection, test and confirmation share no sequences.
    - loss: the loss is finite and differentiable, and `loss_everywhere` is right.
    - tally: the tallies of the windows of a batch add up to the tally of the batch.
    - perfect answers: correct answers have accuracy 1, score 1 and a lower loss than others.
    - chance: an answer that needs no memory has accuracy `chance` and score 0.
    - recalled steps: `sources` names earlier steps for scored steps.
    - varied lengths: `varied` draws the lengths of its range, or raises `ConfigError`.
    - training: an LSTM trains, resumes from a checkpoint bit for bit, and is measured.

    Args:
        config: The configuration of the task. Give it a short length: the time of the checks grows
            with the length.
        guess: An answer that needs no memory, as a function from a task and a batch to logits
            (B, T, O). Its accuracy must be `chance`. By default, it is the best constant answer. If
            the task overrides `normalized_score`, that answer may have a higher accuracy.

    Returns:
        The names of the checks, what could not be checked here, and how fast the task draws
        training sequences.

    Raises:
        ConformanceError: A check failed. The message is one line that names the check, the value
            and what the contract wants.
        ConfigError: `config` is not the configuration of a task.

    Example:
        >>> import sabtune as sab
        >>> result = sab.testing.check_task(sab.Adding.Config(length=10))
        >>> len(result.checks), result.sequences_per_second > 0
        (15, True)
    """
    __tracebackhide__ = True
    check_argument(config, TaskConfig, "Copying.Config(length=10)")
    checks = TaskChecks(config, guess)
    result = run_checks(
        TaskConfig,
        config,
        [
            checks.config,
            checks.attributes,
            checks.steps,
            checks.batches,
            checks.determinism,
            checks.restoring,
            checks.devices,
            checks.streams,
            checks.loss,
            checks.tally,
            checks.perfect_answers,
            checks.chance,
            checks.recalled_steps,
            checks.varied_lengths,
            checks.training,
        ],
    )
    return replace(result, sequences_per_second=checks.sequences_per_second)


class TaskChecks(SourceChecks, AnswerChecks):
    """The checks of one task."""

    def config(self) -> None:
        """Check that the configuration is read from JSON as it was, and has a hash."""
        check_config(self.task_config, lambda run: run.task)

    def attributes(self) -> None:
        """Check that `inputs`, `outputs`, `chance`, `solved` and the others are in their ranges."""
        task = self.task
        expect(isinstance(task, Task), f"build returns {shown(task)}: return a Task")
        for name, least in (("inputs", 1), ("outputs", 1), ("length", 1)):
            value = getattr(task, name)
            expect(is_whole(value, least), wrong(self.named(name), value, f"an int from {least}"))
        expect(
            task.length == self.task_config.length,
            f"{self.named('length')} is {task.length}: set it to the training length of the "
            f"configuration, {self.task_config.length}",
        )
        for name, value, kept, wanted in (
            (
                "chance",
                task.chance,
                is_number(task.chance) and 0 <= task.chance < 1,
                "from 0 below 1",
            ),
            (
                "solved",
                task.solved,
                is_number(task.solved) and task.chance < task.solved <= 1,
                f"above `chance`, {task.chance:g}, and up to 1",
            ),
            ("unit", task.unit, is_number(task.unit) and task.unit > 0, "above 0"),
        ):
            expect(kept, wrong(self.named(name), value, f"a number {wanted}"))
        span = task.memory_span
        wanted = "None, or an int of at least 0"
        expect(span is None or is_whole(span, 0), wrong(self.named("memory_span"), span, wanted))
        unit = task.loss_unit
        line = isinstance(unit, str) and unit.strip() == unit != "" and "\n" not in unit
        expect(line, wrong(self.named("loss_unit"), unit, 'words such as "nats a step"'))

    def steps(self) -> None:
        """Check that `steps` returns an int of at least 1, or raises `ConfigError`."""
        task = self.task
        for length in sorted({task.length, task.length + 1, 2 * task.length, 1}):
            try:
                steps = task.steps(length)
            except ConfigError:
                expect(length != task.length, f"{self.named('steps')} refuses its training length")
                self.refused.append(length)
                continue
            wanted = "an int of at least 1, or raise ConfigError"
            expect(is_whole(steps, 1), wrong(f"{self.named('steps')}({length})", steps, wanted))
            self.lengths.append(length)

    def training(self) -> None:
        """Check that an LSTM trains, resumes from a checkpoint bit for bit, and is measured."""
        run = run_of(self.task_config)
        check_resuming(run, f"check the state of the sources of {self.named('batches')}")
        model = run.build_model(self.task)
        for length in self.lengths:
            result = measure(model, self.task, length, sequences=3, seed=0, stream=Stream.SELECTION)
            finite = 0 <= result.accuracy <= 1 and math.isfinite(result.loss)
            expect(
                finite,
                f"an LSTM has accuracy {result.accuracy:g} and loss {result.loss:g} at length "
                f"{length}: keep the measures finite",
            )
