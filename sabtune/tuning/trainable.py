"""A trial as Ray Tune runs it, in a worker process that takes one trial after another."""

from __future__ import annotations

import json
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
from sabtune.parts import local
from sabtune.provenance import hardware
from sabtune.redaction import redact
from sabtune.storage.folder import Folder
from sabtune.storage.patience import patiently
from sabtune.study.checkpoints import ENTRY, within
from sabtune.training.trial import FILES, Progress, TrialRun, TrialSpec, check_datasets

T = TypeVar("T")

SAVE_SECONDS = 30.0
"""The seconds after which a trial without new progress pauses, to save a checkpoint."""


CONTENT = "content"
"""The key of the text in a result; see `WorkerResult.to_result`."""


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """The task of a worker, which Ray Tune passes to it as plain values in `config`.

    spec: the trial to run. directory: the name of the folder for its checkpoints, in the folder at
    the address `trials`. checkpoints: addresses of the checkpoints of earlier attempts, newest
    first. The worker resumes from the first one that it can read. save_every: the seconds after
    which a trial without new progress pauses, to save a checkpoint. entry: the trial's entry in the
    study, which every checkpoint stores; "" to store none. code: the address of the folder that has
    the code of own parts.
    """

    spec: TrialSpec
    directory: str
    trials: str
    checkpoints: tuple[str, ...] = ()
    save_every: float = SAVE_SECONDS
    entry: str = ""
    code: str = ""

    def to_config(self) -> dict[str, Any]:
        """Return the task as plain values, for `from_config`."""
        return {
            "assignment": self.spec.to_dict(),
            "directory": self.directory,
            "trials": self.trials,
            "checkpoints": list(self.checkpoints),
            "save_every": self.save_every,
            "entry": self.entry,
            "code": self.code,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the task that `to_config` turned into plain values.

        Raises ConfigError if a part of the trial can't be loaded.
        """
        if config["code"]:
            local.add_source(Folder(config["code"]))
        return cls(
            spec=TrialSpec.from_dict(config["assignment"]),
            directory=config["directory"],
            trials=config["trials"],
            checkpoints=tuple(config["checkpoints"]),
            save_every=config["save_every"],
            entry=config["entry"],
            code=config["code"],
        )


def place(config: dict[str, Any]) -> Folder:
    """Return the folder for the checkpoints of the task with this `config`."""
    return Folder(config["trials"]) / str(config["directory"])


@dataclass(frozen=True, kw_only=True)
class WorkerResult:
    """The result of one step of a worker.

    It has the trial's progress, or in `failed` the reason why the trial can't continue. It has
    neither when the trial pauses only to save a checkpoint.
    """

    progress: Progress | None
    failed: str = ""
    hardware: dict[str, Any] | None = None  # in the first result of an attempt
    passed_over: tuple[str, ...] = ()  # in the first result: a message for each damaged checkpoint
    seconds: float = 0.0  # the trial's time so far, over all its attempts

    def to_result(self) -> dict[str, Any]:
        """Return the result as plain values, for Ray Tune and for `from_result`.

        The scheduler compares trials by `score` at `step`, and ignores a result with step 0. The
        rest is in one text: Ray Tune keeps statistics of every number that it finds in a result,
        with the averages of several reports, in memory and for each trial.
        """
        progress = self.progress
        content = {
            "progress": progress.to_dict() if progress else None,
            "hardware": self.hardware,
            "passed_over": self.passed_over,
            "seconds": progress.seconds if progress else self.seconds,
        }
        return {
            "step": progress.report.step if progress else 0,
            "score": progress.score if progress else 0.0,
            "done": progress.finished if progress else bool(self.failed),
            "finished": progress is not None and progress.finished,
            "solved": progress is not None and progress.solved,
            "failed": self.failed,
            CONTENT: json.dumps(content),
        }

    @classmethod
    def from_result(cls, result: dict[str, Any]) -> Self:
        """Return the result that `to_result` turned into plain values."""
        content = json.loads(result[CONTENT])
        progress = content["progress"]
        return cls(
            progress=Progress.from_dict(progress) if progress else None,
            failed=result["failed"],
            hardware=content["hardware"],
            passed_over=tuple(content["passed_over"]),
            seconds=content["seconds"],
        )


class Trial(tune.Trainable):
    """A trial as a Ray Tune trainable.

    A worker can take one trial after another: `reset_config` discards all state, and the first step
    builds the new state.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Take the worker's first trial."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial, and return True: a worker can always be reused."""
        self.task_config, self.place = new_config, place(new_config)
        self._reset([Folder(address) for address in new_config["checkpoints"]])
        return True

    def _reset(self, checkpoints: Sequence[Folder]) -> None:
        self.checkpoints = checkpoints
        self.run: TrialRun | None = None
        self.stretches: Iterator[Progress | None] = iter(())
        self.saved = time.monotonic()

    def _should_pause(self) -> bool:
        return time.monotonic() - self.saved >= float(self.task_config["save_every"])

    def step(self) -> dict[str, Any]:
        """Train until the next progress or pause, and return a `WorkerResult` as plain values.

        The first step loads the trial's own code and the newest readable checkpoint. Raises
        StoreError if they can't be reached. Every other problem fails the trial.
        """
        first, passed_over = self.run is None, dict[str, str]()
        try:
            if first:
                task = patiently(lambda: WorkerTask.from_config(self.task_config), StoreError)
                check_datasets(task.spec)
                torch.set_num_threads(task.spec.threads)
                self.run = patiently(
                    lambda: newest(task.spec, self.checkpoints, device(), passed_over.__setitem__),
                    StoreError,
                )
                self.stretches = self.run.stretches(self._should_pause)
            assert self.run is not None
            self.run.spec.run.activate()
            progress = next(self.stretches)
        except StoreError:  # the checkpoints are out of reach for now, so let Tune retry
            raise
        except Exception as problem:  # the trial itself fails, so a retry by Tune would be useless
            self.run = None
            text = redact(" ".join(str(problem).split()))
            return WorkerResult(
                progress=None, failed=f"{type(problem).__name__}: {text}"
            ).to_result()
        return WorkerResult(
            progress=progress,
            hardware=hardware() if first else None,
            passed_over=tuple(
                f"{checkpoint} is passed over: {reason}"
                for checkpoint, reason in passed_over.items()
            ),
            seconds=self.run.seconds,
        ).to_result()

    def save(self, checkpoint_dir: str | None = None) -> Any:
        """Save a checkpoint as Ray Tune does, but wait for an object store that is out of reach.

        Raises StoreError if the object store stays out of reach or refuses access.
        """
        if self.place.path is not None:
            return super().save(checkpoint_dir)
        return patiently(lambda: self._upload(checkpoint_dir), StoreError)

    def _upload(self, checkpoint_dir: str | None) -> Any:
        with self.place.told("written"):
            return super().save(checkpoint_dir)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write a checkpoint to a folder on this machine."""
        if self.run is not None:  # a failed trial leaves an empty checkpoint, which is never read
            recorded = self.task_config["entry"]
            entry = {ENTRY: recorded.encode()} if recorded else {}
            self.run.save(Path(checkpoint_dir), entry)
        self.saved = time.monotonic()

    def restore(self, checkpoint_path: Any) -> None:
        """Restore the last checkpoint that the driver received before the worker died."""
        self.last_checkpoint = Path(
            getattr(checkpoint_path, "checkpoint", checkpoint_path).path
        ).name
        super().restore(checkpoint_path)

    def load_checkpoint(self, checkpoint: dict[str, Any] | str | None) -> None:
        """Resume from the restored checkpoint, or from the newest readable one before it.

        Later checkpoints, which never reached the driver, are deleted so that new checkpoints don't
        mix with them.
        """
        checkpoints = within(self.place)
        for unreported in (each for each in checkpoints if each.name > self.last_checkpoint):
            unreported.delete_all()
        earlier = [Folder(address) for address in self.task_config["checkpoints"]]
        reported = (each for each in checkpoints if each.name <= self.last_checkpoint)
        self._reset([*reported, *earlier])


def _ignore(checkpoint: str, reason: str) -> None:
    """Do nothing."""


def newest(
    spec: TrialSpec,
    checkpoints: Sequence[Folder],
    device: torch.device,
    tell: Callable[[str, str], None] = _ignore,
) -> TrialRun:
    """Resume a trial from the first readable checkpoint, or start it if there is none.

    checkpoints: newest first. tell: called with the address of each checkpoint that is passed over
    and the reason. Raises StoreError if a checkpoint can't be reached.
    """
    for checkpoint in checkpoints:
        with checkpoint.here(FILES) as folder:
            try:
                return TrialRun.resume(spec, folder, device)
            except CheckpointError as problem:
                reason = str(problem).replace(f"{folder}/", "")
                tell(str(checkpoint), reason.removesuffix(f": {INSTEAD}"))
    return TrialRun(spec, device)


def device() -> torch.device:
    """Return the GPU that Ray gave this worker, or the CPU if it gave none."""
    return torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")
