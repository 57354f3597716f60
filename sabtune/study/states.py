"""The states of a trial: those in which it has ended, and the words for them in all output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, cast

from optuna.trial import TrialState

State = Literal["COMPLETE", "PRUNED", "FAIL"]
"""The states of a trial that has ended, by their names in Optuna."""

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
"""The states of a trial that has ended."""

WORDS: Mapping[TrialState, str] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
    TrialState.WAITING: "waiting",
}

WORDS_IN_A_SEARCH: Mapping[TrialState, str] = {**WORDS, TrialState.RUNNING: "running"}
"""The words while a search is writing to the study."""

SUMMARY_WORDS = tuple(
    WORDS_IN_A_SEARCH[state]
    for state in (TrialState.RUNNING, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE)
)
"""The words in the summary of a running search, in its order."""

INFEASIBLE = "breaks a constraint"
"""The word for a complete trial that violates a constraint."""

MLFLOW_STATUS: Mapping[State, str] = {
    "COMPLETE": "FINISHED",
    "PRUNED": "FINISHED",
    "FAIL": "FAILED",
}
"""The status of the MLflow run of a trial that has ended. MLflow marks KILLED runs as failures."""


def final_state(state: TrialState) -> State | None:
    """Return the name of a state in which a trial has ended; None for any other state."""
    return cast(State, state.name) if state in ENDED else None


def counts(states: Iterable[TrialState], words: Mapping[TrialState, str] = WORDS) -> str:
    """Return the number of trials in each state, as in "5 complete, 2 pruned"."""
    by_state = Counter(states)
    return ", ".join(
        f"{by_state[state]} {word}" for state, word in words.items() if by_state[state]
    )
