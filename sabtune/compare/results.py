"""The results of `confirm` and `ablate`, read from the study that holds their runs."""

from __future__ import annotations

from collections import Counter, defaultdict

import optuna
from optuna.trial import TrialState
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from sabtune.compare.comparison import Comparison, Group
from sabtune.compare.comparison import page as comparison_page
from sabtune.study import record
from sabtune.training.evaluation import LengthResult


def page(study: optuna.Study) -> RenderableType:
    """Return the terminal output on a comparison: the counts of its trials, then its results."""
    result = comparison(study)
    trials = record.counted(record.records(study))
    counts = Counter(trial.state.name.lower() for trial in trials)
    head = Text(f"Study {study.study_name}: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    for label, model in record.plan(study).get(record.COMPARISON, {}).items():
        if model not in label:
            head.append(f"\n  {label}: {model}")
    return (
        Stack(head, comparison_page(result))
        if result
        else Stack(head, Text("Nothing to compare yet."))
    )


def comparison(study: optuna.Study) -> Comparison | None:
    """Return the comparison of the runs, grouped by label; None before a run is complete.

    A failed run counts as a failed seed unless it was run again.
    """
    trials = record.counted(record.records(study))
    runs: dict[str, dict[int, list[LengthResult]]] = defaultdict(dict)
    failed: Counter[str] = Counter()
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.run is not None:
            runs[trial.label][trial.run.seed - record.FRESH_SEED] = trial.test
        elif trial.state == TrialState.FAIL:
            failed[trial.label] += 1
            runs[trial.label]  # adds the label if it has no completed run
    run = next((trial.run for trial in trials if trial.run), None)
    if run is None or not any(runs.values()):
        return None
    groups = [
        Group(label=label, runs=by_seed, failed=failed[label]) for label, by_seed in runs.items()
    ]
    task = run.task.build()
    return Comparison(
        groups=groups,
        chance=task.chance,
        solved_at=task.solved,
        searched=record.plan(study).get("searched", []),
    )
