"""The view of a study's experiment in MLflow: a sorted table, and charts of all trials.

MLflow saves a view as a tag of the experiment, and opens it if the address of the experiment names
it. The format of a view is internal to MLflow. This module and its test in a browser are of version
3.17.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sabtune.schema import CODE
from sabtune.study.events import Overview
from sabtune.tracking.runs import RunView
from sabtune.tracking.search_run import SECTION as SEARCH
from sabtune.tracking.trial_run import (
    ACCURACY,
    FORMER_PREFIX,
    LABEL,
    LENGTH_SCORE,
    NUMBER,
    SCHEDULE_END,
    SELECTION,
    SHARE_KEPT,
    STATE,
    TEST,
    at_length,
)

KEY = "sabtune"
"""The name of the view in addresses."""

TAG = f"mlflow.sharedViewState.{KEY}"

BROWSER_DEFAULTS = {
    "mlflow.workflowType_v1": json.dumps("machine_learning"),
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": json.dumps(True),
}
"""Entries in the local storage of a new browser. The pages are for model training rather than for
language models, and the assistant, which needs to write, stays closed."""

COMPRESSED = "deflate;"
"""The start of a compressed state."""

SPARSITY = ("model.kind", "model.k_top", "model.k_att", "model.k_trunc", "model.schedule.kind")
"""The params that come first, in this order. All but the kind are shown even if they are equal."""

SEED = "seed"

MAX_PARAMS = 10
"""Maximum number of params in the table and in the parallel coordinates."""

MAX_RUNS = 1000
"""Maximum number of runs in a chart. MLflow's own limit is the number of runs in the table."""

LENGTHS, PARAMETERS, LEARNING = "Length generalization", "Parameters", "Learning curves"
"""The sections of the charts."""

FIGURES = "figures"
"""The folder of a trial's figures among the files of its run."""

GENERATED = (TEST, SELECTION, SEARCH, "Model metrics", "System metrics")
"""The sections of the charts that MLflow adds, one for each other metric. They are collapsed."""

PADDING_PIXELS, CHARACTER_PIXELS = 30, 7
"""The width of a column without its name, and of a character of its name."""

LABEL_PIXELS = 220
"""The width of the column of labels."""

ATTRIBUTE_PIXELS = {"attributes.`Run Name`": 160, "runDateAndNestInfo": 130}
"""The widths of the columns that every table has, narrower than MLflow's."""


def path(experiment: str) -> str:
    """Return the part of the view's address that follows the address of the server."""
    return f"/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={KEY}"


def artifact_path(experiment: str, run: str, file: str) -> str:
    """Return the address of a file of a run, relative to that of the server."""
    return f"#/experiments/{experiment}/runs/{run}/artifacts/{file}"


def image(run: str, name: str) -> str:
    """Return Markdown that shows a figure of a run in its description."""
    return f"![{name}](get-artifact?path={FIGURES}/{name}&run_uuid={run})"


def state(trials: Sequence[RunView], overview: Overview) -> dict[str, Any]:
    """Return the state of the view: the columns and order of the table, and the charts.

    trials: The runs of the trials, in the order of their numbers.
    """
    longest = _accuracy_at_longest(overview)
    params = _params(trials)
    names = [("tags", LABEL)] * any(LABEL in run.tags for run in trials)
    names += [("metrics", key) for key in (LENGTH_SCORE, longest) if key]
    names += [("metrics", SHARE_KEPT)] * _keeps_memories(trials)
    names += [("params", key) for key in params if key in SPARSITY]
    names += [("tags", STATE)]
    names += [("params", key) for key in params if key not in SPARSITY]
    columns = {f"{kind}.`{name}`": name for kind, name in names}
    sections = [
        {"uuid": name, "name": name, "display": True, "columns": count}
        for name, count in ((LENGTHS, 2), (PARAMETERS, 1), (LEARNING, 3))
    ]
    sections += [{"uuid": name, "name": name, "display": False} for name in GENERATED]
    return {
        "searchFilter": f"tags.`{NUMBER}` != ''",
        "orderByKey": f"metrics.`{LENGTH_SCORE}`",
        "orderByAsc": False,
        "selectedColumns": list(columns),
        "columnOrder": [*ATTRIBUTE_PIXELS, *columns],
        "columnWidths": ATTRIBUTE_PIXELS
        | {column: _pixels(name) for column, name in columns.items()},
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,
        "compareRunCharts": list(_charts(trials, params, longest)),
        "compareRunSections": sections,
    }


def _pixels(name: str) -> int:
    """Return the width of a column."""
    return LABEL_PIXELS if name == LABEL else PADDING_PIXELS + CHARACTER_PIXELS * len(name)


def envelope(state: Mapping[str, Any], when: int) -> str:
    """Return the value of the tag `TAG`. when: The time in ms since 1970."""
    text = json.dumps(state, separators=(",", ":")).encode()
    compressed = COMPRESSED + base64.b64encode(zlib.compress(text, 9)).decode()
    return json.dumps({"name": KEY, "createdAt": when, "updatedAt": when, "state": compressed})


def saved_state(tags: Mapping[str, str]) -> Any:
    """Return the state that an experiment with these tags has saved, or None."""
    try:
        text = json.loads(tags[TAG])["state"]
        return json.loads(zlib.decompress(base64.b64decode(text.removeprefix(COMPRESSED))))
    except (AttributeError, KeyError, TypeError, ValueError, zlib.error):
        return None


def _accuracy_at_longest(overview: Overview) -> str | None:
    """Return the metric of the accuracy at the longest length, or None if it isn't known."""
    ladder = overview.ladder or (overview.best.spec.ladder if overview.best else None)
    if ladder is None:
        return None
    longest = max(ladder.lengths)
    return at_length(ACCURACY, longest, longest)


def _params(trials: Sequence[RunView]) -> list[str]:
    """Return the params of the sparsity, and those in which the trials differ.

    The seed is included only if nothing else differs.
    """
    names = {name for run in trials for name in run.params}
    names = {name for name in names if not name.startswith(FORMER_PREFIX)}
    differing = _differing(trials, names)
    first = [name for name in SPARSITY[:1] if name in differing]
    first += [name for name in SPARSITY[1:] if name in names]
    rest = sorted(differing - {*first, SEED}, key=lambda name: (name.count("."), name))
    return (first + rest + [SEED] * (differing == {SEED}))[:MAX_PARAMS]


def _keeps_memories(trials: Sequence[RunView]) -> bool:
    """Return whether a model with memories is among the trials that have ended."""
    return any(SHARE_KEPT in run.metrics for run in trials)


def _differing(trials: Sequence[RunView], names: Iterable[str]) -> set[str]:
    """Return the params that have different values in two trials, without the digests of code."""
    values = {name: {run.params[name] for run in trials if name in run.params} for name in names}
    return {name for name in names if len(values[name]) > 1 and not name.endswith(f".{CODE}")}


def _charts(
    trials: Sequence[RunView], params: Sequence[str], longest: str | None
) -> Iterator[dict[str, Any]]:
    """Yield the charts. longest: The metric of the accuracy at the longest length."""
    keeping = _keeps_memories(trials)
    yield _line(
        "Accuracy by length",
        LENGTHS,
        [ACCURACY],
        xAxisScaleType="log",
        range={"yMin": 0, "yMax": 1.02},
    )
    if longest is not None and keeping:
        yield _chart(
            "SCATTER",
            "Accuracy at the longest length by share kept",
            LENGTHS,
            xaxis={"key": SHARE_KEPT, "type": "METRIC"},
            yaxis={"key": longest, "type": "METRIC"},
        )
    if longest is not None:
        measured = [run for run in trials if longest in run.metrics]
        differing = _differing(measured, params)
        shown = [name for name in params if name in differing or not differing]
        shown = [name for name in shown if all(name in run.params for run in measured)]
        all_keep = keeping and all(SHARE_KEPT in run.metrics for run in measured)
        yield _chart(
            "PARALLEL",
            "Parallel coordinates",
            PARAMETERS,
            selectedParams=shown,
            selectedMetrics=[SHARE_KEPT] * all_keep + [longest],
            showAllRuns=True,
        )
    yield _line("Score, with a dot at the end of the schedule", LEARNING, ["score", SCHEDULE_END])
    yield _line("k_top", LEARNING, ["k_top"])
    yield _line("Training loss", LEARNING, ["loss"], scaleType="log")


def _line(title: str, section: str, metrics: list[str], **settings: Any) -> dict[str, Any]:
    """Return a chart of metrics by step. MLflow always marks a metric that has a single point."""
    own: dict[str, Any] = {
        "metricKey": metrics[0],
        "xAxisKey": "step",
        "useGlobalXaxisKey": False,
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": False,
        "displayPoints": section == LENGTHS,
    }
    if len(metrics) > 1:  # otherwise, MLflow would show the metric's name as the title
        own["selectedMetricKeys"] = metrics
    return _chart("LINE", title, section, **own, **settings)


def _chart(kind: str, title: str, section: str, **settings: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"{KEY}: {title}",
        "displayName": title,
        "metricSectionId": section,
        "runsCountToCompare": MAX_RUNS,
        "deleted": False,
        "isGenerated": False,
        **settings,
    }
