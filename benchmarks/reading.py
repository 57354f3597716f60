"""Measure the time and memory of reading a study of thousands of trials from a store.

    python benchmarks/reading.py [--trials 10000]

The script writes a study of `benchmarks/report.py` to a store in a temporary folder, which takes
minutes. Then a process reads it as every command does, and prints the CPU seconds of reading, with
those of Optuna's own storage for comparison, and the peak memory before and after.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from sabtune.storage.store import Store
from sabtune.study.optuna_storage import open_storage
from sabtune.study.record import StudyRecord

DISTINCT = 500
"""The number of trials that are written by Optuna; the others are copies of their rows."""

TABLES = ("trial_params", "trial_user_attributes", "trial_values", "trial_intermediate_values")


def peak() -> float:
    """Return the peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(store: Store, count: int) -> None:
    """Write a study of `count` trials."""
    from report import trial  # loads more than reading needs

    storage = open_storage(store.made(), write=True)
    study = optuna.create_study(study_name="many", storage=storage, direction="maximize")
    draw = np.random.default_rng(0)
    study.add_trials([trial(number, draw) for number in range(min(count, DISTINCT))])
    with storage.engine.begin() as connection:
        columns = {
            table: [column["name"] for column in sqlalchemy.inspect(connection).get_columns(table)]
            for table in ("trials", *TABLES)
        }
        for first in range(DISTINCT, count, DISTINCT):
            for table, names in columns.items():
                key, *others = names
                own = key if table == "trials" else "trial_id"
                changed = {own: f"{own} + {first}", "number": f"number + {first}"}
                if table != "trials":
                    names = others  # the database numbers the rows
                selected = ", ".join(changed.get(name, name) for name in names)
                connection.execute(
                    sqlalchemy.text(
                        f"INSERT INTO {table} ({', '.join(names)}) SELECT {selected} "  # noqa: S608
                        f"FROM {table} WHERE trial_id <= {min(DISTINCT, count - first)}"
                    )
                )


def read(store: Store) -> None:
    """Read the study and print what that takes."""
    before = peak()
    began = time.process_time()
    study = StudyRecord.open(store, "many")
    trials = study.trials
    seconds = time.process_time() - began
    memory = f"{before:.0f} MiB before, {peak():.0f} at most"
    print(f"{len(trials):,} trials: {seconds:.2f} CPU s, {memory}")
    began = time.process_time()
    storage = RDBStorage(store.optuna_url)
    count = len(storage.get_all_trials(storage.get_study_id_from_name("many"), deepcopy=False))
    print(f"Optuna's storage, without sabtune's records: {time.process_time() - began:.2f} CPU s")
    assert count == len(trials)


def main() -> None:
    """Write a study, and read it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read is not None:
        read(Store(given.read))
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Store(Path(folder)), given.trials)
        subprocess.run([sys.executable, __file__, "--read", folder], check=True)


if __name__ == "__main__":
    main()
