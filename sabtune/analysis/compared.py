"""The results of `confirm` and `ablate`, read from the studies that contain their runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from optuna.trial import TrialState

from sabtune.analysis.comparison import Comparison, Group
from sabtune.analysis.cost import costs
from sabtune.study.method_names import method_names
from sabtune.study.names import COMPARISONS, kept_names, kind
from sabtune.study.record import StudyRecord
from sabtune.study.trial_specs import FRESH_SEED, configuration_key
from sabtune.training.evaluation import LengthResult


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
    configurations = {trial.label: trial.run for trial in study.counted if trial.run}
    run = next(iter(configurations.values()), None)
    if run is None or not any(runs.values()):
        return None
    names = method_names({label: each.model for label, each in configurations.items()})
    groups = [
        Group(
            label=label,
            runs=by_seed,
            failed=failed[label],
            legend=names.get(label, ""),
            share=configurations[label].share_kept() if label in configurations else None,
            **costs([t for t in study.counted if t.label == label]),
        )
        for label, by_seed in runs.items()
    ]
    task = run.task.build()
    return Comparison(
        groups=groups,
        chance=task.chance,
        solved_at=task.solved,
        searched=study.plan.searched or (),
    )


def comparisons(study: StudyRecord) -> dict[str, Comparison]:
    """Return the comparisons of a study by the study that contains their runs.

    If the study is a comparison, it is the only one.
    """
    return {other.name: result for other, result in _with_results(study)}


def confirmation(study: StudyRecord) -> tuple[StudyRecord, Comparison] | None:
    """Return the latest confirmation of a study on fresh seeds, or None if it has none."""
    confirmations = [
        (other, result) for other, result in _with_results(study) if kind(other.name) == "confirm"
    ]
    return confirmations[-1] if confirmations else None


def groups(study: StudyRecord, other: StudyRecord, result: Comparison) -> dict[int, Group]:
    """Return the groups of a comparison by the number of their configuration in the study.

    A group is left out if its configuration has no complete trial in the study.

    other: The study that contains the runs of the comparison.
    """
    configurations = study.leaderboard.configurations
    numbers = {
        configuration_key(trial.run): trial.configuration
        for trial in study.counted
        if trial.run is not None and configurations[trial.configuration].complete
    }
    labels = {
        trial.label: numbers[configuration_key(trial.run)]
        for trial in other.counted
        if trial.run is not None and configuration_key(trial.run) in numbers
    }
    return {labels[group.label]: group for group in result.groups if group.label in labels}


def _with_results(study: StudyRecord) -> Iterator[tuple[StudyRecord, Comparison]]:
    """Yield each study that contains the runs of a comparison, with their results."""
    if study.is_comparison:
        studies = [study]
    elif study.is_stored:
        studies = [
            StudyRecord.open(study.store, name)
            for suffix in COMPARISONS
            for name in kept_names(f"{study.name}.{suffix}", study.store)
        ]
    else:
        studies = []
    for other in studies:
        result = comparison(other)
        if result is not None:
            yield other, result
