"""The output of `sabtune status`: the state of a study, read from its store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from optuna.trial import TrialState
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sabtune.study.record import StudyRecord
from sabtune.study.states import ENDED, WORDS, WORDS_IN_A_SEARCH
from sabtune.study.trial_record import TrialRecord
from sabtune.terminal.live_table import label, same_as
from sabtune.terminal.one_line import OneLine
from sabtune.terminal.pace import duration
from sabtune.terminal.styles import styled, with_colored_counts

SHOWN_TRIALS = 5
"""The maximum number of ended trials in the output."""


def status(study: StudyRecord, alive: bool, *, follow: bool = False) -> RenderableType:
    """Return the output of `sabtune status`.

    alive: Whether a search is writing to the study now.

    follow: Whether the user asked to follow the search.
    """
    words = WORDS_IN_A_SEARCH if alive else WORDS
    running = [trial for trial in study.trials if trial.state == TrialState.RUNNING]
    ended = sorted((trial for trial in study.trials if trial.state in ENDED), key=_when)
    planned = "" if study.planned is None else f", {study.ended} of {study.planned} trials"
    counts = study.counts_in_words(words) or "no trial yet"
    writes = "A search is writing to it now"
    if not alive:
        writes = "No search is writing to it now" + ", so there is none to follow" * follow
        if study.stopped_by:
            writes += f". The last one was ended by {study.stopped_by}"
    parts: list[RenderableType] = [
        with_colored_counts(f"Study {study.name}{planned}: {counts}"),
        Text(f"{writes}."),
        Text(_best(study.trials, words)),
    ]
    if running:
        title = "Running" if alive else "Interrupted: the next search resumes these"
        parts += [Text(f"\n{title}"), _running(running, datetime.now(), alive=alive)]
    if ended:
        parts += [Text("\nLatest ended trials"), _ended(ended[-SHOWN_TRIALS:])]
    return Group(*parts)


def _best(trials: Sequence[TrialRecord], states: Mapping[TrialState, str]) -> str:
    """Return a line on the best score so far, of any trial that has not failed."""
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
            OneLine(_label(trial)),
            f"{last}/{trial.run.train.updates}" if trial.run else "",
            f"{trial.scores[last]:.3f}" if trial.scores else "",
            f"{duration(ago)} ago" if ago is not None else "",
        )
    return table


def _ended(trials: Sequence[TrialRecord]) -> Table:
    """Return a table of ended trials, the latest last."""
    table = _table("configuration", "state", "score", "took", "reason")
    for trial in trials:
        scored = trial.state != TrialState.FAIL and (trial.values or trial.scores)
        table.add_row(
            str(trial.number),
            OneLine(_label(trial)),
            styled(WORDS[trial.state]),
            f"{trial.score:.3f}" if scored else "",
            duration(trial.seconds) if trial.seconds else "",
            trial.reason if trial.state == TrialState.FAIL else OneLine(trial.reason),
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


def _label(trial: TrialRecord) -> str:
    if trial.spec is None:
        return "–"
    return "  ".join(filter(None, (same_as(trial.spec), label(trial.spec.run))))


def _when(trial: TrialRecord) -> datetime:
    return trial.ended or datetime.min
