"""The summary of a study: its trials, the best one, and its accuracy at longer lengths."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sabtune.analysis import compared, comparison
from sabtune.analysis.conclusion import conclude
from sabtune.analysis.importance import MIN_CONFIGURATIONS, Importance, importances
from sabtune.config import RunConfig
from sabtune.study.configurations import Configuration, Seeds
from sabtune.study.record import StudyRecord
from sabtune.study.trial_record import TrialRecord
from sabtune.tasks import Task
from sabtune.terminal.styles import with_colored_counts
from sabtune.training.evaluation import LengthResult, length_score, solve_length


def summary(study: StudyRecord, mlflow: str | None = None) -> RenderableType:
    """Return the summary of a study.

    mlflow: The MLflow tracking URI to load the model from. None: MLflow's current one.
    """
    seconds = sum(trial.seconds for trial in study.trials)
    parts: list[RenderableType] = [
        with_colored_counts(f"Study {study.name}: {study.size}, {seconds / 60:.1f} trial minutes")
    ]
    if study.stopped_by:
        parts.append(Text(f"Ended by {study.stopped_by}."))
    conclusion = conclude(study)
    parts += [Text(sentence) for sentence in conclusion.sentences]
    best = study.best
    if best is None or conclusion.table is None:
        return Group(*parts)
    assert best.run is not None
    parts += [Text(""), conclusion.table.rich(), Text(_importances(study)), Text("")]
    parts += [Text(line) for line in _best(best)]
    parts += [Text(line) for line in _seeds(study.ranked[0], study.leaderboard.seeds)]
    parts += [Text(""), _ladder(best.test, best.run)]
    parts += [Text(line) for line in _reading(best, len(study.ranked[0].scores))]
    if len(study.directions) > 1:
        parts += [Text(""), _front(study)]
    model = study.model
    if model is not None:
        parts += [Text(""), Text("Load the model, which predicts at any length:")]
        place = f"import mlflow; mlflow.set_tracking_uri({json.dumps(mlflow)}); " if mlflow else ""
        line = f'  {place}mlflow.pyfunc.load_model("{model.uri}")  # trial {model.trial}'
        parts.append(Text(line, no_wrap=True, overflow="ignore"))
    return Group(*parts)


def comparison_summary(study: StudyRecord) -> RenderableType:
    """Return the summary of a comparison: its trials, its conclusion, and the tables."""
    head = with_colored_counts(f"Study {study.name}: {study.size}")
    for label, model in (study.plan.comparison or {}).items():
        if model not in label:
            head.append(f"\n  {label}: {model}")
    result = compared.comparison(study)
    if result is None:
        return Group(head, Text("Nothing to compare yet."))
    sentences = conclude(study).sentences
    return Group(head, *map(Text, sentences), Text(""), comparison.page(result))


def _importances(study: StudyRecord) -> str:
    """Return a line on the importances of the parameters for the score."""
    estimated = importances(study)
    if estimated is None:
        few = f"they need at least {MIN_CONFIGURATIONS} configurations with different scores"
        return f"No importances of parameters: {few}."
    certain = [i for i in estimated.fanova if i.exceeds_chance]
    uncertain = [i for i in estimated.fanova if not i.exceeds_chance]
    words = f"Importance for the score (fANOVA, {estimated.configurations} configurations): "
    if not certain:
        return f"{words}none exceeds chance ({_shares(uncertain)})."
    words += f"{_shares(certain)}."
    return words + (f" May be chance: {_shares(uncertain)}." if uncertain else "")


def _shares(importances: Sequence[Importance]) -> str:
    return ", ".join(f"{one.parameter} {one.value:.0%}" for one in importances)


def _best(best: TrialRecord) -> Iterator[str]:
    assert best.run is not None
    train = best.run.train
    yield f"Best, by its score on the selection lengths: trial {best.number}, {best.value:.3f}"
    yield f"  {best.run.model.label()} hidden={best.run.model.hidden}"
    yield (
        f"  learning_rate={train.learning_rate:.4g} updates={train.updates} "
        f"batch_size={train.batch_size} seed={best.run.seed}"
    )
    if best.parameters is not None and best.multiply_adds is not None:
        yield (
            f"  {best.parameters:,} parameters, {best.multiply_adds:,.0f} multiply-adds per step, "
            f"{best.seconds:,.0f} s"
        )


def _seeds(best: Configuration, seeds: Seeds) -> Iterator[str]:
    count = len(best.scores)
    if count > 1 or seeds.most > 1:
        yield (
            f"  configuration #{best.number}, {count} seed{'s' if count > 1 else ''}: "
            f"mean score {best.value('mean'):.3f}, {sum(best.solved)} solved; "
            f"compared by {seeds.objective}"
        )


def _front(study: StudyRecord) -> Table:
    """Return the Pareto front, sorted by the first objective."""
    table = Table(title="Pareto front", title_justify="left")
    names = study.plan.objectives or ()
    for name in ("trial", *(UNITS.get(name, name) for name in names)):
        table.add_column(name, justify="right")
    table.add_column("configuration")
    for trial in study.pareto_front:
        run = trial.run
        score, *others = trial.values
        values = [f"{score:.3f}", *(f"{value:.3g}" for value in others)]
        table.add_row(str(trial.number), *values, run.model.label() if run else "")
    return table


UNITS = {
    "seconds_per_update": "s per update",
    "peak_memory": "peak memory (MiB)",
    "share_kept": "share of memories kept",
}
"""Labels of objectives, with their units."""


def _ladder(results: Sequence[LengthResult], run: RunConfig) -> Table:
    task = run.task.build()
    share = ("kept",) if run.share_kept() is not None else ()
    table = Table(title="Accuracy by length", title_justify="left")
    phases = ("in phase", "worst phase") if any(map(depends_on_phase, results)) else ()
    for name in ("length", "× training", "accuracy", *phases, *share, f"loss ({task.loss_unit})"):
        table.add_column(name, justify="right")
    for result in results:
        of_phases = (_share(result.in_phase), _share(result.worst_phase))
        table.add_row(
            f"{result.length:,}",
            f"{result.length / results[0].length:g}",
            f"{result.accuracy:.1%}",
            *of_phases[: len(phases)],
            *[_share(run.share_kept(result.length))] * len(share),
            f"{result.loss:.4f}",
        )
    table.add_section()
    table.add_row("chance", "", f"{task.chance:.1%}", *[""] * len(phases + share), "")
    return table


def depends_on_phase(result: LengthResult) -> bool:
    """Return whether the accuracy was measured in several phases and differs between them."""
    return bool(result.by_phase) and result.worst_phase not in (None, result.accuracy)


def _share(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{accuracy:.1%}"


def _solved(results: Sequence[LengthResult], task: Task) -> str:
    length, threshold = solve_length(results, task.solved), f"{task.solved:.0%}"
    words = (
        f"Solved ({threshold}) up to {length:,}" if length else f"No length is solved ({threshold})"
    )
    in_phase = solve_length(results, task.solved, in_phase=True)
    if in_phase != length:
        words += f" in every phase, up to {in_phase:,} in phase with the training length"
    return words


def _reading(best: TrialRecord, seeds: int) -> Iterator[str]:
    assert best.run is not None
    task, counts = best.run.task.build(), sorted({result.sequences for result in best.test})
    fewer = f"{counts[0]:,} to " if len(counts) > 1 else ""
    yield (
        f"{fewer}{counts[-1]:,} fresh sequences per length, none of which chose this trial. "
        f"{_solved(best.test, task)}; "
        f"length score {length_score(best.test, task):.3f}."
    )
    phases = max(len(result.by_phase) for result in best.test)
    if best.run.share_kept() is not None:
        yield "Kept: the share of memories that a step recalls at the end of a sequence."
    if any(map(depends_on_phase, best.test)):
        yield (
            f"Length L is measured over lengths L to L + {phases - 1}. In phase: the lengths that "
            f"differ from the training length by a multiple of k_att={best.run.model.period}."
        )
    if seeds == 1:
        yield "This is one trained model: another seed of the configuration may do better or worse."
    else:
        yield f"This is the best of {seeds} seeds; `sabtune confirm` measures fresh seeds."
