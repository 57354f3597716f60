"""What a report is made from, read once: the study, its contests, and what its trials wrote."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import optuna
from optuna.trial import TrialState

from sabtune.compare.comparison import Comparison
from sabtune.compare.results import comparison
from sabtune.config import RunConfig
from sabtune.errors import StoreError
from sabtune.storage.store import Store
from sabtune.study import record
from sabtune.study.checkpoints import Attempts, history
from sabtune.study.configurations import Configuration, Leaderboard
from sabtune.study.names import COMPARISONS, kept_names, kind
from sabtune.study.record import TrialRecord
from sabtune.tasks import Task
from sabtune.training.trial import Progress
from sabtune.wording import counted as number

STATES: Mapping[TrialState, str] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
}
BROKEN = "breaks a constraint"


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Of a study with a complete trial.

    ranked: its configurations, best first. contests: by the study that holds its runs, this one or
    each .confirm and .ablate of its own, what was measured on fresh seeds.
    """

    study: optuna.Study
    store: Store
    trials: list[TrialRecord]
    ranked: list[Configuration]
    comparisons: dict[str, Comparison]

    @property
    def name(self) -> str:
        return self.study.study_name

    @property
    def is_comparison(self) -> bool:
        """Whether its trials are the runs of `confirm` or `ablate`."""
        return self.name in self.comparisons

    @property
    def confirmed(self) -> Comparison | None:
        """The methods on fresh seeds, as they were compared last."""
        of = [found for name, found in self.comparisons.items() if kind(name) == "confirm"]
        return self.comparisons.get(self.name) or (of[-1] if of else None)

    @property
    def best(self) -> TrialRecord:
        return self.ranked[0].best

    @property
    def run(self) -> RunConfig:
        """What the best trial trained."""
        assert self.best.run is not None
        return self.best.run

    @cached_property
    def task(self) -> Task:
        return self.run.task.build()

    @cached_property
    def shortest(self) -> int | None:
        """The shortest that a complete trial was trained on, where that is less than the task's."""
        trained = [trial.run.trial.train.shortest for trial in self.complete if trial.run]
        varied = [length for length in trained if length and length < self.run.task.length]
        return min(varied, default=None)

    @cached_property
    def ended(self) -> list[TrialRecord]:
        """The trials that have ended and had something to do."""
        trials = record.counted(self.trials)
        return [t for t in trials if t.state in record.ENDED and t.run is not None]

    @cached_property
    def complete(self) -> list[TrialRecord]:
        return [trial for trial in self.ended if trial.state == TrialState.COMPLETE]

    @property
    def select(self) -> tuple[int, ...]:
        """The lengths that chose."""
        assert self.best.spec is not None
        return self.best.spec.ladder.select

    @property
    def counts(self) -> str:
        """How many trials there are, and how they ended."""
        counted = record.counted(self.trials)
        found = Counter(trial.state for trial in counted)
        states = ", ".join(
            f"{found[state]} {word}" for state, word in STATES.items() if found[state]
        )
        again = record.again_words(len(self.trials) - len(counted))
        return f"{number(len(counted), 'trial')} ({states}{again})"

    @cached_property
    def question(self) -> str:
        """What the study asks, as recorded; else what its file says first, if that is there."""
        plan = record.plan(self.study)
        if "question" in plan:
            return str(plan["question"])
        try:
            said = ast.get_docstring(ast.parse(Path(plan.get("file", "")).read_text()))
        except (OSError, SyntaxError, ValueError):
            said = None
        return (said or "").strip()

    def by_score(self, trials: Iterable[TrialRecord]) -> list[TrialRecord]:
        """The lowest first, the best trial last: so it is drawn on top, and never thinned out."""
        return sorted(trials, key=lambda trial: (trial.number == self.best.number, trial.score))

    def history(self, trial: TrialRecord) -> list[Progress]:
        """What a trial reported, from its last checkpoint; nothing where that is gone."""
        return history(self._attempts.checkpoints(trial.number), trial.spec)

    @cached_property
    def _attempts(self) -> Attempts:
        return Attempts(self.store.trials / self.name)


def gather(study: optuna.Study, store: Store) -> ReportData:
    """The material of a study. Raises StoreError if no trial of it is complete."""
    trials = record.records(study)
    ranked = Leaderboard.of_trials(study, trials).ranked()
    if not ranked:
        ended = sum(trial.state in record.ENDED for trial in record.counted(trials))
        raise StoreError(
            f"study {study.study_name!r} has no complete trial ({ended} ended otherwise): "
            "there is nothing to report yet, search on"
        )
    return ReportData(
        study=study,
        store=store,
        trials=trials,
        ranked=ranked,
        comparisons=dict(_comparisons(study, store)),
    )


def _comparisons(study: optuna.Study, store: Store) -> dict[str, Comparison]:
    """By study: what was measured on fresh seeds of this one, or what this one is itself."""
    name = study.study_name
    if record.COMPARISON in record.plan(study):
        studies = [study]
    else:
        kept = [of for what in COMPARISONS for of in kept_names(f"{name}.{what}", store)]
        studies = [record.open_study(store, other) for other in kept]
    found = {of.study_name: comparison(of) for of in studies}
    return {of: compared for of, compared in found.items() if compared is not None}


def state(trial: TrialRecord) -> str:
    """How a trial ended, in a word."""
    broken = trial.state == TrialState.COMPLETE and not trial.feasible
    return BROKEN if broken else STATES[trial.state]
