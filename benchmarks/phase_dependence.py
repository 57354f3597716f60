"""Measure how accuracy depends on the remainder of the length modulo k_att and modulo k_trunc.

    python benchmarks/phase_dependence.py [--workers 2]

Trains these models, with three seeds each:

- copying 5 symbols, at length 20 only and at lengths from 5 to 20, for each k_att from 1 to 5
- the same task with k_att 1 and another k_trunc
- the other tasks whose length is free

It also trains the best configuration of docs/results.md at length 100 only, with the five seeds
used there. Each model is tested at ten consecutive lengths from each of several starting lengths,
so every remainder occurs at least twice. The rows are written to docs/results/phases.csv, the
figure to docs/results/phases.png and the tables to the terminal. Models whose rows are in the CSV
are not trained again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from measured import Row, measure_missing, rows

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.seeding import Stream
from sabtune.study.loading import load
from sabtune.study.trial_specs import FRESH_SEED
from sabtune.tasks import Adding, Copying, Pixels, Recall, TaskConfig
from sabtune.training.evaluation import mean_by_phase, measure
from sabtune.training.loop import Training

RESULTS = Path(__file__).parent.parent / "docs" / "results"
SEEDS = range(3)
CONSECUTIVE = 10
SEQUENCES = 64 * CONSECUTIVE
K_ATTS = (1, 2, 3, 4, 5)
CONTROL = 5
"""The period used for models that have no period of their own, for comparison."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A task, its configuration, and the first length of each group of ten consecutive lengths."""

    task: TaskConfig
    trial: TrialConfig
    lengths: tuple[int, ...]


def setting(task: TaskConfig, k_top: int, lengths: tuple[int, ...], **train: Any) -> Setting:
    """Return a setting with 64 hidden units and k_top from the start."""
    trial = TrialConfig(
        model=SAB.Config(hidden=64, k_top=k_top),
        train=TrainConfig(**train, report_every=train["updates"]),
    )
    return Setting(task=task, trial=trial, lengths=lengths)


def published() -> Setting:
    """Return the best configuration of docs/results.md."""
    file = load(Path(__file__).parent.parent / "search_spaces" / "found.py")
    return Setting(task=file.study.task, trial=file.try_space(), lengths=file.study.ladder.lengths)


SETTINGS = {
    "copying": setting(
        Copying.Config(length=20, symbols=5),
        4,
        (20, 40, 100, 200),
        updates=8000,
        batch_size=32,
        learning_rate=3e-3,
    ),
    "copying 100": published(),
    "recall": setting(
        Recall.Config(length=10, pairs=2, keys=8, values=4),
        4,
        (10, 20, 40, 80),
        updates=5000,
        batch_size=64,
        learning_rate=8e-3,
        decay=0.5,
    ),
    "adding": setting(
        Adding.Config(length=50),
        6,
        (50, 75, 100, 200),
        updates=3000,
        batch_size=32,
        learning_rate=3e-3,
        decay=0.5,
    ),
    "digits": setting(
        Pixels.Config(images="digits", length=64, permutation=0),
        5,
        (64, 80, 128),
        updates=1500,
        batch_size=32,
        learning_rate=5e-3,
        decay=0.5,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """The training of one model.

    shortest: the shortest training length; None trains at the length of the task only.
    """

    task: str
    k_att: int
    k_trunc: int
    shortest: int | None
    seed: int

    @property
    def key(self) -> dict[str, str]:
        """Return the columns that identify the job."""
        return {
            "task": self.task,
            "k_att": str(self.k_att),
            "k_trunc": str(self.k_trunc),
            "shortest": str(self.shortest or SETTINGS[self.task].task.length),
            "seed": str(self.seed),
        }


def jobs() -> Iterator[Job]:
    """Yield all jobs, those of the figure first."""
    for seed in SEEDS:
        for k_att in K_ATTS:
            for shortest in (None, 5):
                yield Job(task="copying", k_att=k_att, k_trunc=5, shortest=shortest, seed=seed)
    for seed in SEEDS:
        yield Job(task="copying", k_att=1, k_trunc=3, shortest=None, seed=seed)
    for seed in range(5):
        fresh = FRESH_SEED + seed  # the seeds that `ablate` uses
        yield Job(task="copying 100", k_att=3, k_trunc=10, shortest=None, seed=fresh)
    for seed in SEEDS:
        for task, k_trunc in (("recall", 5), ("adding", 10), ("digits", 32)):
            for k_att in (1, 4):
                yield Job(task=task, k_att=k_att, k_trunc=k_trunc, shortest=None, seed=seed)


def trained(job: Job) -> list[Row]:
    """Train one model and measure it at every length."""
    torch.set_num_threads(1)
    setting = SETTINGS[job.task]
    assert isinstance(setting.trial.model, SAB.Config)
    trial = TrialConfig(
        model=replace(setting.trial.model, k_att=job.k_att, k_trunc=job.k_trunc),
        train=replace(setting.trial.train, shortest=job.shortest),
    )
    training = Training(RunConfig.of(task=setting.task, trial=trial, seed=job.seed))
    list(training)
    return [
        {"length": length + offset, "accuracy": accuracy}
        for length in setting.lengths
        for offset, accuracy in enumerate(
            measure(
                training.model.eval(),
                training.task,
                length,
                sequences=SEQUENCES,
                seed=0,
                stream=Stream.TEST,
                phases=CONSECUTIVE,
            ).by_phase
        )
    ]


class Models:
    """The accuracy of each model of a CSV, by length."""

    def __init__(self, path: Path):
        self.accuracies: dict[tuple[str, int, int, int], dict[int, dict[int, float]]] = {}
        for row in rows(path):
            kind = row["task"], int(row["k_att"]), int(row["k_trunc"]), int(row["shortest"])
            seeds = self.accuracies.setdefault(kind, {})
            seeds.setdefault(int(row["seed"]), {})[int(row["length"])] = float(row["accuracy"])

    def by_phase(
        self, kind: tuple[str, int, int, int], seed: int, first: int, period: int
    ) -> list[float]:
        """Return the mean accuracy at each remainder of the length modulo `period`.

        The remainder of the training length comes first. The mean is taken over the ten lengths
        from `first`.
        """
        of_length = self.accuracies[kind][seed]
        accuracies = [of_length[length] for length in range(first, first + CONSECUTIVE)]
        return mean_by_phase(SETTINGS[kind[0]].task.build(), first, accuracies, period)


def table(models: Models) -> Iterator[str]:
    """Yield the lines of a Markdown table of the accuracies in %, by model and seed.

    Each cell has, for each seed, the accuracy in phase with the training length, the mean over the
    phases and the accuracy in the worst phase.
    """
    yield "| task | k_att | k_trunc | trained at | tested from | seeds: in phase / mean / worst |"
    yield "|---|---|---|---|---|---|"
    for kind, seeds in models.accuracies.items():
        task, k_att, k_trunc, shortest = kind
        setting = SETTINGS[task]
        length = setting.task.length
        period = k_att if k_att > 1 else k_trunc if task == "copying" else CONTROL
        at = f"{shortest} to {length}" if shortest < length else str(length)
        for first in setting.lengths:
            cells = []
            for seed in sorted(seeds):
                phases = [100 * a for a in models.by_phase(kind, seed, first, period)]
                cells.append(f"{phases[0]:.1f} / {statistics.mean(phases):.1f} / {min(phases):.1f}")
            yield f"| {task} | {k_att} | {k_trunc} | {at} | {first} | {', '.join(cells)} |"


def draw(models: Models, path: Path, first: int = 20) -> None:
    """Draw accuracy against the remainder of the length modulo k_att, one panel per k_att.

    `first` is the first of ten lengths near the training length. At longer lengths, most models
    that were trained at one length are no longer accurate at any remainder.
    """
    figure, axes = plt.subplots(
        2, len(K_ATTS), figsize=(11, 4.6), sharey=True, layout="constrained", squeeze=False
    )
    for row, (shortest, words) in enumerate(((20, "length 20"), (5, "lengths 5 to 20"))):
        for column, k_att in enumerate(K_ATTS):
            axis = axes[row][column]
            kind = "copying", k_att, 5, shortest
            for seed in sorted(models.accuracies[kind]):
                phases = models.by_phase(kind, seed, first, k_att)
                axis.plot(range(k_att), [100 * a for a in phases], marker="o", label=f"seed {seed}")
            axis.set(ylim=(0, 103), xticks=range(k_att), xlim=(-0.4, max(K_ATTS) - 0.6))
            axis.grid(axis="y", alpha=0.3)
            axis.set_title(f"k_att {k_att}, {words}", fontsize=9)
        axes[row][0].set_ylabel("accuracy (%)")
    for axis in axes[1]:
        axis.set_xlabel("steps mod k_att")
    axes[0][0].legend(fontsize=8)
    figure.suptitle(
        f"Copying, tested at {first} to {first + CONSECUTIVE - 1}: remainder 0 is that of the "
        "training length"
    )
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--csv", type=Path, default=RESULTS / "phases.csv")
    parser.add_argument("--figure", type=Path, default=RESULTS / "phases.png")
    options = parser.parse_args()
    measure_missing(options.csv, list(jobs()), trained, workers=options.workers)
    models = Models(options.csv)
    draw(models, options.figure)
    print("\n".join(table(models)))


if __name__ == "__main__":
    main()
