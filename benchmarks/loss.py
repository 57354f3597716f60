"""Measure how many seconds of computing a trial loses when its worker is killed.

    python benchmarks/loss.py [--kills 5] [--files ADDRESS]

The script runs a search of one trial, which yields no metrics before the script ends. It kills the
trial's worker (SIGKILL) at a random time, then does the same with the next worker. The loss is what
was computed after the checkpoint from which the next worker resumes: the time of the kill minus the
seconds stored in that checkpoint, both on the trial's clock. Each worker starts that clock at the
seconds of the checkpoint that it resumes from.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sabtune.tuning  # noqa: F401  sets variables that Ray reads on import

# isort: split
import optuna
from cpu import processor

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import LSTM
from sabtune.storage.store import Store
from sabtune.study.checkpoints import Attempts
from sabtune.study.definition import Study
from sabtune.study.study_file import StudyFile
from sabtune.tasks import Copying
from sabtune.training.evaluation import Ladder
from sabtune.training.trial import FILE
from sabtune.tuning.run import search
from sabtune.tuning.trainable import SAVE_SECONDS

ENDLESS = 10**7
NAME = "loss"


def space(trial: optuna.Trial) -> TrialConfig:
    train = TrainConfig(updates=ENDLESS, batch_size=16, report_every=ENDLESS)
    return TrialConfig(model=LSTM.Config(hidden=trial.suggest_int("hidden", 64, 64)), train=train)


def drive(store: Store) -> None:
    """Run the search, which never ends."""
    study = Study(
        name=NAME,
        task=Copying.Config(length=50),
        ladder=Ladder(lengths=(50, 100), select=(50,)),
        trials=1,
    )
    search(StudyFile(Path(__file__), study, space), store)


def worker(driver: int, other_than: int) -> int:
    """Return the process that trains, once it is not `other_than`."""
    while True:
        for process in below(driver):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{process}/cmdline").read_text()
                if "Trainable" in words and process != other_than:
                    return process
        time.sleep(0.02)


def below(process: int) -> list[int]:
    """Return all descendants of a process."""
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [pid for child in map(int, text.split()) for pid in (child, *below(child))]


def saved(store: Store) -> tuple[str, float]:
    """Return the name of the newest complete checkpoint and the trial's seconds in it."""
    for checkpoint in Attempts(store.trials / NAME).checkpoints(0):
        whole, content = checkpoint.read("progress.json"), checkpoint.read(FILE)
        if whole and content:
            return checkpoint.name, float(json.loads(content)["seconds"])
    return "", 0.0


def lose(store: Store, driver: int, kills: int) -> list[float]:
    """Kill one worker after the other; return the seconds lost at each kill."""
    lost, last, draw = list[float](), 0, random.Random(0)  # noqa: S311
    for _ in range(kills):
        last = worker(driver, last)
        name, _ = saved(store)
        while saved(store)[0] <= name:  # its first checkpoint shows this worker's clock
            time.sleep(0.05)
        at, (_, seconds) = time.monotonic(), saved(store)
        time.sleep(draw.uniform(0, 2 * SAVE_SECONDS))
        newest, then = saved(store), time.monotonic()
        os.kill(last, signal.SIGKILL)
        lost.append(seconds + then - at - newest[1])
        print(f"killed {then - at:.1f} s after a save: {lost[-1]:.1f} s lost", flush=True)
    return lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--files", help="where the checkpoints go")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(Store.at(options.drive, options.files).made())
        return
    print(f"{processor()}, {os.cpu_count()} CPUs, a save each {SAVE_SECONDS:g} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--drive", folder]
        command += ["--files", options.files] if options.files else []
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
            try:
                lost = lose(Store.at(folder, options.files), driver.pid, options.kills)
            finally:
                for process in (*below(driver.pid), driver.pid):
                    with contextlib.suppress(OSError):
                        os.kill(process, signal.SIGKILL)
    print(f"lost at most {max(lost):.1f} s, {sum(lost) / len(lost):.1f} s on average")


if __name__ == "__main__":
    main()
