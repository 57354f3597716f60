"""Compare pruning policies for trials whose attention starts denser than it ends.

    python benchmarks/pruning.py [--workers 2]

The script draws configurations at random from search_spaces/copying_quick.py and trains each one to
its end. A configuration with a schedule is trained a second time, with a schedule that ends at
ASHA's first rung. Every model is scored both at the k_top in force and at the final k_top.

It then replays searches from these scores: two workers take configurations in random order until
the budget of updates is spent, ASHA prunes by the scores of the policy, and the best complete trial
wins. All policies get the same budgets and orders. A winner is judged by its confirmed accuracy
(the mean over fresh seeds, lengths and phases on test sequences) and by the share of memories that
it keeps at the training length.

policies:
  in-force     scores at the k_top in force, rungs counted from the first update
  from-end     scores at the k_top in force, rungs counted from the end of the schedule
  at-final     scores at the final k_top, rungs counted from the first update
  ends-first   every schedule ends at the first rung

Intervals are 95 % percentile intervals over bootstrap samples of the configurations. All policies
search the same samples, so the differences are paired. The rows are written to
docs/results/pruning.csv and docs/results/pruning-confirmed.csv; models whose rows are there are not
trained again.
"""

from __future__ import annotations

import argparse
import heapq
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from measured import Row, measure_missing, rows

from sabtune.config import RunConfig, TrialConfig
from sabtune.models import SAB
from sabtune.schedule import Constant, Moving
from sabtune.seeding import Stream
from sabtune.study.loading import load
from sabtune.study.study_file import StudyFile
from sabtune.study.trial_specs import FRESH_SEED
from sabtune.training.evaluation import LengthResult, measure, selection_score
from sabtune.training.loop import Training
from sabtune.tuning.asha import Halving

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
CONFIGURATIONS = 24
CONFIRMATIONS = 1
SAMPLES, REPLAYS_PER_SAMPLE = 200, 20
WORKERS_REPLAYED = 2
POLICIES = ("in-force", "from-end", "at-final", "ends-first")
EARLY = "early"
"""The variant of a configuration whose schedule ends at the first rung."""


@cache
def study_file() -> StudyFile:
    """Return the study file that provides the space, the ladder and the pruning."""
    return load(ROOT / "search_spaces" / "copying_quick.py")


@cache
def configurations() -> tuple[TrialConfig, ...]:
    """Return the random configurations of the pool."""
    return tuple(study_file().sampled()[:CONFIGURATIONS])


def varied(number: int, variant: str) -> TrialConfig:
    """Return a configuration of the pool.

    If `variant` is EARLY, its schedule ends at the first rung.
    """
    config = configurations()[number]
    assert isinstance(config.model, SAB.Config)
    schedule, pruning = config.model.schedule, study_file().study.pruning
    assert pruning is not None
    if variant == EARLY and isinstance(schedule, Moving):
        schedule = replace(schedule, share=pruning.grace / config.train.updates)
        return replace(config, model=replace(config.model, schedule=schedule))
    return config


@dataclass(frozen=True, kw_only=True)
class Job:
    """The training of one configuration of the pool."""

    configuration: int
    variant: str
    seed: int

    @property
    def key(self) -> dict[str, str]:
        """Return the columns that identify the job."""
        return {
            "configuration": str(self.configuration),
            "variant": self.variant,
            "seed": str(self.seed),
        }


def trained(job: Job) -> list[Row]:
    """Train one configuration and return a row per report, with both scores.

    The last row also has the accuracy on the test sequences.
    """
    torch.set_num_threads(1)
    study = study_file().study
    config = varied(job.configuration, job.variant)
    training = Training(RunConfig.of(task=study.task, trial=config, seed=job.seed))
    model, task, ladder = training.model, training.task, study.ladder
    assert isinstance(config.model, SAB.Config)

    def measure_all(lengths: Sequence[int], stream: Stream) -> list[LengthResult]:
        return [
            measure(
                model,
                task,
                length,
                sequences=ladder.sequences,
                seed=0,
                stream=stream,
                phases=ladder.phase_count,
            )
            for length in lengths
        ]

    def tested(stream: Stream) -> float:
        """Return the mean accuracy over the lengths of the ladder."""
        return statistics.mean(result.accuracy for result in measure_all(ladder.lengths, stream))

    measured: list[Row] = []
    for report in training:
        fresh = job.seed >= FRESH_SEED
        if fresh and report.step < config.train.updates:
            continue
        settled = model.settled
        in_force = selection_score(measure_all(ladder.select, Stream.SELECTION), task)
        model.set_progress(1.0)
        final = in_force
        if not settled:
            final = selection_score(measure_all(ladder.select, Stream.SELECTION), task)
        ended = report.step == config.train.updates
        measured.append(
            {
                "k_top": config.model.k_top,
                "k_att": config.model.k_att,
                "share_kept": config.model.share_kept(task.steps(task.length)),
                "constant": isinstance(config.model.schedule, Constant),
                "step": report.step,
                "settled": settled,
                "in_force": in_force,
                "final": final,
                "test": tested(Stream.CONFIRMATION) if ended else "",
            }
        )
        model.set_progress(training.progress)
    return measured


@dataclass(frozen=True)
class Report:
    """The scores of one report, with the k_top in force and with the final k_top."""

    step: int
    settled: bool
    in_force: float
    final: float


@dataclass(frozen=True)
class Trial:
    """A trained configuration of the pool."""

    share_kept: float
    reports: tuple[Report, ...]
    test: float

    @property
    def end_of_schedule(self) -> int:
        """Return the first reported step with the final k_top, or 0 if all steps have it."""
        if all(report.settled for report in self.reports):
            return 0
        return next(report.step for report in self.reports if report.settled)


Pool = dict[tuple[int, str], Trial]


def pool(path: Path) -> Pool:
    """Return the trials of the pool. Constant schedules have no EARLY variant."""
    by_trial: dict[tuple[int, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows(path):
        by_trial[int(row["configuration"]), row["variant"]].append(row)
    return {
        key: Trial(
            share_kept=float(group[0]["share_kept"]),
            reports=tuple(
                Report(
                    step=int(row["step"]),
                    settled=row["settled"] == "True",
                    in_force=float(row["in_force"]),
                    final=float(row["final"]),
                )
                for row in group
            ),
            test=float(group[-1]["test"]),
        )
        for key, group in by_trial.items()
    }


def replay(
    trials: Pool, order: Sequence[int], policy: str, budget: int
) -> tuple[tuple[int, str] | None, int]:
    """Return the winner of one replayed search and the number of trials it started.

    Two workers take configurations in `order`, each as soon as it is free, until `budget` updates
    are spent. Only trials that are complete by then can win.
    """
    pruning = study_file().study.pruning
    assert pruning is not None
    halving = Halving(pruning)
    waiting = list(reversed(order))
    clock: list[tuple[int, int, int]] = []  # (updates so far on this worker, trial, next report)
    started: list[tuple[int, str]] = []
    complete: dict[tuple[int, str], float] = {}

    def begin(at: int) -> None:
        number = waiting.pop()
        key = (number, EARLY if policy == "ends-first" and (number, EARLY) in trials else "drawn")
        started.append(key)
        first = trials[key].reports[0]
        heapq.heappush(clock, (at + first.step, len(started) - 1, 0))

    for _ in range(WORKERS_REPLAYED):
        begin(0)
    while clock:
        at, trial_number, index = heapq.heappop(clock)
        if WORKERS_REPLAYED * at > budget:
            break
        trial = trials[started[trial_number]]
        report = trial.reports[index]
        score = report.final if policy == "at-final" else report.in_force
        step = report.step - (trial.end_of_schedule if policy == "from-end" else 0)
        last = index == len(trial.reports) - 1
        if last:
            halving.end(trial_number, score)
            complete[started[trial_number]] = score
        elif step <= 0 or halving.goes_on(trial_number, step, score):
            following = trial.reports[index + 1]
            heapq.heappush(clock, (at + following.step - report.step, trial_number, index + 1))
            continue
        if waiting:
            begin(at)
    winner = max(complete, key=lambda key: complete[key], default=None)
    return winner, len(started)


def confirmed(path: Path) -> dict[tuple[int, str], float]:
    """Return the mean test accuracy over fresh seeds of each confirmed configuration."""
    by_trial: dict[tuple[int, str], list[float]] = defaultdict(list)
    for row in rows(path):
        by_trial[int(row["configuration"]), row["variant"]].append(float(row["test"]))
    return {key: statistics.mean(tests) for key, tests in by_trial.items()}


Search = tuple[tuple[int, str] | None, int]
"""The winner of a replayed search and the number of trials it started."""


def searches(trials: Pool, budget: int) -> dict[str, list[list[Search]]]:
    """Return the replayed searches by policy and bootstrap sample.

    All policies use the same orders.
    """
    results: dict[str, list[list[Search]]] = {policy: [] for policy in POLICIES}
    for number in range(SAMPLES):
        draw = np.random.default_rng(number)
        sample = draw.integers(CONFIGURATIONS, size=CONFIGURATIONS)
        orders = [draw.permutation(sample).tolist() for _ in range(REPLAYS_PER_SAMPLE)]
        for policy in POLICIES:
            results[policy].append([replay(trials, order, policy, budget) for order in orders])
    return results


def interval(means: Sequence[float]) -> str:
    """Format the mean of the sample means and its 95 % interval, in %."""
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{100 * statistics.mean(means):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def means(samples: list[list[Search]], value: Callable[[tuple[int, str]], float]) -> list[float]:
    """Return, for each sample, the mean value of the winners of its searches."""
    return [
        statistics.mean(value(winner) for winner, _ in replays if winner is not None)
        for replays in samples
    ]


def confirm_winners(
    results: Mapping[str, list[list[Search]]], path: Path, workers: int
) -> dict[tuple[int, str], float]:
    """Train every winner again with fresh seeds and return the confirmed accuracies."""
    winners = {
        winner
        for samples in results.values()
        for replays in samples
        for winner, _ in replays
        if winner is not None
    }
    fresh = [
        Job(configuration=number, variant=variant, seed=FRESH_SEED + seed)
        for seed in range(CONFIRMATIONS)
        for number, variant in sorted(winners)
    ]
    measure_missing(path, fresh, trained, workers=workers)
    return confirmed(path)


def compare(
    trials: Pool,
    results: Mapping[str, list[list[Search]]],
    accuracy: Mapping[tuple[int, str], float],
) -> None:
    """Print a row for each policy, with its difference from the in-force policy."""
    print(
        "| policy | trials begun | confirmed accuracy (%) | difference | share kept (%) "
        "| difference | no winner |"
    )
    print("|---|---|---|---|---|---|---|")
    columns = {}
    for policy, samples in results.items():
        columns[policy] = [
            means(samples, lambda winner: accuracy[winner]),
            means(samples, lambda winner: trials[winner].share_kept),
        ]
        cells = []
        for own, usual in zip(columns[policy], columns[POLICIES[0]], strict=True):
            cells.append(interval(own))
            differences = [a - b for a, b in zip(own, usual, strict=True)]
            cells.append("" if own is usual else interval(differences))
        every = [search for replays in samples for search in replays]
        begun = statistics.mean(count for _, count in every)
        none = sum(winner is None for winner, _ in every) / len(every)
        print(f"| {policy} | {begun:.1f} | {' | '.join(cells)} | {none:.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--csv", type=Path, default=RESULTS / "pruning.csv")
    parser.add_argument("--confirmed", type=Path, default=RESULTS / "pruning-confirmed.csv")
    options = parser.parse_args()
    jobs = [
        Job(configuration=number, variant=variant, seed=number)
        for number in range(CONFIGURATIONS)
        for variant in ("drawn", EARLY)
        if variant == "drawn" or varied(number, EARLY) != varied(number, "drawn")
    ]
    measure_missing(options.csv, jobs, trained, workers=options.workers)
    trials = pool(options.csv)
    every_update = study_file().study.trials * configurations()[0].train.updates
    for budget in (every_update // 4, every_update // 2):
        results = searches(trials, budget)
        accuracy = confirm_winners(results, options.confirmed, options.workers)
        count = SAMPLES * REPLAYS_PER_SAMPLE
        print(f"\nbudget of {budget:,} updates, {count:,} searches for each policy")
        compare(trials, results, accuracy)


if __name__ == "__main__":
    main()
