"""What `confirm` and `ablate` found, from the study that holds their runs."""

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
    """The comparison, or, while there is nothing to compare, how far it has come."""
    found = comparison(study)
    trials = record.counted(record.records(study))
    counts = Counter(trial.state.name.lower() for trial in trials)
    head = Text(f"Study {study.study_name}: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    for label, model in record.plan(study).get(record.COMPARISON, {}).items():
        if model not in label:
            head.append(f"\n  {label}: {model}")
    return (
        Stack(head, comparison_page(found))
        if found
        else Stack(head, Text("Nothing to compare yet."))
    )


def comparison(study: optuna.Study) -> Comparison | None:
    """The runs that have ended, in the order of their labels; None before there is any.

    A failed run that was run again doesn't count; one that wasn't, counts as failed.
    """
    trials = record.counted(record.records(study))
    runs: dict[str, dict[int, list[LengthResult]]] = defaultdict(dict)
    failed: Counter[str] = Counter()
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.run is not None:
            runs[trial.label][trial.run.seed - record.FRESH_SEED] = trial.test
        elif trial.state == TrialState.FAIL:
            failed[trial.label] += 1
            runs[trial.label]
    run = next((trial.run for trial in trials if trial.run), None)
    if run is None or not any(runs.values()):
        return None
    groups = [Group(label=label, runs=of, failed=failed[label]) for label, of in runs.items()]
    task = run.task.build()
    return Comparison(
        groups=groups,
        chance=task.chance,
        solved_at=task.solved,
        searched=record.plan(study).get("searched", []),
    )
