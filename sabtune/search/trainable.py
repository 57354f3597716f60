"""A trial as Ray Tune runs it: a worker process that takes one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import ray
import torch
from ray import tune

from sabtune.errors import CheckpointError, StoreError
from sabtune.manifest import INSTEAD
from sabtune.provenance import hardware
from sabtune.redaction import redact
from sabtune.storage.folder import Folder
from sabtune.storage.patience import patiently
from sabtune.study.checkpoints import ENTRY, within
from sabtune.training.trial import FILES, Progress, TrialRun, TrialSpec

T = TypeVar("T")

SAVE_EVERY = 30.0
"""Seconds after which a trial pauses on the way to its next report, for a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """What a worker is given: plain values under Tune's `config`.

    directory: the name of the folder for its checkpoints, below `trials`, an address. checkpoints:
    those of earlier attempts, newest first; the first that can be read is gone on from.
    save_every: seconds. entry: goes with every checkpoint, if there is one.
    """

    spec: TrialSpec
    directory: str
    trials: str
    checkpoints: tuple[str, ...] = ()
    save_every: float = SAVE_EVERY
    entry: str = ""

    def to_config(self) -> dict[str, Any]:
        return {
            "assignment": self.spec.to_dict(),
            "directory": self.directory,
            "trials": self.trials,
            "checkpoints": list(self.checkpoints),
            "save_every": self.save_every,
            "entry": self.entry,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(
            spec=TrialSpec.from_dict(config["assignment"]),
            directory=config["directory"],
            trials=config["trials"],
            checkpoints=tuple(config["checkpoints"]),
            save_every=config["save_every"],
            entry=config["entry"],
        )


def place(config: dict[str, Any]) -> Folder:
    """Where the checkpoints of an order go, of which this is the `config`."""
    return Folder(config["trials"]) / str(config["directory"])


@dataclass(frozen=True, kw_only=True)
class WorkerResult:
    """What comes back after each stretch: progress, or why the trial can't go on, or neither of a
    trial that has paused on the way to a report, to be saved."""

    progress: Progress | None
    failed: str = ""
    hardware: dict[str, Any] | None = None  # with the first of an attempt
    passed_over: tuple[str, ...] = ()  # likewise: each checkpoint that isn't whole, and why
    seconds: float = 0.0  # that the trial took so far, over all its attempts

    def to_result(self) -> dict[str, Any]:
        """As Tune's result: `score` and `step` are what its scheduler compares; step 0 is none."""
        progress = self.progress
        return {
            "step": progress.report.step if progress else 0,
            "score": progress.score if progress else 0.0,
            "seconds": progress.seconds if progress else self.seconds,
            "done": progress.finished if progress else bool(self.failed),
            "progress": progress.to_dict() if progress else None,
            "failed": self.failed,
            "hardware": self.hardware,
            "passed_over": list(self.passed_over),
        }

    @classmethod
    def from_result(cls, result: dict[str, Any]) -> Self:
        data = result["progress"]
        return cls(
            progress=Progress.from_dict(data) if data else None,
            failed=result["failed"],
            hardware=result["hardware"],
            passed_over=tuple(result["passed_over"]),
            seconds=result["seconds"],
        )


class Trial(tune.Trainable):
    """All state is made anew in `reset_config`, and only when the first step asks for it."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.order, self.place = WorkerTask.from_config(new_config), place(new_config)
        self._begin_from([Folder(address) for address in self.order.checkpoints])
        return True

    def _begin_from(self, checkpoints: Sequence[Folder]) -> None:
        self.checkpoints = checkpoints
        self.run: TrialRun | None = None
        self.stretches: Iterator[Progress | None] = iter(())
        self.saved = time.monotonic()

    def _pressed(self) -> bool:
        return time.monotonic() - self.saved >= self.order.save_every

    def step(self) -> dict[str, Any]:
        first, passed = self.run is None, dict[str, str]()
        try:
            if first:
                torch.set_num_threads(self.order.spec.threads)
                self.run = patiently(
                    lambda: newest(self.order.spec, self.checkpoints, device(), passed.__setitem__),
                    StoreError,
                )
                self.stretches = self.run.stretches(self._pressed)
            assert self.run is not None
            progress = next(self.stretches)
        except StoreError:  # its checkpoints can't be had now: to be tried again, as by Tune
            raise
        except Exception as problem:  # the trial's own fault: Tune would only try it again
            self.run = None
            text = redact(" ".join(str(problem).split()))
            return WorkerResult(
                progress=None, failed=f"{type(problem).__name__}: {text}"
            ).to_result()
        return WorkerResult(
            progress=progress,
            hardware=hardware() if first else None,
            passed_over=tuple(f"{where} is passed over: {why}" for where, why in passed.items()),
            seconds=self.run.seconds,
        ).to_result()

    def save(self, checkpoint_dir: str | None = None) -> Any:
        """As Tune does; an object store that is away for minutes costs no more than those. Raises
        StoreError if it stays so, or refuses."""
        if self.place.path is not None:
            return super().save(checkpoint_dir)
        return patiently(lambda: self._upload(checkpoint_dir), StoreError)

    def _upload(self, checkpoint_dir: str | None) -> Any:
        with self.place.told("written"):
            return super().save(checkpoint_dir)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if self.run is not None:  # a trial that failed leaves an empty one, which is never read
            entry = {ENTRY: self.order.entry.encode()} if self.order.entry else {}
            self.run.save(Path(checkpoint_dir), entry)
        self.saved = time.monotonic()

    def restore(self, checkpoint_path: Any) -> None:
        """After the death of a worker: from its last checkpoint that the driver knows of."""
        self.last = Path(getattr(checkpoint_path, "checkpoint", checkpoint_path).path).name
        super().restore(checkpoint_path)

    def load_checkpoint(self, checkpoint: dict[str, Any] | str | None) -> None:
        """The last checkpoint and those before it; one after it was never told of, and goes, so
        that no other is mixed with it."""
        known = within(self.place)
        for untold in (of for of in known if of.name > self.last):
            untold.delete_all()
        earlier = [Folder(address) for address in self.order.checkpoints]
        self._begin_from([*(of for of in known if of.name <= self.last), *earlier])


def unheard(checkpoint: str, why: str) -> None:
    """Tells nobody."""


def newest(
    spec: TrialSpec,
    checkpoints: Sequence[Folder],
    device: torch.device,
    tell: Callable[[str, str], None] = unheard,
) -> TrialRun:
    """The trial from the first of these checkpoints that is whole; from its start, if none.

    tell: is told of each that is passed over, and why.
    """
    for checkpoint in checkpoints:
        with checkpoint.here(FILES) as here:
            try:
                return TrialRun.resume(spec, here, device)
            except CheckpointError as problem:
                words = str(problem).replace(f"{here}/", "")
                tell(str(checkpoint), words.removesuffix(f": {INSTEAD}"))
    return TrialRun(spec, device)


def device() -> torch.device:
    """The GPU that Ray gave this worker, if it gave one."""
    return torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")
