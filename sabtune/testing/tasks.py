"""The checks of a task."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from itertools import combinations

import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from sabtune.config import RunConfig
from sabtune.errors import ConfigError
from sabtune.schema import shown
from sabtune.seeding import Stream, generator
from sabtune.tasks import Batch, Source, Tally, Task, TaskConfig
from sabtune.tasks.base import MEASURED, SyntheticTask
from sabtune.tasks.batch import CPU, one_hot
from sabtune.testing.configs import check_argument, check_config, run_of
from sabtune.testing.result import (
    CheckResult,
    expect,
    name_of,
    run_checks,
    seed_globally,
)
from sabtune.testing.resuming import check_resuming
from sabtune.training.evaluation import measure

Guess = Callable[[Task, Batch], Tensor]
"""A function from a task and a batch to logits (B, T, O)."""

STREAMS = (Stream.TRAINING, *MEASURED)
SIZES = (1, 3)
ROWS = 2048
"""The largest number of sequences that are compared between the streams."""
NUMBERS = 2**22
"""The largest number of inputs of these sequences in a stream, which bounds their number."""
AT_ONCE = 32
"""The largest number of them in a batch."""
ERRORS = 4.0
"""The number of standard errors by which a measured accuracy may differ from its expectation."""
SURE = 50.0
"""The logit of an answer that is certain."""
ANSWERS = 33
"""The number of constant answers that are tried if the answers are numbers."""


def check_task(config: TaskConfig, *, guess: Guess | None = None) -> CheckResult:
    """Check that a task keeps the contract of `sabtune.tasks.Task`.

    The checks, in this order, up to the first that fails:

    - config: it is stored as JSON and read again without a change, and has a hash.
    - attributes: `inputs`, `outputs`, `chance`, `solved` and the others are in their ranges.
    - steps: `steps` returns an int of at least 1, or raises `ConfigError`.
    - batches: shapes, types and values at several lengths and batch sizes.
    - determinism: only the given generator decides the sequences.
    - restoring: a source continues from its `state`, which a checkpoint stores.
    - devices: batches are on the requested device, and are made without reading it.
    - streams: training, selection, test and confirmation share no sequences.
    - loss: it is finite and differentiable, and covers the steps that `loss_everywhere` says.
    - tally: the tallies of the windows of a batch add up to the tally of the batch.
    - perfect answers: they have accuracy 1, score 1 and a lower loss than an undecided answer.
    - chance: an answer that needs no memory has accuracy `chance` and score 0.
    - recalled steps: `sources` names earlier steps for scored steps.
    - varied lengths: `varied` draws the lengths of its range, or raises `ConfigError`.
    - training: an LSTM trains, resumes from a checkpoint bit for bit, and is measured.

    Args:
        config: The configuration of the task. Give it a short length: the time of the checks grows
            with the length.
        guess: An answer that needs no memory, as a function from a task and a batch to logits
            (B, T, O). Its accuracy must be `chance`. None takes the best constant answer, whose
            accuracy must be `chance` or, if the score does not depend on accuracy, above it.

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
    check_argument(config, TaskConfig, "Copying.Config(length=10)")  # type: ignore[type-abstract]
    checks = TaskChecks(config, guess)
    result = run_checks(
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


class TaskChecks:
    """The checks of one task."""

    def __init__(self, config: TaskConfig, guess: Guess | None):
        self.task_config, self.guess = config, guess
        self.lengths: list[int] = []  # that the task has
        self.refused: list[int] = []  # that it does not have
        self.rows: list[Batch] = []  # many sequences of the test stream
        self.sequences_per_second: float | None = None

    @cached_property
    def task(self) -> Task:
        return self.task_config.build()

    def named(self, attribute: str) -> str:
        """Return the name of an attribute of the task, as in "Copying.steps"."""
        return f"{name_of(type(self.task))}.{attribute}"

    @property
    def drawing(self) -> str:
        """The name of the method that makes sequences."""
        return self.named("batch" if isinstance(self.task, SyntheticTask) else "batches")

    def source(
        self,
        stream: Stream = Stream.TEST,
        *,
        seed: int = 0,
        length: int | None = None,
        device: torch.device = CPU,
    ) -> Source:
        at = self.task.length if length is None else length
        return self.task.batches(at, stream, generator(seed, stream), device)

    @cached_property
    def batch(self) -> Batch:
        return self.source().batch(max(SIZES))

    def logits(self, batch: Batch) -> Tensor:
        """Return random logits (B, T, O) for a batch."""
        shape = (*batch.targets.shape, self.task.outputs)
        return torch.randn(shape, generator=generator(1, Stream.TEST))

    @property
    def classifies(self) -> bool:
        """Whether the targets are classes and the logits have one number for each class."""
        return self.task.outputs > 1 and not self.batch.targets.is_floating_point()

    def config(self) -> None:
        check_config(self.task_config, lambda run: run.task)

    def attributes(self) -> None:
        task = self.task
        expect(isinstance(task, Task), f"build returns {shown(task)}: return a Task")
        for name, least in (("inputs", 1), ("outputs", 1), ("length", 1)):
            value = getattr(task, name)
            expect(_whole(value, least), _wrong(self.named(name), value, f"an int from {least}"))
        expect(
            task.length == self.task_config.length,
            f"{self.named('length')} is {task.length}: set it to the training length of the "
            f"configuration, {self.task_config.length}",
        )
        for name, value, kept, wanted in (
            (
                "chance",
                task.chance,
                _number(task.chance) and 0 <= task.chance < 1,
                "from 0 below 1",
            ),
            (
                "solved",
                task.solved,
                _number(task.solved) and task.chance < task.solved <= 1,
                f"above `chance`, {task.chance:g}, and up to 1",
            ),
            ("unit", task.unit, _number(task.unit) and task.unit > 0, "above 0"),
        ):
            expect(kept, _wrong(self.named(name), value, f"a number {wanted}"))
        span = task.memory_span
        wanted = "None, or an int of at least 0"
        expect(span is None or _whole(span, 0), _wrong(self.named("memory_span"), span, wanted))
        unit = task.loss_unit
        line = isinstance(unit, str) and unit.strip() == unit != "" and "\n" not in unit
        expect(line, _wrong(self.named("loss_unit"), unit, 'words such as "nats a step"'))

    def steps(self) -> None:
        task = self.task
        for length in sorted({task.length, task.length + 1, 2 * task.length, 1}):
            try:
                steps = task.steps(length)
            except ConfigError:
                expect(length != task.length, f"{self.named('steps')} refuses its training length")
                self.refused.append(length)
                continue
            wanted = "an int of at least 1, or raise ConfigError"
            expect(_whole(steps, 1), _wrong(f"{self.named('steps')}({length})", steps, wanted))
            self.lengths.append(length)

    def batches(self) -> str | None:
        for length in self.refused:
            for call, refuses in (
                ("batches", lambda n: self.source(length=n)),
                ("prepare", lambda n: self.task.prepare([n])),
            ):
                expect(
                    _refuses(refuses, length),
                    f"{self.named(call)} accepts length {length}, which "
                    f"{self.named('steps')} refuses: raise ConfigError",
                )
        missing = []
        for length in list(self.lengths):
            try:
                self.source(length=length)
            except ConfigError:
                if length == self.task.length:
                    raise
                self.lengths.remove(length)
                missing.append(length)
                continue
            for size in SIZES:
                for stream in STREAMS:
                    self.check_batches(length, size, stream)
        self.task.prepare(self.lengths)
        one = self.task.batch(max(SIZES), self.task.length, generator(0, Stream.TEST))
        same = _same(one, self.batch)
        expect(same, f"{self.named('batch')} differs from `batches` with the test stream: use it")
        return f"the data has no sequences of length {missing}" if missing else None

    def check_batches(self, length: int, size: int, stream: Stream) -> None:
        """Check two batches of a new source."""
        source = self.source(stream, length=length)
        expect(
            source.count is None or _whole(source.count, 1),
            _wrong("the `count` of its source", source.count, "None, or an int of at least 1"),
        )
        for number in range(2):
            batch = source.batch(size)
            where = f"{self.drawing} at length {length} in batches of {size} ({stream.name})"
            self.check_batch(batch, (size, self.task.steps(length)), where)
            carries = self.task.memory_span is not None and stream == Stream.TRAINING and number
            remedy = "only with `memory_span`, for training, and after a first batch"
            expect(carries or not batch.continues, f"{where} continues a batch: {remedy}")

    def check_batch(self, batch: Batch, shape: tuple[int, int], where: str) -> None:
        expect(isinstance(batch, Batch), f"{where} returns {shown(batch)}: return a Batch")
        B, T = shape
        for name, tensor, wanted_shape, dtype in (
            ("x", batch.x, (B, T, self.task.inputs), torch.float32),
            ("targets", batch.targets, (B, T), None),
            ("scored", batch.scored, (T,), torch.bool),
        ):
            expect(isinstance(tensor, Tensor), f"{where}: {name} is {shown(tensor)}: give a tensor")
            size, letters = tuple(tensor.shape), {1: "(T,)", 2: "(B, T)", 3: "(B, T, inputs)"}
            wanted = f"{wanted_shape}, {letters[len(wanted_shape)]}"
            expect(size == wanted_shape, f"{where}: {name} has shape {size}: give {wanted}")
            expect(
                dtype in (None, tensor.dtype),
                f"{where}: {name} is {tensor.dtype}: give {dtype}",
            )
            expect(tensor.device == CPU, f"{where}: {name} is on {tensor.device}: give it on cpu")
            fixed = "detach it, a batch has no gradient"
            expect(not tensor.requires_grad, f"{where}: {name} requires a gradient: {fixed}")
        finite = bool(batch.x.isfinite().all())
        expect(finite, f"{where}: x has numbers that are not finite: replace them")
        expect(bool(batch.scored.any()), f"{where}: scored has no step: mark at least one")
        self.check_targets(batch.targets, where)

    def check_targets(self, targets: Tensor, where: str) -> None:
        if targets.is_floating_point():
            finite = bool(targets.isfinite().all())
            expect(finite, f"{where}: targets has numbers that are not finite: replace them")
        elif type(self.task).criterion is Task.criterion and type(self.task).loss is Task.loss:
            wanted = f"give classes from 0 to {self.task.outputs - 1}, as int64"
            expect(targets.dtype == torch.int64, f"{where}: targets is {targets.dtype}: {wanted}")
            least, most = int(targets.min()), int(targets.max())
            inside = 0 <= least <= most < self.task.outputs
            expect(inside, f"{where}: targets has classes from {least} to {most}: {wanted}")

    def determinism(self) -> None:
        remedy = "draw every number from the given generator"
        for stream in STREAMS:
            batches = []
            for seed, elsewhere in ((1, 1), (1, 2), (2, 2)):
                seed_globally(elsewhere)
                batches.append(self.source(stream, seed=seed).batch(max(SIZES)))
            one, same, other = batches
            expect(
                _same(one, same),
                f"{self.drawing} gives other sequences if the global random seed changes: {remedy}",
            )
            expect(
                not _same(one, other),
                f"{self.drawing} gives the same sequences for generators of different seeds "
                f"({stream.name}): {remedy}",
            )
            alone, between, another = (self.source(stream, seed=n) for n in (1, 1, 2))
            for _ in range(2):
                another.batch(max(SIZES))
                expect(
                    _same(alone.batch(max(SIZES)), between.batch(max(SIZES))),
                    f"{self.named('batches')} gives other sequences if another source draws in "
                    f"between ({stream.name}): share nothing that changes",
                )
        again = (
            replace(self.task_config)
            .build()
            .batches(self.task.length, Stream.TEST, generator(0, Stream.TEST))
        )
        same = _same(again.batch(max(SIZES)), self.batch)
        expect(
            same, f"{self.drawing} differs between two tasks of the same configuration: {remedy}"
        )

    def restoring(self) -> None:
        for stream in STREAMS[:2]:
            source = self.source(stream)
            name = name_of(type(source))
            for taken in range(4):
                state = source.state()
                tensors = isinstance(state, dict) and all(
                    isinstance(value, Tensor) for value in state.values()
                )
                expect(tensors, f"{name}.state is {shown(state)}: return a dict of tensors")
                stored = tensors_of(bytes_of({k: v.contiguous() for k, v in state.items()}))
                expected = [source.batch(max(SIZES)) for _ in range(taken + 1)]
                again = self.source(stream, seed=9)
                again.batch(max(SIZES))
                again.restore(stored)
                for batch in expected:
                    restored = again.batch(max(SIZES))
                    expect(
                        _same(restored, batch) and restored.continues == batch.continues,
                        f"{name}.restore continues with other sequences than the source whose "
                        f"`state` it takes ({stream.name}): store all that decides them",
                    )
            if source.state():
                refuses = _refuses(lambda _, s=source: s.restore({}), 0, KeyError)
                expect(refuses, f"{name}.restore accepts an empty state: raise KeyError")

    def devices(self) -> str | None:
        meta = torch.device("meta")
        for stream in STREAMS[:2]:
            source = self.source(stream, device=meta)
            batch = source.batch(max(SIZES))
            self.check_devices(batch, meta)
            logits = self.logits(self.batch).to(meta)
            loss = self.task.loss(logits, batch)
            expect(
                loss.device == meta,
                f"{self.named('loss')} is on {loss.device} for a batch on meta: keep it there",
            )
        if not torch.cuda.is_available():
            return "no CUDA device: checked on the devices cpu and meta"
        cuda = torch.device("cuda", torch.cuda.current_device())
        batch = self.source(device=cuda).batch(max(SIZES))
        self.check_devices(batch, cuda)
        moved = replace(batch, x=batch.x.cpu(), targets=batch.targets.cpu())
        expect(_same(moved, self.batch), f"{self.drawing} differs on {cuda}: draw on the CPU")
        tally = self.task.tally(self.logits(self.batch).to(cuda), batch)
        expect(tally.scored > 0, f"{self.named('tally')} counts no answers on {cuda}")
        return None

    def check_devices(self, batch: Batch, device: torch.device) -> None:
        for name, tensor in (("x", batch.x), ("targets", batch.targets)):
            there = f"{self.drawing}: {name} is on {tensor.device}, not on the requested {device}"
            expect(tensor.device == device, f"{there}: move it, with sabtune.tasks.batch.moved")
        device = batch.scored.device
        expect(device == CPU, f"{self.drawing}: scored is on {device}: keep it on the CPU")

    def streams(self) -> None:
        """Compare sequences between the streams.

        Sequences of a small space coincide by chance. Therefore, the coincidences between two
        streams are compared with those within each of them.
        """
        rows = {}
        for stream in STREAMS:
            batches = self.draw(stream)
            if stream == Stream.TEST:
                self.rows = batches
            rows[stream] = [row.tobytes() for batch in batches for row in batch.x.numpy()]
        for one, other in combinations(STREAMS, 2):
            count = min(len(rows[one]), len(rows[other]))
            first, second = rows[one][:count], rows[other][:count]
            within = _coincidences(first) + _coincidences(second)
            both = _coincidences(first + second) - within
            allowed = within + ERRORS * math.sqrt(within) + min(5, count - 1)
            expect(
                both <= allowed,
                f"{self.named('batches')} gives {one.name} and {other.name} the same sequences, "
                f"{both} of {count}: give each stream its own part of the data",
            )

    def draw(self, stream: Stream) -> list[Batch]:
        """Return many sequences of a stream, none of them twice if the stream is a data set."""
        count = self.source(stream).count or ROWS
        numbers = self.task.steps(self.task.length) * self.task.inputs
        rows = max(AT_ONCE, min(ROWS, NUMBERS // numbers))
        size = min(AT_ONCE, count)
        while True:
            source = self.source(stream)
            try:
                began = time.perf_counter()
                batches = [source.batch(size) for _ in range(min(rows, count) // size)]
            except ConfigError:  # more sequences than the data has rows for
                if size == 1:
                    raise
                size //= 2
                continue
            if stream == Stream.TRAINING:
                seconds = time.perf_counter() - began
                self.sequences_per_second = size * len(batches) / max(seconds, 1e-9)
            return batches

    def loss(self) -> None:
        batch, name = self.batch, self.named("loss")
        logits = self.logits(batch).requires_grad_()
        loss = self.task.loss(logits, batch)
        size = tuple(loss.shape)
        expect(size == (), f"{name} has shape {size}: return one number, a mean")
        expect(
            bool(loss.isfinite()), f"{name} is {float(loss):g} for random logits: keep it finite"
        )
        expect(loss.requires_grad, f"{name} has no gradient: compute it from the logits in PyTorch")
        (gradient,) = torch.autograd.grad(loss, logits, allow_unused=True)
        expect(gradient is not None, f"{name} does not depend on the logits")
        finite = bool(gradient.isfinite().all())
        expect(finite, f"{name} has a gradient that is not finite for random logits")
        by_step = gradient.abs().sum(dim=(0, 2))
        expect(
            bool(by_step[batch.scored].any()),
            f"{name} has no gradient at the scored steps: use them",
        )
        if bool(batch.scored.all()):
            return
        elsewhere = bool(by_step[~batch.scored].any())
        covers = "covers steps that are not scored" if elsewhere else "covers the scored steps only"
        expect(
            elsewhere == self.task.loss_everywhere,
            f"{name} {covers}, but {self.named('loss_everywhere')} is {self.task.loss_everywhere}: "
            "change one of them",
        )

    def tally(self) -> None:
        batch, name = self.batch, self.named("tally")
        logits = self.logits(batch)
        whole = self.task.tally(logits, batch)
        steps, scored = batch.targets.numel(), len(batch.x) * int(batch.scored.sum())
        steps = steps if self.task.loss_everywhere else scored
        counts = f"{name} counts {whole.steps} steps and {whole.scored} answers"
        expect(
            (whole.steps, whole.scored) == (steps, scored), f"{counts}, not {steps} and {scored}"
        )
        inside = isinstance(whole.correct, int) and 0 <= whole.correct <= scored
        expect(inside, f"{name} has {whole.correct} correct of {scored} answers")
        loss = float(self.task.loss(logits, batch)) * self.task.unit
        same = math.isclose(whole.mean_loss, loss, rel_tol=1e-4, abs_tol=1e-6)
        expect(same, f"{name} has loss {whole.mean_loss:g}, but `loss` times `unit` is {loss:g}")
        total, seen = Tally(), 0
        for window in batch.windows(max(1, batch.x.shape[1] // 3)):
            span = window.x.shape[1]
            total += self.task.tally(logits[:, seen : seen + span], window)
            seen += span
        expect(
            (total.steps, total.scored, total.correct) == (whole.steps, whole.scored, whole.correct)
            and math.isclose(total.loss, whole.loss, rel_tol=1e-3, abs_tol=1e-5),
            f"{name} is {total} over the windows of a batch, and {whole} over the batch: make the "
            "loss a mean over its steps",
        )

    def perfect_answers(self) -> str | None:
        batch = self.batch
        answers = []
        if self.classifies:
            answers = [SURE * one_hot(batch.targets, self.task.outputs)]
        elif self.task.outputs == 1:  # a number, or the logit of a class
            targets = batch.targets.unsqueeze(-1).float()
            answers = [targets, SURE * (2 * targets - 1)]
        if not answers:
            return "the logits of a correct answer are not known"
        tally = max((self.task.tally(logits, batch) for logits in answers), key=lambda t: t.correct)
        right = f"{self.named('right')} gives correct answers accuracy {tally.accuracy:g}: give 1"
        expect(tally.correct == tally.scored, right)
        undecided = self.task.tally(torch.zeros_like(answers[0]), batch)
        expect(
            tally.mean_loss < undecided.mean_loss,
            f"{self.named('loss')} is {tally.mean_loss:g} for correct answers, and "
            f"{undecided.mean_loss:g} for undecided ones: make it lower for correct ones",
        )
        score = self.task.normalized_score(tally.accuracy, tally.mean_loss)
        perfect = math.isclose(score, 1, abs_tol=1e-3)
        expect(
            perfect, f"{self.named('normalized_score')} is {score:g} for correct answers: give 1"
        )
        return None

    def chance(self) -> str | None:
        task, chance = self.task, self.task.chance
        undecided = task.tally(torch.zeros_like(self.logits(self.batch)), self.batch)
        score = task.normalized_score(chance, undecided.mean_loss)
        expect(
            math.isclose(score, 0, abs_tol=1e-3),
            f"{self.named('normalized_score')} is {score:g} for accuracy `chance` and the loss of "
            f"an undecided answer, {undecided.mean_loss:g}: give 0",
        )
        remedy = f"set {self.named('chance')} to the accuracy of an answer that needs no memory"
        if self.guess is not None:
            accuracy, error, _ = self.accuracy(self.guess, self.rows)
            near = abs(accuracy - chance) <= ERRORS * error
            expect(
                near, f"`guess` has accuracy {accuracy:.4g}, and chance is {chance:.4g}: {remedy}"
            )
        constant = self.best_constant()
        if constant is None:
            return None if self.guess else "no constant answer is known: give `guess` to check it"
        accuracy, error, loss = self.accuracy(constant, self.rows[len(self.rows) // 4 :])
        least = max(0.0, accuracy - ERRORS * error)
        score = task.normalized_score(least, loss)
        if type(task).normalized_score is Task.normalized_score:
            expect(
                least <= chance,
                f"a constant answer has accuracy {accuracy:.4g}, above chance, {chance:.4g}: {remedy}",
            )
        else:
            name = self.named("normalized_score")
            expect(score <= 1e-3, f"{name} is {score:g} for a constant answer: give 0")
        if self.guess is None:
            expect(
                accuracy + ERRORS * error >= chance,
                f"the best constant answer has accuracy {accuracy:.4g}, below chance, {chance:.4g}: "
                f"{remedy}, or give that answer as `guess`",
            )
        return None

    def best_constant(self) -> Guess | None:
        """Return the best of the answers that are the same for all steps, or None if not known.

        It is chosen on the first quarter of the sequences.
        """
        first = self.rows[: max(1, len(self.rows) // 4)]
        targets = torch.cat([batch.at_scored(batch.targets).flatten() for batch in first])
        if self.classifies:
            best = torch.bincount(targets, minlength=self.task.outputs).argmax()
            answers = [SURE * one_hot(best, self.task.outputs)]
        elif self.task.outputs == 1:
            shares = torch.linspace(0, 1, ANSWERS)
            numbers = targets.float().quantile(shares, interpolation="nearest").unique()
            numbers = torch.cat([numbers, torch.tensor([-SURE, SURE])])
            answers = list(numbers.unsqueeze(-1))
        else:
            return None
        guesses = [_constant(answer) for answer in answers]
        if len(guesses) == 1:
            return guesses[0]
        return max(guesses, key=lambda guess: self.accuracy(guess, first)[0])

    def accuracy(self, guess: Guess, batches: list[Batch]) -> tuple[float, float, float]:
        """Return the accuracy of an answer, its standard error, and the loss."""
        by_row, tally = [], Tally()
        for batch in batches:
            logits = guess(self.task, batch)
            right = self.task.right(batch.at_scored(logits), batch.at_scored(batch.targets))
            by_row.append(right.float().mean(dim=1))
            tally += self.task.tally(logits, batch)
        rows, chance = torch.cat(by_row), self.task.chance
        least = chance * (1 - chance) * len(rows) / tally.scored  # if answers are independent
        variance = max(float(rows.var(correction=0)), least)
        return tally.accuracy, math.sqrt(variance / len(rows)), tally.mean_loss

    def recalled_steps(self) -> None:
        batch, name = self.batch, self.named("sources")
        for x in batch.x:
            pairs = self.task.sources(x)
            if pairs is None:
                continue
            expect(
                pairs.dim() == 2 and pairs.shape[1] == 2 and not pairs.is_floating_point(),
                f"{name} has shape {tuple(pairs.shape)} and is {pairs.dtype}: give ints (N, 2)",
            )
            for step, source in pairs.tolist():
                where = f"{name} says that step {step} recalls step {source}"
                expect(1 <= source < step <= len(x), f"{where}: give 1 ≤ i < t ≤ {len(x)}")
                expect(bool(batch.scored[step - 1]), f"{where}, but step {step} is not scored")

    def varied_lengths(self) -> str | None:
        task, shortest = self.task, min(self.lengths)
        try:
            source = task.varied(shortest, generator(0, Stream.TRAINING))
        except ConfigError:
            return "the task has no batches of varied lengths"
        again = task.varied(shortest, generator(0, Stream.TRAINING))
        allowed = {task.steps(length) for length in range(shortest, task.length + 1)}
        name = self.named("varied")
        for _ in range(8):
            batch = source.batch(max(SIZES))
            T = batch.x.shape[1]
            expect(T in allowed, f"{name}({shortest}) gives {T} steps: give those of its lengths")
            self.check_batch(batch, (max(SIZES), T), f"{name}({shortest})")
            same = _same(batch, again.batch(max(SIZES)))
            expect(same, f"{name}({shortest}) differs for the same seed: draw from its generator")
        return None

    def training(self) -> None:
        run: RunConfig = run_of(self.task_config)
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


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(name: str, value: object, wanted: str) -> str:
    return f"{name} is {shown(value)}: give {wanted}"


def _refuses(
    call: Callable[[int], object], value: int, error: type[Exception] = ConfigError
) -> bool:
    """Return whether `call(value)` raises `error`."""
    try:
        call(value)
    except error:
        return True
    return False


def _same(one: Batch, other: Batch) -> bool:
    """Return whether two batches have the same sequences, targets and scored steps."""
    return all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("x", "targets", "scored")
    )


def _coincidences(rows: list[bytes]) -> int:
    """Return the number of pairs of equal rows."""
    counts: dict[bytes, int] = {}
    for row in rows:
        counts[row] = counts.get(row, 0) + 1
    return sum(count * (count - 1) // 2 for count in counts.values())


def _constant(answer: Tensor) -> Guess:
    """Return a guess that gives the logits `answer` (O,) at every step."""

    def guess(task: Task, batch: Batch) -> Tensor:
        return answer.expand(*batch.targets.shape, -1)

    return guess
