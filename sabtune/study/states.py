"""The words for the states of a trial in tables, pages and figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from optuna.trial import TrialState

WORDS: Mapping[TrialState, str] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
    TrialState.WAITING: "waiting",
}

WORDS_IN_A_SEARCH: Mapping[TrialState, str] = {**WORDS, TrialState.RUNNING: "running"}
"""The words while a search is writing to the study."""

INFEASIBLE = "breaks a constraint"
"""The word for a complete trial that violates a constraint."""


def counts(states: Iterable[TrialState], words: Mapping[TrialState, str] = WORDS) -> str:
    """Return the number of trials in each state, as in "5 complete, 2 pruned"."""
    by_state = Counter(states)
    return ", ".join(
        f"{by_state[state]} {word}" for state, word in words.items() if by_state[state]
    )
