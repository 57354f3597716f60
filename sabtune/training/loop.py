"""The training of one configuration, as an iterator of reports. Knows no scheduler, no tracker."""

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
from sabtune.seeding import Stream, generator
from sabtune.tasks import Batch, Tally
from sabtune.tasks.batch import Count, moved
from sabtune.training import checkpoint
from sabtune.training.evaluation import never

PATIENCE = 100
"""Updates in a row without a finite gradient after which training counts as diverged."""

FAR = 2.0
"""Times its first batch's loss, from which on a training is further off than it began ..."""

LOST = 5
"""... and the reports in a row, from there, after which it counts as diverged."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Training since the report before."""

    step: int  # updates done since the start
    loss: float  # in the task's unit, mean over the training batches
    accuracy: float  # share of scored predictions, over the same
    gradient_norm: float  # the largest before clipping, finite ones alone
    skipped: int  # updates left out because their gradient was not finite
    updates_per_second: float
    in_force: dict[str, float] = field(default_factory=dict)  # scheduled values, such as k_top


@dataclass(kw_only=True)
class Stretch:
    """What the next report is made of so far: the training since the one before."""

    tally: Tally = field(default_factory=Tally)
    largest: float = 0.0  # of the gradient's norms
    skipped: int = 0
    updates: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """How an update went, yet to be read."""

    step: int  # updates done with it
    norm: Tensor  # the gradient's before clipping
    count: Count


class Training:
    """Trains one configuration; iterate it for reports.

    Weights and sequences are drawn on the CPU, so that a run has the same ones on every device.

    Between two reports, and where it pauses on the way to one, it can be saved and taken up again
    by `resume`, in another process too: on the same kind of CPU with the same number of threads the
    reports and weights that follow are those of an unbroken run, bit for bit, but for the times.
    """

    def __init__(self, run: RunConfig, device: torch.device | str = "cpu"):
        self.run = run
        self.task = run.task.build()
        self.model = run.build_model(self.task).to(device)
        self.deferred_read = self._may_lag()
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=self.deferred_read or None)
        self.batches = run.batches(
            self.task, generator(run.seed, Stream.TRAINING), self.model.device
        )
        self.carried: Any = None  # the state that the next batch may go on from
        self.step = 0
        self.in_a_row = 0  # updates skipped one after the other
        self.first_loss: float | None = None  # before the first update
        self.far = 0  # reports one after the other
        self.stretch = Stretch()
        self.unread: list[Outcome] = []

    def _may_lag(self) -> bool:
        """Whether what updates come to is read at reports alone: experimental, on a GPU.

        Nobody waits for the GPU in between. Not where a state is carried, which a gradient that
        isn't finite would end.
        """
        carries = self.task.memory_span is not None or self.run.trial.train.initial == "passed"
        return triton.asked_for() and self.model.device.type == "cuda" and not carries

    @classmethod
    def resume(
        cls,
        directory: Path,
        device: torch.device | str = "cpu",
        run: RunConfig | None = None,
    ) -> Training:
        """The training that `save` wrote. Raises CheckpointError if the files are damaged, or of
        another configuration than `run`."""
        saved = checkpoint.load(directory, run)
        training = cls(saved.run, device)
        with parsing(directory):
            training._restore(saved)
        return training

    def _restore(self, saved: checkpoint.Saved) -> None:
        """Goes on from what was saved. Raises one of `manifest.JUNK` if that is another's."""
        if saved.step > self.run.trial.train.updates:
            raise ValueError(f"step is {saved.step}")
        checkpoint.restore_weights(self.model, saved.weights)
        checkpoint.restore_optimizer(self.optimizer, saved.optimizer)
        self.batches.restore(saved.batches)
        if saved.carried:
            self.carried = self.model.state_of(saved.carried)
        self.step, self.in_a_row = saved.step, saved.in_a_row
        self.first_loss, self.far = saved.first_loss, saved.far
        if saved.stretch:
            tally = Tally(**saved.stretch["tally"])
            self.stretch = Stretch(**(saved.stretch | {"tally": tally}))
        self.model.set_progress(self.progress)

    def save(self, directory: Path, others: Mapping[str, bytes] | None = None) -> None:
        """Writes all that `resume` needs; call it between two reports, or where it pauses.

        others: further files of the checkpoint, by name.
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
        """The share of the updates that is done."""
        return self.step / self.run.trial.train.updates

    def __iter__(self) -> Iterator[Report]:
        """Reports until all updates are done. Raises DivergedError where training can't go on."""
        return (report for report in self.reports() if report is not None)

    def reports(self, should_pause: Callable[[], bool] = never) -> Iterator[Report | None]:
        """The same, and None on the way to a report wherever `pressed` says that it's time to
        pause: it is asked after every update."""
        while self.step < self.run.trial.train.updates:
            yield self._until_report(should_pause)

    def _until_report(self, should_pause: Callable[[], bool]) -> Report | None:
        train, now = self.run.trial.train, self.stretch
        stop = min((self.step // train.report_every + 1) * train.report_every, train.updates)
        begun, before = time.perf_counter(), now.seconds
        while True:
            in_force = self.model.in_force()
            self.unread.append(self._update())
            now.updates += 1
            if not self.deferred_read or self.step == stop or len(self.unread) == PATIENCE:
                self._read()
            if self.step == stop:
                break
            if should_pause():
                self._read()
                now.seconds = before + time.perf_counter() - begun
                return None
        self.stretch = Stretch()
        self._check(now.tally.mean_loss)
        return Report(
            step=self.step,
            loss=now.tally.mean_loss,
            accuracy=now.tally.accuracy,
            gradient_norm=now.largest,
            skipped=now.skipped,
            updates_per_second=now.updates / (before + time.perf_counter() - begun),
            in_force=in_force,
        )

    def _update(self) -> Outcome:
        """One optimiser step."""
        train = self.run.trial.train
        batch = self.batches.batch(train.batch_size)
        logits, state = self.model(batch.x, self._start(batch))
        loss = self.task.loss(logits, batch)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = clip_grad_norm_(self.model.parameters(), train.clip_norm)
        self._carry(state if self._learned(norm) else None)
        self.step += 1
        self.model.set_progress(self.progress)
        return Outcome(step=self.step, norm=norm, count=self.task.count(logits.detach(), batch))

    def _learned(self, norm: Tensor) -> bool:
        """Has the optimiser take its step, unless the gradient isn't finite; whether it did.

        Where training lags the optimiser itself looks, on the device, and True tells nothing.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.trial.train.rate(self.step)
        if self.deferred_read:
            self.optimizer.found_inf = norm.isfinite().logical_not().float()  # type: ignore[attr-defined]
        elif not math.isfinite(norm):
            return False
        self.optimizer.step()
        return True

    def _read(self) -> None:
        """Adds what the unread updates came to."""
        now, unread, self.unread = self.stretch, self.unread, []
        for outcome in unread:
            norm = float(outcome.norm)
            if math.isfinite(norm):
                now.largest = max(now.largest, norm)
            else:
                now.skipped += 1
            self.in_a_row = 0 if math.isfinite(norm) else self.in_a_row + 1
            if self.in_a_row >= PATIENCE:
                raise DivergedError(
                    f"no finite gradient in {PATIENCE} updates up to step {outcome.step}: "
                    "lower learning_rate or clip_norm"
                )
            tally = outcome.count.tally()
            now.tally += tally
            if self.first_loss is None:
                self.first_loss = tally.mean_loss

    def _check(self, loss: float) -> None:
        """Raises DivergedError if the loss, of this report and those before, stays far off."""
        assert self.first_loss is not None
        self.far = 0 if loss < FAR * self.first_loss else self.far + 1
        if self.far >= LOST:
            raise DivergedError(
                f"the loss was {loss:.3g} at step {self.step}, and for {LOST} reports no less than "
                f"{FAR:g} times the {self.first_loss:.3g} it began with: lower learning_rate"
            )

    def _start(self, batch: Batch) -> Any:
        """The state that the batch's sequences start from; None where it is the model's own."""
        train = self.run.trial.train
        if batch.continues:
            return self.carried
        match train.initial:
            case "passed":
                return None if self.carried is None else self.model.restarted(self.carried)
            case "noise":
                drawn = generator(self.run.seed, Stream.STATES, index=self.step)
                shape = 2, len(batch.x), self.run.trial.model.hidden
                h, c = train.initial_scale * torch.randn(shape, generator=drawn)
                return self.model.start(moved(h, self.model.device), moved(c, self.model.device))
            case "zero":
                return None

    def _carry(self, state: Any) -> None:
        """Keeps a state for the next batch to go on from, where the task or the training has it do
        so."""
        span = self.task.memory_span
        if state is not None and span is not None:
            self.carried = self.model.carried(state, span)
        elif state is not None and self.run.trial.train.initial == "passed":
            self.carried = self.model.restarted(state)
        else:
            self.carried = None
