"""Training of one configuration as an iterator of reports, independent of Ray and MLflow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from sabtune.config import RunConfig
from sabtune.errors import DivergedError
from sabtune.manifest import parsing
from sabtune.models.base import state_tensors
from sabtune.ops import triton
from sabtune.schema import known_fields
from sabtune.seeding import Stream, generator
from sabtune.tasks import Batch, Tally
from sabtune.tasks.batch import Count
from sabtune.training import checkpoint
from sabtune.training.evaluation import never
from sabtune.training.optimizer import Adam

PATIENCE_UPDATES = 100
"""The number of consecutive updates without a finite gradient that count as divergence."""

DIVERGED_FACTOR = 2.0
"""The multiple of the first batch's loss from which a report's loss is too high."""

DIVERGED_REPORTS = 5
"""The number of consecutive reports with too high a loss that count as divergence."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Metrics of the training since the previous report."""

    step: int  # number of updates since the start
    loss: float  # in the task's unit, mean over the training batches
    accuracy: float  # fraction of the scored predictions that are correct
    gradient_norm: float  # the largest finite gradient norm, before clipping
    skipped: int  # number of updates skipped because the gradient was not finite
    updates_per_second: float
    in_force: dict[str, float] = field(
        default_factory=dict
    )  # current scheduled values, such as k_top


@dataclass(kw_only=True)
class Stretch:
    """Sums for the next report, over the updates since the previous report."""

    tally: Tally = field(default_factory=Tally)
    largest: float = 0.0  # the largest finite gradient norm
    skipped: int = 0
    updates: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The result of one update, which a GPU may still be computing."""

    step: int  # number of updates, this one included
    norm: Tensor  # of the gradient, before clipping
    count: Count


class Training:
    """The training of one configuration; iterate over it to train and get reports.

    Weights and sequences are drawn on the CPU, so that they are the same on every device.

    You can save it between two reports and at a pause, and continue it with `resume`, also in
    another process. On the same kind of CPU and with the same number of threads, reports and
    weights are then bit-identical to those of an uninterrupted run, except for times.
    """

    def __init__(self, run: RunConfig, device: torch.device | str = "cpu"):
        self.run = run
        self.task = run.task.build()
        self.model = run.build_model(self.task).to(device)
        self.deferred_read = self._can_defer_read()
        fused = self.deferred_read or None
        self.optimizer: torch.optim.Adam = Adam(self.model.parameters(), fused=fused)
        self.batches = run.batches(
            self.task, generator(run.seed, Stream.TRAINING), self.model.device
        )
        self.carried: Any = None  # the state that the next batch may start from
        self.step = 0
        self.in_a_row = 0  # consecutive skipped updates
        self.first_loss: float | None = None  # None before the first update
        self.far = 0  # consecutive reports with too high a loss
        self.stretch = Stretch()
        self.unread: list[Outcome] = []

    def _can_defer_read(self) -> bool:
        """Return whether the CPU can defer reading the results of updates (experimental, GPU only).

        It then waits for the GPU only at reports, at pauses and after `PATIENCE_UPDATES` updates.
        Training that carries a state from one batch to the next cannot defer, because a gradient
        that is not finite must reset that state.
        """
        carries = self.task.memory_span is not None or self.run.train.initial == "passed"
        return triton.is_enabled() and self.model.device.type == "cuda" and not carries

    @classmethod
    def resume(
        cls,
        directory: Path,
        device: torch.device | str = "cpu",
        run: RunConfig | None = None,
    ) -> Training:
        """Return the training that `save` stored in `directory`.

        Raises CheckpointError if a file is missing, damaged or of a format that this version cannot
        read, or if the configuration is not `run`.
        """
        saved = checkpoint.load(directory, run)
        training = cls(saved.run, device)
        with parsing(directory):
            training._restore(saved)
        return training

    def _restore(self, saved: checkpoint.Saved) -> None:
        """Restore the saved state. Raises an exception of `manifest.JUNK` if it does not fit."""
        if saved.step > self.run.train.updates:
            raise ValueError(f"step is {saved.step}")
        checkpoint.restore_weights(self.model, saved.weights)
        checkpoint.restore_optimizer(self.optimizer, saved.optimizer)
        self.batches.restore(saved.batches)
        if saved.carried:
            self.carried = self.model.state_of(saved.carried)
        self.step, self.in_a_row = saved.step, saved.in_a_row
        self.first_loss, self.far = saved.first_loss, saved.far
        if saved.stretch:
            tally = Tally(**known_fields(Tally, saved.stretch["tally"]))
            self.stretch = Stretch(**(known_fields(Stretch, saved.stretch) | {"tally": tally}))
        self.model.set_progress(self.progress)

    def save(self, directory: Path, others: Mapping[str, bytes] | None = None) -> None:
        """Write all that `resume` needs into `directory`. Call it between reports or at a pause.

        others: The content of additional files of the checkpoint, by name.
        """
        checkpoint.save(
            directory,
            checkpoint.Saved(
                run=self.run,
                step=self.step,
                in_a_row=self.in_a_row,
                first_loss=self.first_loss,
                far=self.far,
                stretch=asdict(self.stretch),
                weights=self.model.state_dict(),
                optimizer=checkpoint.optimizer_tensors(self.optimizer),
                batches=self.batches.state(),
                carried=state_tensors(self.carried) if self.carried is not None else {},
            ),
            others,
        )

    @property
    def progress(self) -> float:
        """The completed fraction of the updates, from 0 to 1."""
        return self.step / self.run.train.updates

    def __iter__(self) -> Iterator[Report]:
        """Train and yield reports until all updates are done.

        Raises DivergedError if training diverges.
        """
        return (report for report in self.reports() if report is not None)

    def reports(self, should_pause: Callable[[], bool] = never) -> Iterator[Report | None]:
        """Train until all updates are done; yield reports, and None at each pause.

        `should_pause` is called after every update that does not end in a report. Training pauses
        if it returns True. Raises DivergedError if training diverges.
        """
        while self.step < self.run.train.updates:
            yield self._until_report(should_pause)

    def _until_report(self, should_pause: Callable[[], bool]) -> Report | None:
        train, stretch = self.run.train, self.stretch
        stop = min((self.step // train.report_every + 1) * train.report_every, train.updates)
        started_at, earlier_seconds = time.perf_counter(), stretch.seconds
        while True:
            in_force = self.model.in_force()
            self.unread.append(self._update())
            stretch.updates += 1
            if not self.deferred_read or self.step == stop or len(self.unread) == PATIENCE_UPDATES:
                self._read_outcomes()
            if self.step == stop:
                break
            if should_pause():
                self._read_outcomes()
                stretch.seconds = earlier_seconds + time.perf_counter() - started_at
                return None
        self.stretch = Stretch()
        self._check_loss(stretch.tally.mean_loss)
        return Report(
            step=self.step,
            loss=stretch.tally.mean_loss,
            accuracy=stretch.tally.accuracy,
            gradient_norm=stretch.largest,
            skipped=stretch.skipped,
            updates_per_second=stretch.updates
            / (earlier_seconds + time.perf_counter() - started_at),
            in_force=in_force,
        )

    def _update(self) -> Outcome:
        """Make one update and return its result."""
        train = self.run.train
        batch = self.batches.batch(train.batch_size)
        logits, state = self.model(batch.x, self._start(batch))
        loss = self.task.loss(logits, batch)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = clip_grad_norm_(self.model.parameters(), train.clip_norm)
        self._carry(state if self._step_optimizer(norm) else None)
        self.step += 1
        self.model.set_progress(self.progress)
        return Outcome(step=self.step, norm=norm, count=self.task.count(logits.detach(), batch))

    def _step_optimizer(self, norm: Tensor) -> bool:
        """Take an optimizer step if the gradient is finite. Return False if the step is skipped.

        If the read is deferred, the optimizer skips the step on the device, and the return value is
        always True.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.train.rate(self.step)
        if self.deferred_read:
            self.optimizer.found_inf = norm.isfinite().logical_not().float()  # type: ignore[attr-defined]
        elif not math.isfinite(norm):
            return False
        self.optimizer.step()
        return True

    def _read_outcomes(self) -> None:
        """Add the results of the unread updates to the sums for the next report.

        Raises DivergedError after `PATIENCE_UPDATES` consecutive updates without a finite gradient.
        """
        stretch, unread, self.unread = self.stretch, self.unread, []
        for outcome in unread:
            norm = float(outcome.norm)
            if math.isfinite(norm):
                stretch.largest = max(stretch.largest, norm)
            else:
                stretch.skipped += 1
            self.in_a_row = 0 if math.isfinite(norm) else self.in_a_row + 1
            if self.in_a_row >= PATIENCE_UPDATES:
                raise DivergedError(
                    f"no finite gradient in {PATIENCE_UPDATES} updates up to step {outcome.step}: "
                    "lower learning_rate or clip_norm"
                )
            tally = outcome.count.tally()
            stretch.tally += tally
            if self.first_loss is None:
                self.first_loss = tally.mean_loss

    def _check_loss(self, loss: float) -> None:
        """Raise DivergedError if the loss stays too high over several reports."""
        assert self.first_loss is not None
        self.far = 0 if loss < DIVERGED_FACTOR * self.first_loss else self.far + 1
        if self.far >= DIVERGED_REPORTS:
            raise DivergedError(
                f"the loss is {loss:.3g} at step {self.step}, and for {DIVERGED_REPORTS} reports "
                f"no less than {DIVERGED_FACTOR:g} times its first value {self.first_loss:.3g}: "
                "lower learning_rate"
            )

    def _start(self, batch: Batch) -> Any:
        """Return the state that the batch starts from, or None for the model's own start state."""
        train = self.run.train
        if batch.continues:
            return self.carried
        match train.initial:
            case "passed":
                return None if self.carried is None else self.model.restart(self.carried)
            case "noise":
                drawn = generator(self.run.seed, Stream.STATES, index=self.step)
                return self.model.random_start(len(batch.x), train.initial_scale, drawn)
            case "zero":
                return None

    def _carry(self, state: Any) -> None:
        """Store the state that the next batch starts from, if training carries one.

        state: The state after the batch; None if the update was skipped.
        """
        span = self.task.memory_span
        if state is not None and span is not None:
            self.carried = self.model.carry(state, span)
        elif state is not None and self.run.train.initial == "passed":
            self.carried = self.model.restart(state)
        else:
            self.carried = None
