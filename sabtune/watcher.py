"""Who is told what happens in a search: the person at the terminal, MLflow, a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sabtune.evaluation import Rung
from sabtune.trial import Assignment, Progress

State = Literal["COMPLETE", "PRUNED", "FAIL"]
"""How a trial can end, in Optuna's words."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended."""

    state: State
    score: float | None = None  # of a complete trial: what the search maximises
    reason: str = ""  # why it was pruned or failed
    ladder: Sequence[Rung] = ()  # on the selection sequences
    test: Sequence[Rung] = ()  # on the test sequences


@dataclass(frozen=True, kw_only=True)
class Picture:
    """All that is known of one trial, for those who show it."""

    assignment: Assignment
    history: Sequence[Progress]
    outcome: Outcome | None  # None while it runs, or waits to be taken up again


class Watcher(Protocol):
    """Called in the driver, between two steps of Ray Tune: be quick, and raise nothing."""

    def trial_started(self, assignment: Assignment) -> None:
        """It starts, or is taken up again."""

    def trial_reported(self, number: int, progress: Progress) -> None: ...

    def trial_ended(self, number: int, outcome: Outcome) -> None: ...
