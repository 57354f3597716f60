"""Run the quick study several times, and print the ranges of its times and results.

    python benchmarks/quick_study.py [--runs 5]

Each run is what `make search` runs, in a folder of its own: `sabtune search
search_spaces/copying_quick.py`, then `sabtune report copying_quick --out report`. The runs have the
same seed; they differ because trials that run at the same time end in another order. A dry run
before the first one compiles the kernels, as in a warm installation. The times are wall times, from
the start of the search to its end and to the figures of the report: run this on a quiet machine,
and nothing beside it.

The rows are written to docs/results/quick_study.csv, one for each run; runs whose rows are there
are not repeated. A trial is solved if the accuracy is 99 % or more at every length, on the test
sequences and as the mean over the phases.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from measured import Row, append, rows
from optuna.trial import TrialState

from sabtune.storage.store import Store
from sabtune.study.loading import load
from sabtune.study.record import StudyRecord
from sabtune.training.evaluation import SOLVED, solve_length

ROOT = Path(__file__).parent.parent
STUDY_FILE = ROOT / "search_spaces" / "copying_quick.py"
CSV = ROOT / "docs" / "results" / "quick_study.csv"

Shown = Callable[[float], str]


def seconds(value: float) -> str:
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02} s"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def whole(value: float) -> str:
    return f"{value:.0f}"


RANGES: dict[str, tuple[str, Shown]] = {
    "search_seconds": ("time of the search", seconds),
    "picture_seconds": ("time to the figures", seconds),
    "complete": ("complete trials", whole),
    "solved": ("trials that solve every length", whole),
    "best_score": ("best score in the search", lambda value: f"{value:.3f}"),
    "best_accuracy": ("accuracy of the best trial at the longest length", percent),
    "most_accurate": ("accuracy of the most accurate trial there", percent),
    "load": ("load before the run", lambda value: f"{value:.1f}"),
}
"""The label and the format of each column whose range is printed."""


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--runs", type=int, default=5, help="How many runs the CSV shall have.")
    arguments.add_argument("--study", type=Path, default=STUDY_FILE, help="Another study file.")
    arguments.add_argument("--csv", type=Path, default=CSV, help="Another file for the rows.")
    options = arguments.parse_args()
    compiled = False
    for number in range(len(rows(options.csv)), options.runs):
        with tempfile.TemporaryDirectory(prefix="quick-study-") as folder:
            if not compiled:
                sabtune(Path(folder), "search", str(options.study), "--dry-run")
                compiled = True
            measured = {"run": number, **run(options.study, Path(folder))}
        append(options.csv, [measured])
        print(measured, flush=True)
    print("\n".join(ranges(rows(options.csv))))
    print(sentences(rows(options.csv)))


def run(study_file: Path, folder: Path) -> Row:
    """Search the study and report it in a folder, and return the times and the results."""
    busy = os.getloadavg()[0]
    start = time.monotonic()
    sabtune(folder, "search", str(study_file))
    searched = time.monotonic() - start
    name = load(study_file).study.name
    sabtune(folder, "report", name, "--out", "report")
    pictured = time.monotonic() - start
    assert (folder / "report" / "report.html").exists()
    times = {"search_seconds": round(searched, 1), "picture_seconds": round(pictured, 1)}
    return {"load": round(busy, 2), **times, **outcome(folder / "sabtune-store", name)}


def sabtune(folder: Path, *arguments: str) -> None:
    """Run a command of sabtune in a folder; its output goes to a file there."""
    with (folder / "output.txt").open("a") as output:
        command = [sys.executable, "-m", "sabtune", *arguments]
        subprocess.run(command, cwd=folder, stdout=output, stderr=output, check=True)


def outcome(store: Path, name: str) -> Row:
    """Return what a search found: how many trials solve every length, and how good the best is."""
    study = StudyRecord.open(Store(store), name)
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    best = study.best
    assert best is not None
    longest = max(result.length for result in best.test)
    at_longest = {
        trial.number: result.accuracy
        for trial in complete
        for result in trial.test
        if result.length == longest
    }
    return {
        "trials": len(study.trials),
        "complete": len(complete),
        "solved": sum(solve_length(trial.test, SOLVED) == longest for trial in complete),
        "best_trial": best.number,
        "best_score": best.values[0],
        "longest": longest,
        "best_accuracy": at_longest[best.number],
        "most_accurate": max(at_longest.values()),
        **{f"best_{key}": value for key, value in best.params.items()},
    }


def ranges(measured: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a table with the smallest and the largest value of each column over the runs."""
    lines = [f"| over {len(measured)} runs | smallest | largest |", "|---|---|---|"]
    for column, (label, shown) in RANGES.items():
        values = [float(row[column]) for row in measured]
        lines.append(f"| {label} | {shown(min(values))} | {shown(max(values))} |")
    return lines


def sentences(measured: Sequence[Mapping[str, str]]) -> str:
    """Return what the README says of the runs."""

    def span(column: str) -> str:
        _, shown = RANGES[column]
        values = [float(row[column]) for row in measured]
        low, high = shown(min(values)), shown(max(values))
        return low if low == high else f"{low} to {high}"

    last = measured[-1]
    return (
        f"In {len(measured)} runs on two cores, the search took {span('search_seconds')}, and the "
        f"figures were there after {span('picture_seconds')}. Of its {last['trials']} trials, "
        f"{span('complete')} were trained to the end, and {span('solved')} solved every length up "
        f"to {last['longest']}. The best trial by its score had an accuracy of "
        f"{span('best_accuracy')} at {last['longest']}."
    )


if __name__ == "__main__":
    main()
