"""A study on one screen: how its trials ended, the best one, and how that carries over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import optuna
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sabtune.evaluation import SOLVED, Rung, length_score, solve_length
from sabtune.search import record
from sabtune.search.record import TrialRecord


def summary(study: optuna.Study) -> RenderableType:
    """The report on a study as something rich can print."""
    trials = record.records(study)
    best = record.best(trials)
    parts: list[RenderableType] = [Text(_counts(study.study_name, trials))]
    if best is None:
        parts.append(Text("No trial has completed yet."))
        return Group(*parts)
    assert best.run is not None
    parts += [Text(line) for line in _best(best)]
    parts += [Text(""), _ladder(best.test, best.run.task.build().chance)]
    parts += [Text(line) for line in _reading(best)]
    kept = record.model(study)
    if kept is not None:
        parts += [Text(""), Text("The model, ready to predict at any length:")]
        parts.append(Text(f'  mlflow.pyfunc.load_model("{kept.uri}")  # trial {kept.trial}'))
    return Group(*parts)


def _counts(name: str, trials: Sequence[TrialRecord]) -> str:
    by_state = Counter(trial.state.name.lower() for trial in trials)
    words = {"complete": "complete", "pruned": "pruned", "fail": "failed", "running": "running"}
    states = ", ".join(
        f"{by_state[state]} {word}" for state, word in words.items() if by_state[state]
    )
    seconds = sum(trial.seconds for trial in trials)
    return f"Study {name}: {len(trials)} trials ({states}), {seconds / 60:.1f} trial minutes"


def _best(best: TrialRecord) -> Iterator[str]:
    assert best.run is not None
    train = best.run.trial.train
    yield f"Best, by its score on the selection lengths: trial {best.number}, {best.value:.3f}"
    yield f"  {best.run.trial.model.label()} hidden={best.run.trial.model.hidden}"
    yield (
        f"  learning_rate={train.learning_rate:.4g} updates={train.updates} "
        f"batch_size={train.batch_size} seed={best.run.seed}"
    )


def _ladder(rungs: Sequence[Rung], chance: float) -> Table:
    table = Table(title="Accuracy by length", title_justify="left")
    for name in ("length", "× training", "accuracy", "loss (nats a step)"):
        table.add_column(name, justify="right")
    for rung in rungs:
        table.add_row(
            f"{rung.length:,}",
            f"{rung.length / rungs[0].length:g}",
            f"{rung.accuracy:.1%}",
            f"{rung.loss:.4f}",
        )
    table.add_section()
    table.add_row("chance", "", f"{chance:.1%}", "")
    return table


def _solved(rungs: Sequence[Rung]) -> str:
    length = solve_length(rungs)
    return (
        f"Solved ({SOLVED:.0%}) up to {length:,}"
        if length
        else f"No length is solved ({SOLVED:.0%})"
    )


def _reading(best: TrialRecord) -> Iterator[str]:
    assert best.run is not None
    chance = best.run.task.build().chance
    yield (
        f"{best.test[0].sequences:,} fresh sequences a length, none of which chose this trial. "
        f"{_solved(best.test)}; "
        f"length score {length_score(best.test, chance):.3f}."
    )
    yield "One trained model of one seed: another seed of this configuration may do otherwise."
