"""A study in a few words and numbers: what was asked, what may be spent, what has come of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from sabtune.config import PARTS
from sabtune.schema import from_dict
from sabtune.study import record
from sabtune.study.configurations import Leaderboard
from sabtune.study.definition import AUTO, Study, words
from sabtune.study.events import Origin, Overview, TrialView
from sabtune.study.record import TrialRecord
from sabtune.training.trial import Progress
from sabtune.wording import counted

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
}


def overview(study: optuna.Study, complete: bool) -> Overview:
    """The study as it stands; `complete`: nothing is left to do."""
    trials = record.records(study)
    with record.plan_of(study) as plan:
        asked = from_dict(Study, plan["study"], PARTS) if "study" in plan else None
    counts = Counter(STATES[trial.state] for trial in record.counted(trials))
    # of a comparison there is none: what it compares is configurations, over their seeds
    best = Leaderboard.of_trials(study, trials).best if record.COMPARISON not in plan else None
    return Overview(
        question=question(plan),
        task=asked.task if asked else None,
        ladder=asked.ladder if asked else None,
        space=space(study),
        budget=list(_budget(asked, plan)) if asked else [],
        trials={state: counts[state] for state in STATES.values()},
        hours=sum(trial.seconds for trial in trials) / 3600,
        best=view(study, best) if best else None,
        champion=record.registered(study).champion_version,
        complete=complete,
    )


def view(study: optuna.Study, trial: TrialRecord, history: Sequence[Progress] = ()) -> TrialView:
    """What is known of a trial that was begun."""
    assert trial.spec is not None
    return TrialView(
        spec=trial.spec,
        history=history,
        outcome=trial.outcome,
        origin=origin(study, trial),
    )


def origin(study: optuna.Study, trial: TrialRecord) -> Origin:
    """Where a trial came from."""
    revision = trial.environment.get("study", {})
    return Origin(
        file=record.plan(study).get("file", ""),
        commit=revision.get("commit", ""),
        changed=revision.get("dirty", False),
        label=trial.label,
    )


def question(plan: Mapping[str, Any]) -> str:
    """What was asked; of a comparison, who takes part too."""
    text: str = plan.get("question", "")
    confirmation: Mapping[str, str] = plan.get(record.COMPARISON, {})
    if not confirmation:
        return text
    lines = [f"- {label}" if model in label else f"- {label}: {model}"
             for label, model in confirmation.items()]  # fmt: skip
    return "\n".join([text, "", "Compared on fresh seeds:", "", *lines]).strip()


def space(study: optuna.Study) -> dict[str, str]:
    """What each parameter was drawn from, in words, over all trials so far."""
    again = record.run_again(study)
    every = [trial for trial in study.get_trials(deepcopy=False) if trial.number not in again]
    trials = [trial for trial in every if trial.distributions]
    found: dict[str, list[BaseDistribution]] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            found.setdefault(name, []).append(distribution)
    words = {}
    for name, distributions in found.items():
        words[name] = _drawn_from(distributions)
        if len(distributions) < len(trials):
            words[name] += f" (in {len(distributions)} of {counted(len(trials), 'trial')})"
    return words


def _drawn_from(distributions: Sequence[BaseDistribution]) -> str:
    """The bounds may depend on other parameters: the widest are told."""
    first = distributions[0]
    if isinstance(first, CategoricalDistribution):
        return ", ".join(map(str, first.choices))
    numbers = [d for d in distributions if isinstance(d, IntDistribution | FloatDistribution)]
    low, high = min(d.low for d in numbers), max(d.high for d in numbers)
    words = f"{low:g} to {high:g}"
    words += " in whole numbers" if isinstance(first, IntDistribution) else ""
    return words + (" on a log scale" if numbers[0].log else "")


def _budget(study: Study, plan: Mapping[str, Any]) -> Iterator[str]:
    if record.COMPARISON in plan:
        configurations = len(plan[record.COMPARISON])
        compared = counted(configurations, "configuration")
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
                f"the best 1/{study.pruning.reduction:g} go on"
            )
        if study.seeds.most > 1:
            yield (
                f"{study.seeds.first} to {study.seeds.most} seeds a configuration, "
                f"compared by {study.seeds.objective}"
            )
    yield plan.get(record.PLACED) or _place(study)
    bounds = {"h": study.limits.hours, "GiB": study.limits.memory}
    limits = [f"{value:g} {unit}" for unit, value in bounds.items() if value is not None]
    if limits:
        yield f"at most {' and '.join(limits)} a trial"
    spent = {"hours": "h", "gpu_hours": "GPU h"}
    for name, unit in spent.items():
        if plan.get(name) is not None:
            yield f"the last search at most {plan[name]:g} {unit}"


def _place(study: Study) -> str:
    gpus = study.resources.gpus
    if gpus == AUTO:
        return f"{words(study.resources.cpus, 0)} a trial, and of a GPU what its memory bears"
    return f"{words(study.resources.cpus, gpus)} a trial"
