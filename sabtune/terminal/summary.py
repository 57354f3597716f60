"""A study on one screen: how its trials ended, the best one, and how that carries over."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

import optuna
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sabtune.config import RunConfig
from sabtune.study import record
from sabtune.study.configurations import Configuration, Leaderboard, Seeds
from sabtune.study.record import TrialRecord
from sabtune.tasks import Task
from sabtune.training.evaluation import LengthResult, length_score, solve_length
from sabtune.wording import counted as number


def summary(study: optuna.Study, mlflow: str | None = None) -> RenderableType:
    """The report on a study as something rich can print. mlflow: the URI of the one that has its
    model."""
    trials = record.records(study)
    leaderboard = Leaderboard.of(study)
    ranked = leaderboard.ranked()
    best = ranked[0].best if ranked else None
    parts: list[RenderableType] = [Text(_counts(study.study_name, trials))]
    if best is None:
        parts.append(Text("No trial has completed yet."))
        return Group(*parts)
    assert best.run is not None
    parts += [Text(line) for line in _best(best)]
    parts += [Text(line) for line in _seeds(ranked[0], leaderboard.seeds)]
    parts += [Text(""), _ladder(best.test, best.run)]
    parts += [Text(line) for line in _reading(best, len(ranked[0].scores))]
    if len(study.directions) > 1:
        parts += [Text(""), _front(study)]
    kept = record.model(study)
    if kept is not None:
        parts += [Text(""), Text("The model, ready to predict at any length:")]
        place = f"import mlflow; mlflow.set_tracking_uri({json.dumps(mlflow)}); " if mlflow else ""
        line = f'  {place}mlflow.pyfunc.load_model("{kept.uri}")  # trial {kept.trial}'
        parts.append(Text(line, no_wrap=True, overflow="ignore"))
    return Group(*parts)


def _counts(name: str, trials: Sequence[TrialRecord]) -> str:
    counted = record.counted(trials)
    by_state = Counter(trial.state.name.lower() for trial in counted)
    words = {"complete": "complete", "pruned": "pruned", "fail": "failed", "running": "unfinished"}
    states = ", ".join(
        f"{by_state[state]} {word}" for state, word in words.items() if by_state[state]
    )
    seconds = sum(trial.seconds for trial in trials)
    again = record.again_words(len(trials) - len(counted))
    trials_in_words = number(len(counted), "trial")
    return f"Study {name}: {trials_in_words} ({states}{again}), {seconds / 60:.1f} trial minutes"


def _best(best: TrialRecord) -> Iterator[str]:
    assert best.run is not None
    train = best.run.trial.train
    yield f"Best, by its score on the selection lengths: trial {best.number}, {best.value:.3f}"
    yield f"  {best.run.trial.model.label()} hidden={best.run.trial.model.hidden}"
    yield (
        f"  learning_rate={train.learning_rate:.4g} updates={train.updates} "
        f"batch_size={train.batch_size} seed={best.run.seed}"
    )


def _seeds(best: Configuration, seeds: Seeds) -> Iterator[str]:
    count = len(best.scores)
    if count > 1 or seeds.most > 1:
        yield (
            f"  configuration #{best.number}, {count} seed{'s' if count > 1 else ''}: "
            f"mean score {best.value('mean'):.3f}, {sum(best.solved)} solved; "
            f"compared by {seeds.objective}"
        )


def _front(study: optuna.Study) -> Table:
    """The trials that no other beats in every objective, by the first."""
    table = Table(title="Pareto front", title_justify="left")
    names = record.plan(study).get("objectives", [])
    for name in ("trial", *(UNITS.get(name, name) for name in names)):
        table.add_column(name, justify="right")
    table.add_column("configuration")
    for trial in sorted(study.best_trials, key=lambda trial: trial.values[0], reverse=True):
        run = TrialRecord.of(trial).run
        score, *others = trial.values
        values = [f"{score:.3f}", *(f"{value:.3g}" for value in others)]
        table.add_row(str(trial.number), *values, run.trial.model.label() if run else "")
    return table


UNITS = {
    "seconds_per_update": "s an update",
    "peak_memory": "peak memory (MiB)",
    "share_kept": "share of memories kept",
}


def _ladder(results: Sequence[LengthResult], run: RunConfig) -> Table:
    task = run.task.build()
    kept = ("kept",) if run.share_kept() is not None else ()
    table = Table(title="Accuracy by length", title_justify="left")
    phases = ("in phase", "worst phase") if any(map(depends, results)) else ()
    for name in ("length", "× training", "accuracy", *phases, *kept, f"loss ({task.loss_unit})"):
        table.add_column(name, justify="right")
    for result in results:
        of_phases = (_share(result.in_phase), _share(result.worst_phase))
        table.add_row(
            f"{result.length:,}",
            f"{result.length / results[0].length:g}",
            f"{result.accuracy:.1%}",
            *of_phases[: len(phases)],
            *[_share(run.share_kept(result.length))] * len(kept),
            f"{result.loss:.4f}",
        )
    table.add_section()
    table.add_row("chance", "", f"{task.chance:.1%}", *[""] * len(phases + kept), "")
    return table


def depends(result: LengthResult) -> bool:
    """Whether a rung's accuracy may depend on the phase: it was measured, and there are several."""
    return bool(result.by_phase) and result.worst_phase not in (None, result.accuracy)


def _share(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{accuracy:.1%}"


def _solved(results: Sequence[LengthResult], task: Task) -> str:
    length, at = solve_length(results, task.solved), f"{task.solved:.0%}"
    words = f"Solved ({at}) up to {length:,}" if length else f"No length is solved ({at})"
    in_phase = solve_length(results, task.solved, in_phase=True)
    if in_phase != length:
        words += f" in every phase, up to {in_phase:,} in phase with the training length"
    return words


def _reading(best: TrialRecord, seeds: int) -> Iterator[str]:
    assert best.run is not None
    task, counts = best.run.task.build(), sorted({result.sequences for result in best.test})
    fewer = f"{counts[0]:,} to " if len(counts) > 1 else ""
    yield (
        f"{fewer}{counts[-1]:,} fresh sequences a length, none of which chose this trial. "
        f"{_solved(best.test, task)}; "
        f"length score {length_score(best.test, task):.3f}."
    )
    phases = max(len(result.by_phase) for result in best.test)
    if best.run.share_kept() is not None:
        yield "Kept: of the memories at the end of a sequence, the share that a step recalls."
    if any(map(depends, best.test)):
        yield (
            f"A length L is measured over L … L + {phases - 1}. In phase: those that differ from "
            f"the training length by a multiple of k_att, {best.run.trial.model.period}."
        )
    if seeds == 1:
        yield "One trained model of one seed: another seed of this configuration may do otherwise."
    else:
        yield f"The best of {seeds} seeds: what a fresh seed does is for `sabtune confirm` to say."
