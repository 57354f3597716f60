"""Measure the time and memory of writing the report on a study of thousands of trials.

    python benchmarks/report.py [--trials 2000] [--formats html,md,tex,csv]

The script makes a study in memory, without training: four parameters, ten intermediate values per
trial, a third of the trials pruned. It writes the report that a search writes at its end, and
prints the CPU seconds (all threads, imports included), the wall seconds and the peak memory before
and after.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
from cpu import processor
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.reporting.write import QUICK, write
from sabtune.schedule import Constant, Linear
from sabtune.storage.store import Store
from sabtune.study.attributes import RESULT, SPEC, TEST
from sabtune.study.record import StudyRecord
from sabtune.tasks import Copying
from sabtune.training.evaluation import Ladder, LengthResult
from sabtune.training.trial import TrialSpec, plain

LENGTHS = (100, 200, 400, 2000)
SPACE = {
    "schedule": CategoricalDistribution(("constant", "linear")),
    "k_top": IntDistribution(2, 15),
    "k_att": IntDistribution(1, 10),
    "learning_rate": FloatDistribution(5e-4, 4e-3, log=True),
}


def trial(number: int, draw: np.random.Generator) -> FrozenTrial:
    """Return a trial whose score depends on k_att and on chance."""
    kind = str(draw.choice(["constant", "linear"]))
    k_top, k_att = int(draw.integers(2, 16)), int(draw.integers(1, 11))
    rate = float(np.exp(draw.uniform(np.log(5e-4), np.log(4e-3))))
    params = {"schedule": kind, "k_top": k_top, "k_att": k_att, "learning_rate": rate}
    schedule = Linear(start="all") if kind == "linear" else Constant()
    model = SAB.Config(k_top=k_top, k_att=k_att, schedule=schedule)
    train = TrainConfig(updates=1000, report_every=100, learning_rate=rate)
    spec = TrialSpec(
        number=number,
        configuration=number,
        run=RunConfig.of(
            task=Copying.Config(length=100),
            trial=TrialConfig(model=model, train=train),
            seed=number,
        ),
        ladder=Ladder(lengths=LENGTHS, select=LENGTHS[:2]),
        evaluation_seed=0,
        threads=1,
    )
    score = float(np.clip(0.9 - 0.05 * abs(k_att - 4) + draw.normal(0, 0.1), 0, 1))
    pruned = number % 3 == 2
    results = [
        LengthResult(length=at, accuracy=score**i, loss=0.5, sequences=256, seconds=at * 0.002)
        for i, at in enumerate(LENGTHS, 1)
    ]
    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        values=None if pruned else [score],
        params=params,
        distributions=SPACE,
        intermediate_values={100 * i: score * i / 10 for i in range(1, 4 if pruned else 11)},
        user_attrs={
            SPEC: spec.to_dict(),
            RESULT: {TEST: [] if pruned else plain(results)},
        },
    )


def peak() -> float:
    """Return the peak resident set size of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--formats", default=",".join(QUICK))
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    draw = np.random.default_rng(0)
    study = optuna.create_study(study_name="many", direction="maximize")
    study.set_user_attr("plan", {"objectives": ["score"], "question": "What does a report take?"})
    study.add_trials([trial(number, draw) for number in range(arguments.trials)])
    print(f"{processor()}, load {os.getloadavg()[0]:.1f}; {peak():.0f} MiB before")
    with tempfile.TemporaryDirectory() as folder:
        used, started = time.process_time(), time.perf_counter()
        write(StudyRecord(study, Store(Path(folder))), Path(folder), arguments.formats.split(","))
        used, wall = time.process_time() - used, time.perf_counter() - started
        sizes = {path.name: path.stat().st_size / 2**20 for path in Path(folder).iterdir()}
    print(f"{arguments.trials} trials: {used:.1f} CPU s, {wall:.1f} s, {peak():.0f} MiB at most")
    print(", ".join(f"{name} {size:.1f} MiB" for name, size in sizes.items()))


if __name__ == "__main__":
    main()
