"""Measure the cost of measuring every phase of a length, compared with that length alone.

    python benchmarks/phases.py

The script uses the selection lengths of `search_spaces/copying_quick.py` (k_att up to 5) and
`search_spaces/copying.py` (k_att up to 10), on one thread. A measurement of every phase and one of
the length alone take turns. The script prints the median time of each, and the median, minimum and
maximum ratio of consecutive measurements.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from sabtune.models import LSTM, SAB, Model
from sabtune.seeding import Stream, generator
from sabtune.study.loading import load
from sabtune.training.evaluation import measure

SPACES = Path(__file__).parent.parent / "search_spaces"
TIMES = 31

STUDIES = {name: load(SPACES / f"{name}.py").study for name in ("copying_quick", "copying")}
TASKS = {name: study.task.build() for name, study in STUDIES.items()}


def seconds(model: Model, file: str, phases: int) -> float:
    """Return the seconds that measuring all selection lengths once takes."""
    study = STUDIES[file]
    began = time.perf_counter()
    for length in study.ladder.select:
        measure(
            model,
            TASKS[file],
            length,
            sequences=study.ladder.sequences,
            seed=0,
            stream=Stream.SELECTION,
            phases=phases,
        )
    return time.perf_counter() - began


def main() -> None:
    torch.set_num_threads(1)
    for name, study in STUDIES.items():
        task, phases = TASKS[name], study.ladder.phase_count
        for config in (
            SAB.Config(hidden=64, k_top=5, k_att=1),
            SAB.Config(hidden=64, k_top=5, k_att=5),
            LSTM.Config(hidden=64),
        ):
            model = config.build(
                task.inputs,
                task.outputs,
                steps=task.steps(task.length),
                generator=generator(0, Stream.INITIALIZATION),
            )
            seconds(model, name, phases), seconds(model, name, 1)
            pairs = [(seconds(model, name, phases), seconds(model, name, 1)) for _ in range(TIMES)]
            every, alone = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratios = [a / b for a, b in pairs]
            print(
                f"{name}, {config.label()}: one phase {alone * 1e3:.0f} ms, "
                f"{phases} phases {every * 1e3:.0f} ms, "
                f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )


if __name__ == "__main__":
    main()
