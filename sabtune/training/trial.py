"""One trial: training, with an evaluation at every report. Independent of Ray and MLflow.

Workers of a search, `sabtune reproduce` and the probe of a dry run all run trials with this module.
A trial's checkpoint contains the files of `sabtune.training.checkpoint` and this one:

trial.json    the TrialSpec, the progress so far, and the results measured for the next report

Readers accept files that other versions of sabtune wrote. They ignore unknown keys and use defaults
for missing ones. The configuration, under the key "run", is an exception: an unknown key there
raises CheckpointError, because it could change what the trial computes.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from platform import node
from typing import Any, Self

import torch

from sabtune import manifest
from sabtune.config import RunConfig
from sabtune.data.digests import differences, shown
from sabtune.errors import CheckpointError, DataError, LimitError
from sabtune.schema import CODE, Config, check, from_dict, known_fields, to_dict
from sabtune.seeding import Stream
from sabtune.training import checkpoint
from sabtune.training.cost import cost_of
from sabtune.training.evaluation import (
    Begun,
    Ladder,
    LengthResult,
    measure_on,
    never,
    read_ladder,
    selection_score,
    solves,
)
from sabtune.training.loop import Report, Training
from sabtune.training.memory import forget_peak, peak
from sabtune.wording import counted

FILE = "trial.json"

FORMAT = 2
"""The format number of trial.json. A file without one has format 1. Older versions ignore keys that
they do not know, so only a change that they must not ignore needs a new number."""

FILES = (*checkpoint.FILES, FILE)
"""The files that `TrialRun.resume` reads."""


@dataclass(frozen=True, kw_only=True)
class Limits(Config):
    """The limits of a trial, checked at every report. A trial that exceeds a limit fails.

    Args:
        hours: The time of training and evaluation in hours, over all attempts. Above 0, or None for
            no limit.
        memory: The peak memory in GiB of the trial's process, or of its tensors on the GPU. Above
            0, or None for no limit.

    Raises:
        ConfigError: A field is unknown, not above 0 or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> sab.Limits(hours=0.5, memory=4)
        Limits(hours=0.5, memory=4.0)
    """

    hours: float | None = None
    memory: float | None = None

    def __post_init__(self) -> None:
        for name in ("hours", "memory"):
            value = getattr(self, name)
            check(value is None or value > 0, name, value, "a number above 0, or None")


@dataclass(frozen=True, kw_only=True)
class TrialSpec(Config):
    """Everything that determines a trial. The same spec gives the same trial again.

    configuration: The number of the first trial with the same configuration. It differs from
    `number` if this trial repeats that configuration with another seed.

    confirms: Whether the trial belongs to a confirmation, and so is tested on sequences that no
    search uses.

    datasets: The SHA-256 of each data set that the task reads, by name; {} in records of version
    0.1.
    """

    number: int
    configuration: int
    run: RunConfig
    ladder: Ladder
    evaluation_seed: int  # seed of the sequences that the lengths are measured on
    threads: int
    limits: Limits = field(default_factory=Limits)
    confirms: bool = False
    datasets: dict[str, str] = field(default_factory=dict)

    @property
    def test_stream(self) -> Stream:
        """The stream of the sequences that the trial is tested on."""
        return Stream.CONFIRMATION if self.confirms else Stream.TEST

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain JSON values."""
        return {
            "number": self.number,
            "configuration": self.configuration,
            "run": self.run.to_dict(),
            "ladder": to_dict(self.ladder, {}),
            "evaluation_seed": self.evaluation_seed,
            "threads": self.threads,
            "limits": to_dict(self.limits, {}),
            "confirms": self.confirms,
            "datasets": dict(self.datasets),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the spec from the dict that `to_dict` made in any version.

        Raises ConfigError if a value is invalid or the configuration has an unknown key, and
        KeyError if a key without a default is missing.
        """
        return cls(
            number=data["number"],
            configuration=data.get("configuration", data["number"]),
            run=_read_run(data["run"]),
            ladder=_read_ladder(json.dumps(data["ladder"])),
            evaluation_seed=data["evaluation_seed"],
            threads=data["threads"],
            limits=_read_limits(json.dumps(data.get("limits", {}))),
            confirms=data.get("confirms", False),
            datasets=data.get("datasets", {}),
        )


def changed_datasets(spec: TrialSpec) -> list[tuple[str, str, str | None]]:
    """Return the name, recorded digest and present digest of each data set that differs here.

    Raises DataError if a data set is missing or damaged.
    """
    return differences(spec.datasets, spec.run.task.build().datasets()) if spec.datasets else []


def check_datasets(spec: TrialSpec) -> None:
    """Raise DataError unless the data on this machine is that of the trial's record."""
    for name, recorded, present in changed_datasets(spec):
        here = f"here it has {shown(present)}" if present else "there is none here"
        raise DataError(
            f"data set {name} has SHA-256 {shown(recorded)} in the record of trial "
            f"{spec.number}, but {here}: give {node()} the data that the study began with"
        )


def _read_run(data: object) -> RunConfig:
    """Return a run from its dict.

    Runs that differ only in their seeds are read once, unless they have parts of your own code,
    whose classes may be loaded again.
    """
    if isinstance(data, dict) and type(data.get("seed")) is int:
        text = json.dumps(data | {"seed": 0})
        if f'"{CODE}"' not in text:
            return replace(_read_without_seed(text), seed=data["seed"])
    return RunConfig.from_dict(data)


@functools.lru_cache(maxsize=1_000)
def _read_without_seed(text: str) -> RunConfig:
    return RunConfig.from_dict(json.loads(text))


@functools.lru_cache(maxsize=100)
def _read_ladder(text: str) -> Ladder:
    return read_ladder(json.loads(text))


@functools.lru_cache(maxsize=100)
def _read_limits(text: str) -> Limits:
    return from_dict(Limits, known_fields(Limits, json.loads(text)), {})


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The state of a trial at a report: training metrics, length results and score."""

    report: Report
    ladder: Sequence[LengthResult]  # on selection sequences; at the end, every length
    test: Sequence[LengthResult] = ()  # on test sequences; empty before the end
    score: float  # over the selection lengths; the objective of the search
    seconds: float  # duration of the trial so far, over all attempts
    memory: float  # MiB, peak so far
    finished: bool = False  # training has ended
    solved: bool = False  # every selection length is; False if solved_reports is None
    parameters: int | None = None  # of the model; None in records of version 0.1
    multiply_adds: float | None = None  # of a step, forward; None in records of version 0.1

    def to_dict(self) -> dict[str, Any]:
        """Return the progress as plain JSON values."""
        return asdict(self) | {"ladder": plain(self.ladder), "test": plain(self.test)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the progress from the dict that `to_dict` made in any version."""
        results = {
            "ladder": [LengthResult.from_dict(result) for result in data["ladder"]],
            "test": [LengthResult.from_dict(result) for result in data.get("test", [])],
        }
        report = Report(**known_fields(Report, data["report"]))
        return cls(**known_fields(cls, data) | results | {"report": report})


def plain(results: Sequence[LengthResult]) -> list[dict[str, Any]]:
    """Return length results as plain JSON values."""
    return [asdict(result) for result in results]


class TrialRun:
    """A run of one trial; iterate over it to run the trial and get its progress.

    `history` collects the progress. You can save the run between two reports and at a pause, and
    continue it with `resume`, also in another process. Apart from times, the results are then those
    of an uninterrupted run (see `Training`).
    """

    def __init__(self, spec: TrialSpec, device: torch.device | str = "cpu"):
        self._begin(spec, Training(spec.run, device), SavedTrial())

    @classmethod
    def resume(cls, spec: TrialSpec, directory: Path, device: torch.device | str = "cpu") -> Self:
        """Return the run that `save` stored in `directory`.

        Raises CheckpointError if a file is missing, damaged, of a format that this version cannot
        read, or from another trial.
        """
        saved = load(directory, spec)
        training = Training.resume(directory, device, spec.run)
        if max(saved.steps, default=0) > training.step:
            raise CheckpointError(f"{directory / FILE} is of another step: use another checkpoint")
        run = cls.__new__(cls)
        run._begin(spec, training, saved)
        return run

    def _begin(self, spec: TrialSpec, training: Training, saved: SavedTrial) -> None:
        self.spec, self.training, self.history = spec, training, saved.history
        self.report, self.results, self.begun = saved.report, saved.results, saved.begun
        self._earlier_seconds, self._earlier_memory = saved.seconds, saved.memory
        self._started_at = time.perf_counter()
        self.cost = cost_of(training.model, training.task)
        forget_peak(training.model.device)

    def save(self, directory: Path, others: Mapping[str, bytes] | None = None) -> None:
        """Write all that `resume` needs into `directory`.

        others: The content of additional files of the checkpoint, by name.
        """
        saved = SavedTrial(
            history=self.history,
            report=self.report,
            results=self.results,
            begun=self.begun,
            seconds=self.seconds,
            memory=self._memory(),
        )
        content = {"format": FORMAT, "assignment": self.spec.to_dict()} | saved.to_dict()
        file = (json.dumps(content) + "\n").encode()
        self.training.save(directory, {**(others or {}), FILE: file})

    def __iter__(self) -> Iterator[Progress]:
        """Run the trial and yield its progress at every report.

        A trial that had already ended yields its last progress. Raises DivergedError if training
        diverges, and LimitError if the trial exceeds a limit.
        """
        return (progress for progress in self.stretches() if progress is not None)

    def stretches(self, should_pause: Callable[[], bool] = never) -> Iterator[Progress | None]:
        """Run the trial and yield its progress, and None at each pause.

        `should_pause` is called between two updates and between two batches of an evaluation. The
        trial pauses if it returns True. Raises the same errors as iterating over the trial.
        """
        if self._ended:
            yield self.history[-1]
        reports = self.training.reports(should_pause)
        while not self._ended:
            if self.report is None:
                self.report = next(reports)
            if self.report is None or not self._measure(should_pause):
                yield None
                continue
            self.history.append(self._progress(self.report))
            self.report, self.results = None, []
            self._check_limits(self.history[-1])
            yield self.history[-1]

    def _measure(self, should_pause: Callable[[], bool]) -> bool:
        """Measure the planned lengths. Return False at a pause, True once all are measured."""
        while len(self.results) < len(planned := self._planned()):
            stream, length = planned[len(self.results)]
            with self._evaluation_k_top():
                result = measure_on(
                    self.training.model,
                    self.training.task,
                    length,
                    sequences=self.spec.ladder.sequences,
                    seed=self.spec.evaluation_seed,
                    stream=stream,
                    phases=self.spec.ladder.phase_count,
                    begun=self.begun,
                    should_pause=should_pause,
                )
            if isinstance(result, Begun):
                self.begun = result
                return False
            self.begun = Begun()
            self.results.append(result)
            if len(self.results) < len(self._planned()) and should_pause():
                return False
        return True

    @contextmanager
    def _evaluation_k_top(self) -> Iterator[None]:
        """Set the k_top for evaluation within the context, and restore the current one after it."""
        if self.spec.ladder.k_top != "scheduled":
            self.training.model.set_progress(1.0)
        try:
            yield
        finally:
            self.training.model.set_progress(self.training.progress)

    def _planned(self) -> list[tuple[Stream, int]]:
        """Return the stream and length of each measurement of this report.

        A report measures the selection lengths. Once all updates are done or the trial is solved,
        it also measures the other lengths on selection sequences, and every length on test
        sequences.
        """
        ladder = self.spec.ladder
        short = [(Stream.SELECTION, length) for length in ladder.select]
        if len(self.results) < len(short) or not (self.training.progress >= 1 or self._is_solved()):
            return short
        long = [length for length in ladder.lengths if length not in ladder.select]
        test = self.spec.test_stream
        return [
            *short,
            *((Stream.SELECTION, length) for length in long),
            *((test, length) for length in ladder.lengths),
        ]

    def _is_solved(self) -> bool:
        """Return whether the trial is solved and can end before all updates are done.

        It is solved if the last `solved_reports` reports, including this one, solved every
        selection length, and every schedule has reached its end.
        """
        count = self.spec.ladder.solved_reports
        if count is None or not self.training.model.settled:
            return False
        short = self.results[: len(self.spec.ladder.select)]  # test results must not decide
        reports = [short, *(progress.ladder for progress in reversed(self.history))][:count]
        return len(reports) == count and all(map(self._solves, reports))

    def _solves(self, results: Sequence[LengthResult]) -> bool:
        return solves(results, self.spec.ladder.select, self.training.task)

    def _progress(self, report: Report) -> Progress:
        ladder, planned = self.spec.ladder, self._planned()
        selection_count = sum(stream == Stream.SELECTION for stream, _ in planned)
        select = self.results[: len(ladder.select)]
        return Progress(
            report=report,
            ladder=sorted(self.results[:selection_count], key=lambda result: result.length),
            test=self.results[selection_count:],
            score=selection_score(select, self.training.task),
            seconds=self.seconds,
            memory=self._memory(),
            finished=len(planned) > len(select),
            solved=ladder.solved_reports is not None and self._solves(select),
            parameters=self.cost.parameters,
            multiply_adds=self.cost.multiply_adds,
        )

    @property
    def _ended(self) -> bool:
        return bool(self.history) and self.history[-1].finished

    @property
    def seconds(self) -> float:
        """The duration of the trial so far, in seconds, over all attempts."""
        return self._earlier_seconds + time.perf_counter() - self._started_at

    def _memory(self) -> float:
        return max(self._earlier_memory, peak(self.training.model.device))

    def _check_limits(self, progress: Progress) -> None:
        limits = self.spec.limits
        hours, memory = progress.seconds / 3600, progress.memory / 1024
        at = counted(progress.report.step, "update")
        if limits.memory is not None and memory > limits.memory:
            raise LimitError(
                f"{memory:.3g} GiB at {at} is past the trial's limit of "
                f"{limits.memory:g} GiB: raise limits.memory in the STUDY, or lower batch_size"
            )
        if limits.hours is not None and hours > limits.hours:
            raise LimitError(
                f"{hours:.3g} h at {at} is past the trial's limit of "
                f"{limits.hours:g} h: raise limits.hours in the STUDY, or lower updates"
            )


@dataclass(frozen=True, kw_only=True)
class SavedTrial:
    """The content of trial.json, except for the spec."""

    history: list[Progress] = field(default_factory=list)
    report: Report | None = None  # the report whose lengths are being measured
    results: list[LengthResult] = field(default_factory=list)  # of that report so far
    begun: Begun = field(default_factory=Begun)  # the partial measurement of the next length
    seconds: float = 0.0  # duration of the trial, over all attempts
    memory: float = 0.0  # MiB, peak

    @property
    def steps(self) -> list[int]:
        """The steps of all reports, including the one that is being measured."""
        reports = [progress.report for progress in self.history]
        return [report.step for report in (*reports, self.report) if report is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return the content as plain JSON values."""
        return {
            "history": [progress.to_dict() for progress in self.history],
            "report": asdict(self.report) if self.report else None,
            "rungs": plain(self.results),
            "begun": asdict(self.begun),
            "seconds": self.seconds,
            "memory": self.memory,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the content from the dict that `to_dict` made in any version."""
        history = [Progress.from_dict(progress) for progress in data["history"]]
        report = data.get("report")
        return cls(
            history=history,
            report=Report(**known_fields(Report, report)) if report else None,
            results=[LengthResult.from_dict(result) for result in data.get("rungs", [])],
            begun=Begun.from_dict(data["begun"]) if "begun" in data else Begun(),
            seconds=data.get("seconds", history[-1].seconds if history else 0.0),
            memory=data.get("memory", history[-1].memory if history else 0.0),
        )


def load(directory: Path, spec: TrialSpec | None = None) -> SavedTrial:
    """Return the content of trial.json in `directory`.

    Raises CheckpointError if the file is missing or damaged, if its format is newer than this
    version, or if its spec differs from `spec` in anything but the limits.
    """
    path, data = directory / FILE, manifest.read(directory, (FILE,)).files[FILE]
    content = manifest.json_object(directory, FILE, data)
    with manifest.parsing(path):
        number = content.get("format", 1)
        if number > FORMAT:
            raise CheckpointError(
                f"{path} has format {str(number)[:20]}, and this version reads up to {FORMAT}: "
                "use the version of sabtune that wrote it, or a newer one"
            )
        saved = SavedTrial.from_dict(content)
        saved_spec = TrialSpec.from_dict(content["assignment"])
    if spec is not None and replace(saved_spec, limits=spec.limits) != spec:
        raise CheckpointError(f"{path} belongs to another trial: use a checkpoint of this one")
    return saved


def load_history(directory: Path, spec: TrialSpec | None = None) -> list[Progress]:
    """Return the progress of a trial up to the checkpoint. Raises what `load` raises."""
    return load(directory, spec).history
