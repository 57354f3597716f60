"""The results of `confirm` and `ablate`, read from the study that holds their runs."""

from __future__ import annotations

from collections import Counter, defaultdict

from optuna.trial import TrialState
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from sabtune.compare.comparison import Comparison, Group
from sabtune.compare.comparison import page as comparison_page
from sabtune.study.record import StudyRecord
from sabtune.study.trial_specs import FRESH_SEED
from sabtune.training.evaluation import LengthResult


def page(study: StudyRecord) -> RenderableType:
    """Return the terminal output on a comparison: the counts of its trials, then its results."""
    result = comparison(study)
    head = Text(f"Study {study.name}: {study.size}")
    for label, model in (study.plan.comparison or {}).items():
        if model not in label:
            head.append(f"\n  {label}: {model}")
    return (
        Stack(head, comparison_page(result))
        if result
        else Stack(head, Text("Nothing to compare yet."))
    )


def comparison(study: StudyRecord) -> Comparison | None:
    """Return the comparison of the runs, grouped by label; None before a run is complete.

    A failed run counts as a failed seed unless it was run again.
    """
    runs: dict[str, dict[int, list[LengthResult]]] = defaultdict(dict)
    failed: Counter[str] = Counter()
    for trial in study.counted:
        if trial.state == TrialState.COMPLETE and trial.run is not None:
            runs[trial.label][trial.run.seed - FRESH_SEED] = trial.test
        elif trial.state == TrialState.FAIL:
            failed[trial.label] += 1
            runs[trial.label]  # adds the label if it has no completed run
    run = next((trial.run for trial in study.counted if trial.run), None)
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
        searched=study.plan.searched or (),
    )
