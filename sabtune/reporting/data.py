"""The data of a report, read once: the study, its trials and its comparisons."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from optuna.trial import TrialState

from sabtune.analysis.compared import comparisons
from sabtune.analysis.comparison import Comparison
from sabtune.analysis.conclusion import Conclusion, conclude
from sabtune.config import RunConfig
from sabtune.errors import StoreError
from sabtune.study.checkpoints import Attempts, history
from sabtune.study.configurations import Configuration
from sabtune.study.names import kind
from sabtune.study.record import StudyRecord
from sabtune.study.states import ENDED, INFEASIBLE, WORDS
from sabtune.study.trial_record import TrialRecord
from sabtune.tasks import Task
from sabtune.training.trial import Progress


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """The data of a report on a study with at least one complete trial.

    comparisons: Comparisons on fresh seeds, by the study that contains their runs: this study, or
    each .confirm and .ablate study of it.
    """

    study: StudyRecord
    comparisons: dict[str, Comparison]

    @property
    def name(self) -> str:
        """The name of the study."""
        return self.study.name

    @property
    def trials(self) -> list[TrialRecord]:
        """The trials that have started."""
        return self.study.trials

    @property
    def ranked(self) -> list[Configuration]:
        """The configurations of the study, best first."""
        return self.study.ranked

    @property
    def is_comparison(self) -> bool:
        """Whether the trials of this study are the runs of `confirm` or `ablate`."""
        return self.name in self.comparisons

    @property
    def confirmed(self) -> Comparison | None:
        """The comparison that is this study, or else the study's latest confirmation, or None."""
        confirmations = [
            comparison for name, comparison in self.comparisons.items() if kind(name) == "confirm"
        ]
        return self.comparisons.get(self.name) or (confirmations[-1] if confirmations else None)

    @property
    def best(self) -> TrialRecord:
        """The best trial."""
        return self.ranked[0].best

    @property
    def run(self) -> RunConfig:
        """The configuration of the best trial."""
        assert self.best.run is not None
        return self.best.run

    @cached_property
    def task(self) -> Task:
        """The task of the best trial."""
        return self.run.task.build()

    @cached_property
    def shortest(self) -> int | None:
        """The shortest training length of a complete trial, or None if none varied its length."""
        lengths = [trial.run.train.shortest for trial in self.complete if trial.run]
        varied = [length for length in lengths if length and length < self.run.task.length]
        return min(varied, default=None)

    @cached_property
    def ended(self) -> list[TrialRecord]:
        """The ended trials that have a configuration, without those that were run again."""
        trials = self.study.counted
        return [t for t in trials if t.state in ENDED and t.run is not None]

    @cached_property
    def complete(self) -> list[TrialRecord]:
        """The complete trials."""
        return [trial for trial in self.ended if trial.state == TrialState.COMPLETE]

    @property
    def select(self) -> tuple[int, ...]:
        """The selection lengths."""
        assert self.best.spec is not None
        return self.best.spec.ladder.select

    @property
    def counts(self) -> str:
        """The number of trials by state, and the rule that ended the search if one did."""
        stopped = self.study.stopped_by
        return self.study.size + (f"; ended by {stopped}" if stopped else "")

    @cached_property
    def conclusion(self) -> Conclusion:
        """The conclusion of the study: three sentences and the best configurations."""
        return conclude(self.study)

    @cached_property
    def question(self) -> str:
        """The recorded question of the study, or else the docstring of its file."""
        plan = self.study.plan
        if plan.question is not None:
            return plan.question
        try:
            docstring = ast.get_docstring(ast.parse(Path(plan.file or "").read_text()))
        except (OSError, SyntaxError, ValueError):
            docstring = None
        return (docstring or "").strip()

    def by_score(self, trials: Iterable[TrialRecord]) -> list[TrialRecord]:
        """Sort trials by score, with the best trial last: it is drawn on top and never left out."""
        return sorted(trials, key=lambda trial: (trial.number == self.best.number, trial.score))

    def history(self, trial: TrialRecord) -> list[Progress]:
        """Return the progress of a trial from its newest readable checkpoint, or []."""
        return history(self._attempts.checkpoints(trial.number), trial.spec)

    @cached_property
    def _attempts(self) -> Attempts:
        return Attempts(self.study.store.trials / self.name)


def gather(study: StudyRecord) -> ReportData:
    """Read the data of a report. Raises StoreError if the study has no complete trial."""
    if not study.ranked:
        raise StoreError(
            f"study {study.name!r} has no complete trial ({study.ended} ended otherwise): "
            "there is nothing to report yet, continue the search"
        )
    return ReportData(study=study, comparisons=comparisons(study))


def state(trial: TrialRecord) -> str:
    """Return the word for the state of a trial, one of `WORDS` or `INFEASIBLE`."""
    infeasible = trial.state == TrialState.COMPLETE and not trial.feasible
    return INFEASIBLE if infeasible else WORDS[trial.state]
