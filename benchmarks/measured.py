"""Measure the missing rows of a CSV in parallel processes."""

from __future__ import annotations

import csv
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol, TypeVar

Row = dict[str, Any]


class Job(Protocol):
    """A measurement that runs in its own process; its key identifies its rows."""

    @property
    def key(self) -> dict[str, str]: ...


J = TypeVar("J", bound=Job)


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV, or an empty list if the file doesn't exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measure_missing(
    path: Path, jobs: Sequence[J], measured: Callable[[J], list[Row]], *, workers: int
) -> None:
    """Run each job that has no rows in the CSV at `path`, and append its rows.

    Each job runs in its own process, `workers` at a time. Its rows are written together when it
    ends, so an interruption loses only the jobs that are running.
    """
    present = rows(path)
    missing = [job for job in jobs if not any(job.key.items() <= row.items() for row in present)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        running = {pool.submit(measured, job): job for job in missing}
        for done, future in enumerate(as_completed(running), start=1):
            append(path, [running[future].key | row for row in future.result()])
            print(f"{done}/{len(missing)} {running[future].key}", flush=True)


def append(path: Path, new: Sequence[Row]) -> None:
    """Append rows to a CSV, with a header if the file is new."""
    begins = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(new[0]), lineterminator="\n")
        if begins:
            writer.writeheader()
        writer.writerows(new)
