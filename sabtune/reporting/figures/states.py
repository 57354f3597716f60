"""The colors, markers and lines by which figures distinguish the states of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optuna.trial import TrialState

from sabtune.reporting.figures.palette import BLUE, ORANGE, PURPLE, VERMILION
from sabtune.study.states import INFEASIBLE, WORDS


@dataclass(frozen=True, kw_only=True)
class Style:
    """The look of the trials in one state."""

    color: str
    symbol: str
    filled: bool
    dash: str


STYLES: Mapping[str, Style] = {
    WORDS[TrialState.COMPLETE]: Style(color=BLUE, symbol="circle", filled=True, dash="solid"),
    WORDS[TrialState.PRUNED]: Style(color=ORANGE, symbol="diamond", filled=False, dash="dash"),
    WORDS[TrialState.FAIL]: Style(color=VERMILION, symbol="cross", filled=True, dash="dot"),
    INFEASIBLE: Style(color=PURPLE, symbol="square", filled=False, dash="dash"),
}
"""The style of the trials in each state, by the word for the state."""
