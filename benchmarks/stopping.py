"""Compare rules that end a search early on recorded studies.

    python benchmarks/stopping.py [--orders 10]

The script replays the studies of docs/results/ trial by trial: in their order, and in random
orders. After each trial, it asks every rule whether the search should end, and then compares the
best score so far with that of the whole study. A random order is not what a sampler would have
drawn, but gives more searches to compare.

rules:
  no improvement N       `sabtune.NoImprovement(configurations=N)`
  Optuna, stagnation N   optuna.terminator with BestValueStagnationEvaluator(N)
  Optuna, regret bound   with RegretBoundEvaluator and an error of the score of ERROR
  Optuna, EMMR           with EMMREvaluator and MedianErrorEvaluator

Optuna's terminator looks at complete trials only, and at 20 of them at least. The recorded studies
have 3 to 11, because most trials were pruned, so it ends none of them. "all" gives it the pruned
trials too, as complete ones with their last score, and lets it judge from 10 trials on.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import optuna
import torch
from optuna import terminator as t
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from sabtune.study.configurations import Leaderboard, Seeds
from sabtune.study.stopping import NoImprovement, Stopping
from sabtune.study.trial_record import TrialRecord

RESULTS = Path(__file__).parent.parent / "docs" / "results"
STUDIES = ("copying", "copying.lstm", "copying.self_attention", "copying_quick")
STARTUP = 10
"""The number of trials at the start of each study that were drawn at random."""

LEAST_TRIALS = 10
"""The number of trials from which on Optuna's terminator judges in the variants "all"."""

ERROR = 0.01
"""The error of a score: its standard error over 512 sequences is at most 0.02."""

SCALES = ("learning_rate",)
"""The parameters that were drawn on a logarithmic scale."""

warnings.simplefilter("ignore")  # the terminator is deprecated, and its evaluators experimental
optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Row:
    """A recorded trial that has ended."""

    state: TrialState
    score: float
    seconds: float
    params: dict[str, Any]


def recorded(name: str) -> list[Row]:
    """Return the trials of a study that weren't run again."""
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line.get("run_again") != "True"]
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    return [
        Row(
            states[line["state"]],
            float(line["score"]),
            float(line["seconds"]),
            {
                key.removeprefix("param."): _value(value)
                for key, value in line.items()
                if key.startswith("param.") and value
            },
        )
        for line in lines
        if line["state"] in states and line["score"]
    ]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def distributions(rows: Sequence[Row]) -> dict[str, BaseDistribution]:
    """Return a distribution of each parameter that contains all of its values."""
    found: dict[str, BaseDistribution] = {}
    for name in dict.fromkeys(name for row in rows for name in row.params):
        values = [row.params[name] for row in rows if name in row.params]
        if any(isinstance(value, str) for value in values):
            found[name] = CategoricalDistribution(sorted({str(value) for value in values}))
        elif all(isinstance(value, int) for value in values):
            found[name] = IntDistribution(min(values), max(values))
        else:
            low, high = min(values), max(values)
            found[name] = FloatDistribution(low, high, log=name in SCALES)
    return found


Ends = Callable[[Row], bool]
"""A rule for one search: it is told of each trial, and returns whether the search should end."""


def no_improvement(configurations: int, rows: Sequence[Row]) -> Ends:
    """Return sabtune's rule."""
    board, numbers = Leaderboard(Seeds()), iter(range(len(rows)))
    stopping = Stopping([NoImprovement(configurations=configurations)], STARTUP, board)

    def ends(row: Row) -> bool:
        number = next(numbers)
        complete = row.state == TrialState.COMPLETE
        trial = SimpleNamespace(
            configuration=number, score=row.score, solved=False, state=row.state, feasible=True,
            values=[row.score] if complete else [], number=number,
            ended=datetime(2026, 1, 1) + timedelta(seconds=number),
        )  # fmt: skip
        board.start(number)
        board.end(cast(TrialRecord, trial))
        return bool(stopping.reason)

    return ends


def terminator(make: Callable[[], t.Terminator], rows: Sequence[Row], *, all_trials: bool) -> Ends:
    """Return the rule of a terminator of Optuna."""
    study, judge = optuna.create_study(direction="maximize"), make()
    known = distributions(rows)

    def ends(row: Row) -> bool:
        study.add_trial(_frozen(row, known, complete=all_trials))
        return judge.should_terminate(study)

    return ends


def _frozen(row: Row, known: dict[str, BaseDistribution], *, complete: bool) -> FrozenTrial:
    state = TrialState.COMPLETE if complete else row.state
    params = {
        name: str(value) if isinstance(known[name], CategoricalDistribution) else value
        for name, value in row.params.items()
    }
    return create_trial(
        state=state,
        value=row.score if state == TrialState.COMPLETE else None,
        params=params,
        distributions={name: known[name] for name in params},
    )


def optuna_rules() -> dict[str, Callable[[int], t.Terminator]]:
    """Return the terminators by name, as functions of the least number of trials."""

    def stagnation(period: int) -> Callable[[int], t.Terminator]:
        return lambda least: t.Terminator(
            t.BestValueStagnationEvaluator(period), t.StaticErrorEvaluator(0), least
        )

    def emmr(least: int) -> t.Terminator:
        evaluator = t.EMMREvaluator(min_n_trials=3, seed=0)
        return t.Terminator(
            evaluator,
            t.MedianErrorEvaluator(evaluator, warm_up_trials=5, n_initial_trials=5),
            least,
        )

    return {
        **{f"Optuna, stagnation {period}": stagnation(period) for period in (5, 10, 15)},
        "Optuna, regret bound": lambda least: t.Terminator(
            t.RegretBoundEvaluator(min_n_trials=5, seed=0), t.StaticErrorEvaluator(ERROR), least
        ),
        "Optuna, EMMR": emmr,
    }


@dataclass(frozen=True)
class Search:
    """A replayed search: when a rule ended it, what that cost, and how long a judgment took."""

    early: bool
    share: float  # of the configurations
    seconds: float  # the share of the computing time
    lost: float  # score
    judgment: float  # seconds


def replay(rows: Sequence[Row], ends: Ends) -> Search:
    """Replay a search until the rule ends it."""
    judgments, used = [], len(rows)
    for number, row in enumerate(rows, start=1):
        began = time.perf_counter()
        done = ends(row)
        judgments.append(time.perf_counter() - began)
        if done:
            used = number
            break
    return Search(
        early=used < len(rows),
        share=used / len(rows),
        seconds=sum(row.seconds for row in rows[:used]) / sum(row.seconds for row in rows),
        lost=best(rows) - best(rows[:used]),
        judgment=statistics.mean(judgments),
    )


def best(rows: Iterable[Row]) -> float:
    """Return the best score of a complete trial, or 0."""
    return max((row.score for row in rows if row.state == TrialState.COMPLETE), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=int, default=10, help="random orders of each study")
    orders = parser.parse_args().orders
    torch.set_num_threads(1)  # the Gaussian processes are small
    searches = []
    for name in STUDIES:
        rows = recorded(name)
        complete = sum(row.state == TrialState.COMPLETE for row in rows)
        print(f"{name}: {len(rows)} trials, {complete} complete, best {best(rows):.3f}")
        draws = np.random.default_rng(0)
        shuffled = ([rows[i] for i in draws.permutation(len(rows))] for _ in range(orders))
        searches += [rows, *shuffled]
    rules: dict[str, Callable[[Sequence[Row]], Ends]] = {}
    for count in (5, 10, 15):
        rules[f"no improvement {count}"] = lambda rows, n=count: no_improvement(n, rows)  # type: ignore[misc]
    for name, make in optuna_rules().items():
        rules[name] = lambda rows, m=make: terminator(lambda: m(20), rows, all_trials=False)  # type: ignore[misc]
        rules[f"{name}, all"] = lambda rows, m=make: terminator(  # type: ignore[misc]
            lambda: m(LEAST_TRIALS), rows, all_trials=True
        )
    print(f"\n{len(searches)} searches\n")
    print("| rule | ended early | configurations | time | score lost, mean | most | ms |")
    print("|---|---|---|---|---|---|---|")
    for name, rule in rules.items():
        results = [replay(rows, rule(rows)) for rows in searches]
        means = {
            field: statistics.mean(getattr(result, field) for result in results)
            for field in ("share", "seconds", "lost", "judgment")
        }
        print(
            f"| {name} | {sum(result.early for result in results)} | {means['share']:.0%} | "
            f"{means['seconds']:.0%} | {means['lost']:.3f} | "
            f"{max(result.lost for result in results):.3f} | {1000 * means['judgment']:.2g} |",
            flush=True,
        )
    assert math.isfinite(sum(map(best, searches)))


if __name__ == "__main__":
    main()
