"""How a search stands, told from its study alone: for whoever looks in from another terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sabtune.study import record
from sabtune.study.record import TrialRecord
from sabtune.terminal.live_table import duration, label, shared

STATES = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}

LAST = 5
"""How many of those that ended are shown."""


def status(study: optuna.Study, alive: bool) -> RenderableType:
    """The page as something rich can print; `alive`: a search is writing to the study now."""
    frozen = study.get_trials(deepcopy=False)
    trials = {trial.number: trial for trial in record.records(study)}
    running = [trial for trial in trials.values() if trial.state == TrialState.RUNNING]
    ends = sorted((t for t in frozen if t.state.is_finished()), key=_when)
    parts: list[RenderableType] = [
        Text(f"Study {study.study_name}: {_counts(frozen, trials, alive)}"),
        Text("A search is writing to it now." if alive else "No search is writing to it now."),
        Text(_best(list(trials.values()), _states(alive))),
    ]
    if running:
        title = "Running" if alive else "Interrupted: taken up by the next search"
        parts += [Text(f"\n{title}"), _running(running, datetime.now(), alive=alive)]
    if ends:
        parts += [Text("\nThe last that ended"), _ended(ends[-LAST:], trials)]
    return Group(*parts)


def _states(alive: bool) -> dict[TrialState, str]:
    return STATES if alive else STATES | {TrialState.RUNNING: "interrupted"}


def _counts(frozen: Sequence[FrozenTrial], trials: Mapping[int, TrialRecord], alive: bool) -> str:
    again = {number for number, trial in trials.items() if trial.run_again}
    by_state = Counter(trial.state for trial in frozen if trial.number not in again)
    states = ", ".join(f"{by_state[s]} {word}" for s, word in _states(alive).items() if by_state[s])
    return (states or "no trial yet") + record.again_words(len(again))


def _best(trials: Sequence[TrialRecord], states: dict[TrialState, str]) -> str:
    """The highest score that a trial has, whether it has ended or not; a failed one has none."""
    scored = [t for t in trials if t.state != TrialState.FAIL and (t.values or t.scores)]
    if not scored:
        return "No trial has a score yet."
    best = max(scored, key=lambda trial: (trial.score, -trial.number))
    return (
        f"Best so far: trial {best.number}, {best.score:.3f}, {states[best.state]}: {_label(best)}"
    )


def _running(trials: Sequence[TrialRecord], now: datetime, *, alive: bool) -> Table:
    table = _table("configuration", "updates", "score", "started" if alive else "first started")
    for trial in trials:
        last = max(trial.scores, default=0)
        ago = max((now - trial.started).total_seconds(), 0.0) if trial.started else None
        table.add_row(
            str(trial.number),
            _one_line(_label(trial)),
            f"{last}/{trial.run.trial.train.updates}" if trial.run else "",
            f"{trial.scores[last]:.3f}" if trial.scores else "",
            f"{duration(ago)} ago" if ago is not None else "",
        )
    return table


def _ended(ends: Sequence[FrozenTrial], trials: dict[int, TrialRecord]) -> Table:
    """Latest last, as in a log."""
    table = _table("configuration", "state", "score", "took", "reason")
    for trial in (trials[end.number] for end in ends):
        scored = trial.state != TrialState.FAIL and (trial.values or trial.scores)
        table.add_row(
            str(trial.number),
            _one_line(_label(trial)),
            STATES[trial.state],
            f"{trial.score:.3f}" if scored else "",
            duration(trial.seconds) if trial.seconds else "",
            trial.reason,
        )
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("trial", justify="right", no_wrap=True)
    for name in names:
        wide = name in ("configuration", "reason")
        right = name in ("updates", "score", "started", "first started", "took")
        table.add_column(name, justify="right" if right else "left", no_wrap=not wide)
    return table


def _one_line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _label(trial: TrialRecord) -> str:
    if trial.spec is None:
        return "–"
    return "  ".join(filter(None, (shared(trial.spec), label(trial.spec.run))))


def _when(trial: FrozenTrial) -> datetime:
    return trial.datetime_complete or datetime.min
