"""One trial: trains until a report, climbs the short rungs, and again. Knows no Ray, no MLflow.

The worker of a search, `sabtune reproduce` and the probe of a dry run all run trials by this. A
trial's directory holds, beside the checkpoint of its training,

trial.json    the Assignment, what was reported so far, and what was measured of the next report
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch

from sabtune import checkpoint, manifest
from sabtune.config import RunConfig
from sabtune.errors import CheckpointError, LimitError
from sabtune.evaluation import (
    Begun,
    Ladder,
    Rung,
    measure_on,
    never,
    read_ladder,
    selection_score,
    solves,
)
from sabtune.peak import forget_peak, peak
from sabtune.schema import Config, check, from_dict, known_fields, to_dict
from sabtune.seeding import Stream
from sabtune.training import Report, Training
from sabtune.wording import counted

FILE = "trial.json"

FORMAT = 2
"""Of trial.json; a file without a number has format 1. Only a change that older versions can't read
needs a new number: keys that a version doesn't know are passed over."""

FILES = (*checkpoint.FILES, FILE)
"""What `TrialRun.resume` reads."""


@dataclass(frozen=True, kw_only=True)
class Limits(Config):
    """What one trial may take; past it, it fails. None: no limit.

    hours: of training and measuring, over all its attempts. memory: GiB, the most that its process
    (on a GPU: its tensors there) held.
    """

    hours: float | None = None
    memory: float | None = None

    def __post_init__(self) -> None:
        for name in ("hours", "memory"):
            value = getattr(self, name)
            check(value is None or value > 0, name, value, "a number above 0, or None")


@dataclass(frozen=True, kw_only=True)
class Assignment(Config):
    """All that decides what a trial does; the same assignment gives the same trial again.

    configuration: the number of the first trial of the same configuration; its own, unless this
    trial is that one under another seed. confirms: it is a contest's, and its test is made on what
    no search sees.
    """

    number: int
    configuration: int
    run: RunConfig
    ladder: Ladder
    evaluation_seed: int  # of the sequences that the ladder is measured on
    threads: int
    limits: Limits = field(default_factory=Limits)
    confirms: bool = False

    @property
    def test_stream(self) -> Stream:
        """Of the sequences that its test is made on."""
        return Stream.CONFIRMATION if self.confirms else Stream.TEST

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "number": self.number,
            "configuration": self.configuration,
            "run": self.run.to_dict(),
            "ladder": to_dict(self.ladder, {}),
            "evaluation_seed": self.evaluation_seed,
            "threads": self.threads,
            "limits": to_dict(self.limits, {}),
            "confirms": self.confirms,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """What `to_dict` wrote. Raises ConfigError if a key is unknown or missing."""
        return cls(
            number=data["number"],
            configuration=data["configuration"],
            run=RunConfig.from_dict(data["run"]),
            ladder=read_ladder(data["ladder"]),
            evaluation_seed=data["evaluation_seed"],
            threads=data["threads"],
            limits=from_dict(Limits, data["limits"], {}),
            confirms=data.get("confirms", False),  # older ones don't say
        )


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What came of one stretch of training, up to a report."""

    report: Report
    ladder: Sequence[Rung]  # on the selection sequences: the short rungs; at the end, all
    test: Sequence[Rung] = ()  # on the test sequences, once training is done
    score: float  # what the search maximises: the selection score over the short rungs
    seconds: float  # that the trial took so far, over all its attempts
    memory: float  # MiB, the most that was held so far
    finished: bool = False  # trained to its end
    solved: bool = False  # the short rungs; only where a trial ends once they are for long enough

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"ladder": plain(self.ladder), "test": plain(self.test)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """What `to_dict` wrote."""
        rungs = {name: [Rung.from_dict(rung) for rung in data[name]] for name in ("ladder", "test")}
        report = Report(**known_fields(Report, data["report"]))
        return cls(**known_fields(cls, data) | rungs | {"report": report})


def plain(rungs: Sequence[Rung]) -> list[dict[str, Any]]:
    """Rungs as plain JSON values."""
    return [asdict(rung) for rung in rungs]


class TrialRun:
    """Runs one assignment; iterate it for progress, which `history` keeps.

    Between two of them, and where it pauses on the way to one, it can be saved and taken up again,
    in another process too: what follows is then, numbers that a clock gives apart, that of an
    unbroken run (see `Training`).
    """

    def __init__(self, assignment: Assignment, device: torch.device | str = "cpu"):
        self._begin(assignment, Training(assignment.run, device), Kept())

    @classmethod
    def resume(
        cls, assignment: Assignment, directory: Path, device: torch.device | str = "cpu"
    ) -> Self:
        """The trial that `save` wrote. Raises CheckpointError if its files are damaged, or another
        trial's."""
        kept = load(directory, assignment)
        training = Training.resume(directory, device, assignment.run)
        if max(kept.steps, default=0) > training.step:
            raise CheckpointError(f"{directory / FILE} is of another step: use another checkpoint")
        run = cls.__new__(cls)
        run._begin(assignment, training, kept)
        return run

    def _begin(self, assignment: Assignment, training: Training, kept: Kept) -> None:
        self.assignment, self.training, self.history = assignment, training, kept.history
        self.report, self.rungs, self.begun = kept.report, kept.rungs, kept.begun
        self._before, self._least = kept.seconds, kept.memory
        self._begun = time.perf_counter()
        forget_peak(training.model.device)

    def save(self, directory: Path, others: Mapping[str, bytes] | None = None) -> None:
        """Writes all that `resume` needs, and other files, by name, that go with it."""
        kept = Kept(
            history=self.history,
            report=self.report,
            rungs=self.rungs,
            begun=self.begun,
            seconds=self.seconds,
            memory=self._memory(),
        )
        content = {"format": FORMAT, "assignment": self.assignment.to_dict()} | kept.to_dict()
        own = (json.dumps(content) + "\n").encode()
        self.training.save(directory, {**(others or {}), FILE: own})

    def __iter__(self) -> Iterator[Progress]:
        """Progress until the training's end; at least one, also if it had ended before.

        Raises DivergedError where training can't go on, LimitError past one of the limits.
        """
        return (progress for progress in self.stretches() if progress is not None)

    def stretches(self, pressed: Callable[[], bool] = never) -> Iterator[Progress | None]:
        """The same, and None wherever `pressed` says on the way that it's time to pause: it is
        asked after every update, and between two batches that are measured."""
        if self._ended:
            yield self.history[-1]
        reports = self.training.reports(pressed)
        while not self._ended:
            if self.report is None:
                self.report = next(reports)
            if self.report is None or not self._measured(pressed):
                yield None
                continue
            self.history.append(self._progress(self.report))
            self.report, self.rungs = None, []
            self._check_limits(self.history[-1])
            yield self.history[-1]

    def _measured(self, pressed: Callable[[], bool]) -> bool:
        """Measures rung after rung; whether all are, or else it's time to pause."""
        while len(self.rungs) < len(todo := self._todo()):
            stream, length = todo[len(self.rungs)]
            with self._at_measured_k_top():
                found = measure_on(
                    self.training.model,
                    self.training.task,
                    length,
                    sequences=self.assignment.ladder.sequences,
                    seed=self.assignment.evaluation_seed,
                    stream=stream,
                    phases=self.assignment.ladder.phases or 1,
                    begun=self.begun,
                    pressed=pressed,
                )
            if isinstance(found, Begun):
                self.begun = found
                return False
            self.begun = Begun()
            self.rungs.append(found)
            if len(self.rungs) < len(self._todo()) and pressed():
                return False
        return True

    @contextmanager
    def _at_measured_k_top(self) -> Iterator[None]:
        """Give the model the k_top that its ladder is measured with, and then back its own."""
        if self.assignment.ladder.k_top != "scheduled":
            self.training.model.set_progress(1.0)
        try:
            yield
        finally:
            self.training.model.set_progress(self.training.progress)

    def _todo(self) -> list[tuple[Stream, int]]:
        """What a report is to measure: the short rungs; at the end all, and those of the test."""
        ladder = self.assignment.ladder
        short = [(Stream.SELECTION, length) for length in ladder.select]
        if len(self.rungs) < len(short) or not (self.training.progress >= 1 or self._enough()):
            return short
        long = [length for length in ladder.lengths if length not in ladder.select]
        last = self.assignment.test_stream
        return [
            *short,
            *((Stream.SELECTION, length) for length in long),
            *((last, length) for length in ladder.lengths),
        ]

    def _enough(self) -> bool:
        """Whether so many reports in a row, this one the last, solved every short rung that it's
        time to end; not before everything scheduled is."""
        wanted = self.assignment.ladder.solved_reports
        if wanted is None or not self.training.model.settled:
            return False
        short = self.rungs[: len(self.assignment.ladder.select)]  # tests have no say in it
        reports = [short, *(progress.ladder for progress in reversed(self.history))][:wanted]
        return len(reports) == wanted and all(map(self._solves, reports))

    def _solves(self, rungs: Sequence[Rung]) -> bool:
        return solves(rungs, self.assignment.ladder.select, self.training.task)

    def _progress(self, report: Report) -> Progress:
        ladder, todo = self.assignment.ladder, self._todo()
        of_selection = sum(stream == Stream.SELECTION for stream, _ in todo)
        select = self.rungs[: len(ladder.select)]
        return Progress(
            report=report,
            ladder=sorted(self.rungs[:of_selection], key=lambda rung: rung.length),
            test=self.rungs[of_selection:],
            score=selection_score(select, self.training.task),
            seconds=self.seconds,
            memory=self._memory(),
            finished=len(todo) > len(select),
            solved=ladder.solved_reports is not None and self._solves(select),
        )

    @property
    def _ended(self) -> bool:
        return bool(self.history) and self.history[-1].finished

    @property
    def seconds(self) -> float:
        """That the trial took so far, over all its attempts."""
        return self._before + time.perf_counter() - self._begun

    def _memory(self) -> float:
        return max(self._least, peak(self.training.model.device))

    def _check_limits(self, progress: Progress) -> None:
        limits = self.assignment.limits
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
class Kept:
    """What a trial's own file holds of it, beside its assignment."""

    history: list[Progress] = field(default_factory=list)
    report: Report | None = None  # of the training up to here, while its rungs are measured
    rungs: list[Rung] = field(default_factory=list)  # that were
    begun: Begun = field(default_factory=Begun)  # of the next one
    seconds: float = 0.0  # that the trial took, over all its attempts
    memory: float = 0.0  # MiB, the most that was held

    @property
    def steps(self) -> list[int]:
        """Of the reports, and of the one whose rungs are measured."""
        reports = [progress.report for progress in self.history]
        return [of.step for of in (*reports, self.report) if of is not None]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "history": [progress.to_dict() for progress in self.history],
            "report": asdict(self.report) if self.report else None,
            "rungs": plain(self.rungs),
            "begun": asdict(self.begun),
            "seconds": self.seconds,
            "memory": self.memory,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """What `to_dict` wrote; older ones hold the history alone."""
        history = [Progress.from_dict(progress) for progress in data["history"]]
        report = data.get("report")
        return cls(
            history=history,
            report=Report(**known_fields(Report, report)) if report else None,
            rungs=[Rung.from_dict(rung) for rung in data.get("rungs", [])],
            begun=Begun.from_dict(data["begun"]) if "begun" in data else Begun(),
            seconds=data.get("seconds", history[-1].seconds if history else 0.0),
            memory=data.get("memory", history[-1].memory if history else 0.0),
        )


def load(directory: Path, assignment: Assignment | None = None) -> Kept:
    """What a trial's own file in `directory` holds.

    Raises CheckpointError if it is damaged, or if it belongs to another assignment than this one;
    limits may differ.
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
        kept = Kept.from_dict(content)
        said = Assignment.from_dict(content["assignment"])
    if assignment is not None and replace(said, limits=assignment.limits) != assignment:
        raise CheckpointError(f"{path} is another trial's: use a checkpoint of this one")
    return kept


def load_history(directory: Path, assignment: Assignment | None = None) -> list[Progress]:
    """What a trial had reported when it wrote `directory`. Raises what `load` does."""
    return load(directory, assignment).history
