"""The content of the search's run in MLflow: a description in Markdown, tags and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlflow.entities import Metric

from sabtune.config import PARTS
from sabtune.escaping import markdown
from sabtune.schema import KIND, to_dict
from sabtune.study.events import Overview, TrialView
from sabtune.tracking.trial_run import (
    LENGTH_SCORE,
    SOLVE_LENGTH,
    by_length,
    length_by_length,
    summary,
)
from sabtune.wording import counted

DESCRIPTION_CHARACTERS = 5000
"""Maximum length of the description, which is MLflow's limit for an experiment."""

RULE = "---"
"""A rule in Markdown. MLflow shows no space between a table and the text below it."""

SECTION = "search"
"""The section of the metrics of a search."""

CURVE = f"{SECTION}/best_accuracy"

BEST = "sabtune.best"
CHAMPION = "sabtune.champion"


def points(overview: Overview, when: int) -> list[Metric]:
    """Return the metrics of a search so far. Their step is the number of trials that have ended."""
    ended = sum(overview.trials.values()) - overview.trials.get("unfinished", 0)
    values: dict[str, float] = {f"trials_{state}": n for state, n in overview.trials.items()}
    values["trial_hours"] = overview.hours
    length_metrics: list[Metric] = []
    best = overview.best
    if best is not None and best.outcome is not None:
        if best.outcome.score is not None:
            values["best_score"] = best.outcome.score
        test, longest = best.outcome.test, best.spec.ladder.lengths[-1]
        if test:
            values |= {f"best_{k}": v for k, v in summary(test, best.spec).items()}
        length_metrics += length_by_length(CURVE, test, longest, when, ended)
    metrics = [Metric(f"{SECTION}/{key}", value, when, ended) for key, value in values.items()]
    return metrics + length_metrics


def curve(overview: Overview, logged: Mapping[tuple[str, int], float], when: int) -> list[Metric]:
    """Return the best trial's accuracy by length, as a metric whose step is the length.

    MLflow draws all points that a metric ever had, so log this only at the end of a search. If an
    earlier search logged another trial's curve, the name of the metric gets the trial's number.

    logged: The points in MLflow, by metric and step.
    """
    best = overview.best
    if best is None or best.outcome is None:
        return []
    points = {result.length: result.accuracy for result in best.outcome.test}
    earlier = {step: value for (key, step), value in logged.items() if key == CURVE}
    key = CURVE if earlier.items() <= points.items() else f"{CURVE}_trial_{best.spec.number}"
    return by_length(key, best.outcome.test, when)


def tags(overview: Overview) -> dict[str, str]:
    """Return the tags of the search's run: the best trial and the champion."""
    values = {}
    if overview.best is not None:
        values[BEST] = str(overview.best.spec.number)
    if overview.champion is not None:
        values[CHAMPION] = overview.champion.words
    return values


def description(overview: Overview) -> str:
    """Return the description of the search's run in Markdown, which begins with the conclusion."""
    conclusion = [overview.conclusion, "", RULE, ""] if overview.conclusion else []
    parts = [*conclusion, *_setup(overview), *_results(overview), *_space(overview)]
    text = "\n".join(parts).strip()
    return text if len(text) <= DESCRIPTION_CHARACTERS else text[: DESCRIPTION_CHARACTERS - 1] + "…"


def _setup(overview: Overview) -> Iterator[str]:
    if overview.question:
        yield from (overview.question, "")
    if overview.task is not None:
        yield f"**Task:** {_task(overview)}"
        yield ""
    if overview.ladder is not None:
        lengths, select = overview.ladder.lengths, overview.ladder.select
        phases = overview.ladder.phase_count
        over = f" over it and the next {counted(phases - 1, 'length')}" if phases > 1 else ""
        yield (
            f"**Ladder:** {_listed(lengths)}, "
            f"{counted(overview.ladder.sequences, 'sequence')} a length{over}; "
            f"selection lengths {_listed(select)}"
        )
        yield ""
    if overview.budget:
        yield f"**Budget:** {'; '.join(overview.budget)}"
        yield ""


def _task(overview: Overview) -> str:
    assert overview.task is not None
    values: Mapping[str, Any] = to_dict(overview.task, PARTS)
    options = {key: value for key, value in values.items() if key != KIND and value is not None}
    listed = ", ".join(f"{key} {value}" for key, value in options.items())
    return f"{values[KIND]}, {listed}; chance {overview.task.build().chance:.1%}"


def _space(overview: Overview) -> Iterator[str]:
    if overview.space:
        yield "**Space:**"
        yield ""
        yield from _table(("parameter", "drawn from"), list(overview.space.items()))
        yield ""


def _results(overview: Overview) -> Iterator[str]:
    if not any(overview.trials.values()):
        return
    counts = [f"{n} {state}" for state, n in overview.trials.items() if n]
    yield f"**Trials:** {', '.join(counts)}; {overview.hours:.2g} trial hours"
    yield ""
    if overview.stopped:
        yield from (f"**Ended by:** {overview.stopped}", "")
    if overview.best is not None:
        yield from (_best(overview.best), "")
    if overview.champion is not None:
        yield from (f"**Champion:** {overview.champion.words}", "")


def _best(best: TrialView) -> str:
    label = best.spec.run.model.label()
    words = f"**Best, by its score on the selection lengths:** #{best.spec.number} {label}"
    outcome = best.outcome
    if outcome is None or not outcome.test:
        return words
    values, solved = summary(outcome.test, best.spec), best.spec.run.task.build().solved
    accuracies = ", ".join(f"{r.accuracy:.1%} at {r.length:,}" for r in outcome.test)
    return (
        f"{words}; on fresh sequences {accuracies}; length score {values[LENGTH_SCORE]:.3f}; "
        f"solved ({solved:.0%}) up to length {values[SOLVE_LENGTH]:,.0f}"
    )


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> Iterator[str]:
    for left, right in (head, ("---", "---"), *rows):
        yield f"| {markdown(left)} | {markdown(right)} |"


def _listed(lengths: tuple[int, ...]) -> str:
    return ", ".join(f"{length:,}" for length in lengths)
