"""One trial as Ray Tune runs it: trains until a report, climbs the short rungs, and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from sabtune.config import RunConfig
from sabtune.evaluation import Ladder, Rung, climb, selection_score
from sabtune.schema import from_dict, to_dict
from sabtune.search.record import plain
from sabtune.seeding import Stream
from sabtune.training import Report, Training


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker is given: all of it plain values under Tune's `config`."""

    number: int
    run: RunConfig
    ladder: Ladder
    evaluation_seed: int  # of the sequences that the ladder is measured on, the study's own
    threads: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "run": self.run.to_dict(),
            "ladder": to_dict(self.ladder, {}),
            "evaluation_seed": self.evaluation_seed,
            "threads": self.threads,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Assignment:
        return cls(
            number=data["number"],
            run=RunConfig.from_dict(data["run"]),
            ladder=from_dict(Ladder, data["ladder"], {}),
            evaluation_seed=data["evaluation_seed"],
            threads=data["threads"],
        )


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a worker tells the driver after each stretch of training.

    `failed` is why the trial can't go on; then there is no report.
    """

    report: Report | None
    ladder: Sequence[Rung] = ()  # on the selection sequences
    test: Sequence[Rung] = ()  # on the test sequences, once training is done
    score: float = 0.0
    finished: bool = False  # trained to its end, not stopped by a scheduler
    failed: str = ""

    def to_result(self) -> dict[str, Any]:
        """As Tune's result: `score` and `step` are what its scheduler compares."""
        return {
            "step": self.report.step if self.report else 0,
            "score": self.score,
            "done": self.finished or bool(self.failed),
            "finished": self.finished,
            "failed": self.failed,
            "report": asdict(self.report) if self.report else None,
            "ladder": plain(self.ladder),
            "test": plain(self.test),
        }

    @classmethod
    def from_result(cls, result: dict[str, Any]) -> Progress:
        report = result["report"]
        return cls(
            report=Report(**report) if report else None,
            ladder=[Rung(**rung) for rung in result["ladder"]],
            test=[Rung(**rung) for rung in result["test"]],
            score=result["score"],
            finished=result["finished"],
            failed=result["failed"],
        )


class Trial(tune.Trainable):
    """A worker process runs one trial after another: all state is made anew in `reset_config`."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.assignment = Assignment.from_dict(new_config)
        torch.set_num_threads(self.assignment.threads)
        self._train(Training(self.assignment.run, device()))
        return True

    def _train(self, training: Training) -> None:
        self.training = training
        self.reports = iter(training)

    def step(self) -> dict[str, Any]:
        try:
            return self._advance().to_result()
        except Exception as problem:  # the trial's own fault: Tune would only try it again
            return Progress(report=None, failed=f"{type(problem).__name__}: {problem}").to_result()

    def _advance(self) -> Progress:
        report = next(self.reports)
        finished = self.training.progress >= 1
        ladder = self.assignment.ladder
        rungs = self._climb(ladder.lengths if finished else ladder.select, Stream.SELECTION)
        return Progress(
            report=report,
            ladder=rungs,
            test=self._climb(ladder.lengths, Stream.TEST) if finished else (),
            score=selection_score(
                [rung for rung in rungs if rung.length in ladder.select], self.training.task.chance
            ),
            finished=finished,
        )

    def _climb(self, lengths: Sequence[int], stream: Stream) -> list[Rung]:
        return climb(
            self.training.model,
            self.training.task,
            lengths,
            sequences=self.assignment.ladder.sequences,
            seed=self.assignment.evaluation_seed,
            stream=stream,
        )

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self.training.save(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: dict[str, Any] | str | None) -> None:
        assert isinstance(checkpoint, str)
        self._train(Training.resume(Path(checkpoint), device()))


def device() -> torch.device:
    """The GPU that Ray gave this worker, if it gave one."""
    return torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")
