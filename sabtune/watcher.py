"""Who is told what happens in a search: the person at the terminal, MLflow, a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sabtune.config import RunConfig
from sabtune.evaluation import Rung
from sabtune.training import Report

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


class Watcher(Protocol):
    """Called in the driver, between two steps of Ray Tune: be quick, and raise nothing."""

    def trial_started(self, number: int, run: RunConfig) -> None: ...

    def trial_reported(
        self, number: int, report: Report, ladder: Sequence[Rung], score: float
    ) -> None: ...

    def trial_ended(self, number: int, outcome: Outcome) -> None: ...
