"""Summarize a study in words and numbers: its question, its budget and its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from sabtune.study.definition import AUTO, Study, words
from sabtune.study.events import Origin, Overview, TrialView
from sabtune.study.plan import Plan
from sabtune.study.record import StudyRecord
from sabtune.study.states import WORDS
from sabtune.study.trial_record import TrialRecord
from sabtune.training.trial import Progress
from sabtune.wording import counted


def overview(study: StudyRecord, complete: bool) -> Overview:
    """Return the overview of a study.

    complete: whether nothing is left to do. Raises StoreError if the study can't be read.
    """
    definition, plan = study.definition, study.plan
    # a comparison has no best trial: it compares configurations over their seeds
    best = None if study.is_comparison else study.best
    return Overview(
        question=question(plan),
        task=definition.task if definition else None,
        ladder=definition.ladder if definition else None,
        space=space(study),
        budget=list(_budget(definition, plan)) if definition else [],
        trials={
            word: study.counts.get(state, 0)
            for state, word in WORDS.items()
            if state != TrialState.WAITING
        },
        hours=sum(trial.seconds for trial in study.trials) / 3600,
        best=view(study, best) if best else None,
        champion=study.champion,
        complete=complete,
        stopped=study.stopped_by,
    )


def view(study: StudyRecord, trial: TrialRecord, history: Sequence[Progress] = ()) -> TrialView:
    """Return the view of a trial that has a specification. history: its progress, for MLflow."""
    assert trial.spec is not None
    return TrialView(
        spec=trial.spec,
        history=history,
        outcome=trial.outcome,
        origin=origin(study, trial),
    )


def origin(study: StudyRecord, trial: TrialRecord) -> Origin:
    """Return the origin of a trial: the study file, its code and commit, and the trial's label."""
    revision = trial.environment.get("study", {})
    return Origin(
        file=study.plan.file or "",
        commit=revision.get("commit", ""),
        changed=revision.get("dirty", False),
        code=trial.environment.get("code", ""),
        label=trial.label,
    )


def question(plan: Plan) -> str:
    """Return the question of a study and, for a comparison, the list of the compared models."""
    text, compared = plan.question or "", plan.comparison or {}
    if not compared:
        return text
    lines = [f"- {label}" if model in label else f"- {label}: {model}"
             for label, model in compared.items()]  # fmt: skip
    return "\n".join([text, "", "Compared on fresh seeds:", "", *lines]).strip()


def space(study: StudyRecord) -> dict[str, str]:
    """Return the distribution of each parameter over all trials so far, in words, by name."""
    counting = (trial for trial in study.frozen if trial.number not in study.run_again)
    trials = [trial for trial in counting if trial.distributions]
    by_name: dict[str, list[BaseDistribution]] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            by_name.setdefault(name, []).append(distribution)
    descriptions = {}
    for name, distributions in by_name.items():
        descriptions[name] = _widest(distributions)
        if len(distributions) < len(trials):
            descriptions[name] += f" (in {len(distributions)} of {counted(len(trials), 'trial')})"
    return descriptions


def total_failure(study: StudyRecord) -> str:
    """Return how many trials failed and the most common reason, if all did; else ""."""
    trials = study.counted
    if not trials or any(trial.state != TrialState.FAIL for trial in trials):
        return ""
    reason, count = Counter(trial.reason for trial in trials).most_common(1)[0]
    if len(trials) == 1:
        return f"the only trial failed: {reason}"
    how_many = "each of them" if count == len(trials) else f"{count} of them"
    return f"all {len(trials)} trials failed, {how_many} because of this: {reason}"


def _widest(distributions: Sequence[BaseDistribution]) -> str:
    """Return the distributions of one parameter in words, with the widest bounds of all.

    Bounds may differ between trials, because they may depend on other parameters.
    """
    first = distributions[0]
    if isinstance(first, CategoricalDistribution):
        return ", ".join(map(str, first.choices))
    numbers = [d for d in distributions if isinstance(d, IntDistribution | FloatDistribution)]
    low, high = min(d.low for d in numbers), max(d.high for d in numbers)
    words = f"{low:g} to {high:g}"
    words += " in whole numbers" if isinstance(first, IntDistribution) else ""
    return words + (" on a log scale" if numbers[0].log else "")


def _budget(study: Study, plan: Plan) -> Iterator[str]:
    """Yield the parts of a study's budget in words."""
    if plan.comparison is not None:
        compared = counted(len(plan.comparison), "configuration")
        yield f"{compared}, each on the same fresh seeds; none is pruned"
    else:
        yield (
            f"{counted(study.trials, 'trial')}, drawn by {study.sampler} after {study.startup} "
            f"at random; seed {study.seed}"
        )
        if study.pruning is None:
            yield "no trial is pruned"
        else:
            yield (
                f"pruned by ASHA: from {study.pruning.grace:,} updates on, "
                f"the best 1/{study.pruning.reduction:g} continue"
            )
        if study.seeds.most > 1:
            yield (
                f"{study.seeds.first} to {study.seeds.most} seeds per configuration, "
                f"compared by {study.seeds.objective}"
            )
        for rule in study.rules:
            yield f"ends early by {rule.words}"
    yield plan.placed or _resources(study)
    bounds = {"h": study.limits.hours, "GiB": study.limits.memory}
    limits = [f"{value:g} {unit}" for unit, value in bounds.items() if value is not None]
    if limits:
        yield f"at most {' and '.join(limits)} per trial"
    for limit, unit in ((plan.hours, "h"), (plan.gpu_hours, "GPU h")):
        if limit is not None:
            yield f"at most {limit:g} {unit} for the last search"


def _resources(study: Study) -> str:
    """Return the resources of a trial in words, as the study file requests them."""
    gpus = study.resources.gpus
    if gpus == AUTO:
        return f"{words(study.resources.cpus, 0)} a trial, and as much of a GPU as its memory needs"
    return f"{words(study.resources.cpus, gpus)} a trial"
