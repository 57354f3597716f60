"""A trial as Ray Tune runs it: a worker process that takes one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ray
import torch
from ray import tune

from sabtune.errors import CheckpointError
from sabtune.provenance import hardware
from sabtune.trial import Assignment, Progress, TrialRun


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a worker is given: plain values under Tune's `config`.

    directory: the name of the folder for its checkpoints. checkpoints: those of earlier attempts,
    newest first; the first that can be read is gone on from.
    """

    assignment: Assignment
    directory: str
    checkpoints: tuple[str, ...] = ()

    def to_config(self) -> dict[str, Any]:
        return {
            "assignment": self.assignment.to_dict(),
            "directory": self.directory,
            "checkpoints": list(self.checkpoints),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(
            assignment=Assignment.from_dict(config["assignment"]),
            directory=config["directory"],
            checkpoints=tuple(config["checkpoints"]),
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What comes back after each stretch: progress, or why the trial can't go on."""

    progress: Progress | None
    failed: str = ""
    hardware: dict[str, Any] | None = None  # with the first of an attempt

    def to_result(self) -> dict[str, Any]:
        """As Tune's result: `score` and `step` are what its scheduler compares."""
        progress = self.progress
        return {
            "step": progress.report.step if progress else 0,
            "score": progress.score if progress else 0.0,
            "seconds": progress.seconds if progress else 0.0,
            "done": progress is None or progress.finished,
            "progress": progress.to_dict() if progress else None,
            "failed": self.failed,
            "hardware": self.hardware,
        }

    @classmethod
    def from_result(cls, result: dict[str, Any]) -> Self:
        data = result["progress"]
        return cls(
            progress=Progress.from_dict(data) if data else None,
            failed=result["failed"],
            hardware=result["hardware"],
        )


class Trial(tune.Trainable):
    """All state is made anew in `reset_config`, and only when the first step asks for it."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.order = Order.from_config(new_config)
        self._begin_from([Path(directory) for directory in self.order.checkpoints])
        return True

    def _begin_from(self, checkpoints: list[Path]) -> None:
        self.checkpoints = checkpoints
        self.run: TrialRun | None = None
        self.stretches: Iterator[Progress] = iter(())

    def step(self) -> dict[str, Any]:
        first = self.run is None
        try:
            if first:
                torch.set_num_threads(self.order.assignment.threads)
                self.run = newest(self.order.assignment, self.checkpoints, device())
                self.stretches = iter(self.run)
            progress = next(self.stretches)
        except Exception as problem:  # the trial's own fault: Tune would only try it again
            self.run = None
            text = " ".join(str(problem).split())
            return Answer(progress=None, failed=f"{type(problem).__name__}: {text}").to_result()
        return Answer(progress=progress, hardware=hardware() if first else None).to_result()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if self.run is not None:  # a trial that failed leaves an empty one, which is never read
            self.run.save(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: dict[str, Any] | str | None) -> None:
        """After the death of a worker: the last checkpoint, and those before it."""
        assert isinstance(checkpoint, str)
        last = Path(checkpoint)
        before = [path for path in last.parent.glob("checkpoint_*") if path.name < last.name]
        earlier = [Path(directory) for directory in self.order.checkpoints]
        self._begin_from([last, *sorted(before, reverse=True), *earlier])


def newest(assignment: Assignment, checkpoints: list[Path], device: torch.device) -> TrialRun:
    """The trial from the first of these checkpoints that can be read; from its start, if none."""
    for directory in checkpoints:
        try:
            return TrialRun.resume(assignment, directory, device)
        except CheckpointError:
            continue
    return TrialRun(assignment, device)


def device() -> torch.device:
    """The GPU that Ray gave this worker, if it gave one."""
    return torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")
