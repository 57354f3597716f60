"""What the best model recalls: step by step in one sequence, and from how far back."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from sabtune.errors import CheckpointError, StoreError
from sabtune.models import SAB
from sabtune.reporting.data import ReportData
from sabtune.reporting.figures.marks import (
    Axis,
    Bars,
    Figure,
    Heat,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    Scale,
)
from sabtune.reporting.figures.palette import BLACK, BLUE, GRAY, VERMILION, WHITE
from sabtune.seeding import Stream, generator
from sabtune.study.trial_record import TrialRecord
from sabtune.tasks import Batch, Task
from sabtune.training.checkpoint import MODEL_FILES, load_model
from sabtune.training.diagnostics import RecallMap, recall_map

MAX_CELLS = 250
"""Maximum number of cells per side of a recall map. In a larger map, several steps share a cell."""

MAX_BINS = 60
"""Maximum number of bins of the histogram."""

MAX_LENGTH = 5_000
"""Maximum length for which the recall map of the scored steps is drawn."""

HISTOGRAM_SEQUENCES = 16
"""Number of sequences of the histogram."""


def memory(data: ReportData) -> list[Figure]:
    """Return the recall maps and the histogram of distances.

    Returns [] if the best model is not a SAB model, can't be loaded, or stores no state within the
    training length.
    """
    model, length = _model(data.best), data.run.task.length
    if model is None:
        return []
    batch, recall = _recalled(data.best, model, length, HISTOGRAM_SEQUENCES)
    if len(recall.made_at) == 1:  # only m_0, the zero vector
        return []
    title = f"What the best model recalls, #{data.best.number}"
    figures = [_map(data.task, title, batch, recall), _distances(data, batch, recall)]
    longest = max(
        (result.length for result in data.best.test if result.length <= MAX_LENGTH), default=length
    )
    if longest > length:
        far = _recalled(data.best, model, longest, 1)
        figures.insert(1, _scored_map(data, longest, *far))
    return figures


def recall_figure(trial: TrialRecord) -> Figure | None:
    """Return the recall map of a complete trial at the training length.

    Returns None in the cases in which `memory` returns [].
    """
    model = _model(trial)
    if model is None or trial.run is None:
        return None
    batch, recall = _recalled(trial, model, trial.run.task.length, 1)
    if len(recall.made_at) == 1:
        return None
    title = f"What #{trial.number} recalls, {trial.run.model.label()}"
    return _map(trial.run.task.build(), title, batch, recall)


def _model(trial: TrialRecord) -> SAB | None:
    """Return the model of a trial, or None if it is not a SAB model or can't be loaded."""
    checkpoint = trial.checkpoint
    if checkpoint is None or trial.run is None or not isinstance(trial.run.model, SAB.Config):
        return None
    try:
        with checkpoint.here(MODEL_FILES) as directory:
            model = load_model(directory, trial.run)
    except (CheckpointError, StoreError):
        return None
    return model if isinstance(model, SAB) else None


def _recalled(
    trial: TrialRecord, model: SAB, length: int, sequences: int
) -> tuple[Batch, RecallMap]:
    """Return test sequences and what the model of a trial recalls in them."""
    assert trial.spec is not None
    random = generator(trial.spec.evaluation_seed, Stream.TEST, index=length)
    task = trial.spec.run.task.build()
    batch = task.batches(length, Stream.TEST, random).batch(sequences)
    return batch, recall_map(model, batch.x)


def _map(task: Task, title: str, batch: Batch, recall: RecallMap) -> Figure:
    """Return the recall map of all steps of one sequence."""
    weights, k_att = recall.weights[0, :, 1:], int(recall.made_at[1])
    T, M = weights.shape
    rows, columns = math.ceil(T / MAX_CELLS), math.ceil(M / MAX_CELLS)
    pooled = max_pool2d(weights[None, None], (rows, columns), ceil_mode=True)[0, 0]
    cells = pooled.numpy().astype(float)
    cells[cells == 0] = np.nan
    marks: list[Mark] = [
        Heat(
            x=[0.5 + k_att * columns * i for i in range(cells.shape[1] + 1)],
            y=[0.5 + rows * i for i in range(cells.shape[0] + 1)],
            z=cells,
        )
    ]
    caption = (
        f"The weight by which each step of one test sequence (length {task.length:,}, "
        f"T = {T:,} steps) recalls each earlier stored state. Blank: not recalled."
    )
    if k_att > 1:
        caption += f" One state in {k_att} is stored, and drawn over the {k_att} steps up to it."
    if rows * columns > 1:
        caption += f" A cell shows the maximum over {rows} steps × {columns} states."
    truth = task.sources(batch.x[0])
    if truth is not None:
        marks += _circles(truth)
        caption += " Circles: the step that contains what a step must recall."
    return Figure(
        name="recall",
        title=title,
        caption=caption,
        panels=[
            Panel(
                x=Axis(label="remembered at step", low=0.5, high=T + 0.5),
                y=Axis(label="recalled at step", low=0.5, high=T + 0.5, reverse=True),
                marks=marks,
            )
        ],
        scale=Scale(label="weight p", low=0.0, high=max(1.0, float(weights.max()))),
        height=3.6,
    )


def _scored_map(data: ReportData, length: int, batch: Batch, recall: RecallMap) -> Figure:
    """Return the recall map of the scored steps, which are few in a long sequence."""
    steps = batch.scored_by_row[0]
    scored = 1 + steps.nonzero().flatten()
    weights, k_att = recall.weights[0, steps, 1:], int(recall.made_at[1])
    T, (S, M) = batch.x.shape[1], weights.shape
    edges = np.unique(np.geomspace(1, M + 1, MAX_CELLS + 1).round().astype(int))
    cells = np.maximum.reduceat(weights.numpy().astype(float), edges[:-1] - 1, axis=1)
    cells[cells == 0] = np.nan
    ticks = [(10**power, f"{10**power:,}") for power in range(1 + int(math.log10(T)))]
    marks: list[Mark] = [
        Heat(
            x=[0.5 + k_att * (edge - 1) for edge in edges.tolist()],
            y=[0.5 + row for row in range(S + 1)],
            z=cells,
        )
    ]
    caption = (
        f"The weight by which the {S:,} scored steps of one test sequence (length {length:,}, T = "
        f"{T:,} steps) recall each earlier stored state. Blank: not recalled. Cells get wider "
        "with the step, and show the maximum over their states."
    )
    truth = data.task.sources(batch.x[0])
    if truth is not None:
        rows = 1 + torch.searchsorted(scored, truth[:, 0].contiguous())
        marks += _circles(truth, rows.tolist())
        caption += " Circles: the step that contains what a step must recall."
    return Figure(
        name="recall-far",
        title=f"What it recalls at length {length:,}, #{data.best.number}",
        caption=caption,
        panels=[
            Panel(
                x=Axis(label="remembered at step", log=True, low=0.5, high=T + 0.5, ticks=ticks),
                y=Axis(label="scored step, in order", low=0.5, high=S + 0.5, reverse=True),
                marks=marks,
            )
        ],
        scale=Scale(label="weight p", low=0.0, high=max(1.0, float(weights.max()))),
        height=2.6,
    )


def _circles(truth: Tensor, rows: list[int] | None = None) -> list[Mark]:
    """Return circles at the steps to recall, in black on white to be visible on every color.

    truth: Pairs (N, 2) of the step that recalls and the step to recall.

    rows: The row of each pair; by default the step that recalls.
    """
    steps, sources = truth.T.tolist()
    names = [f"step {t} must recall step {i}" for t, i in zip(steps, sources, strict=True)]
    styles = (("", WHITE, 3.0), ("what is to be recalled", BLACK, 1.2))
    return [
        Points(
            x=sources,
            y=rows or steps,
            names=names,
            label=label,
            color=color,
            filled=False,
            size=6,
            width=edge,
        )
        for label, color, edge in styles
    ]


def _distances(data: ReportData, batch: Batch, recall: RecallMap) -> Figure:
    """Return the histogram of recall distances."""
    T = batch.x.shape[1]
    width = math.ceil(T / MAX_BINS)
    scored = RecallMap(recall.weights * batch.scored_by_row[:, :, None], recall.made_at)
    marks: list[Mark] = [
        Bars(
            at=[width * (i + 0.5) + 0.5 for i in range(math.ceil((T - 1) / width))],
            heights=_shares(weights.distances(), width),
            width=width * share,
            label=label,
            color=color,
        )
        for label, weights, color, share in (
            ("recalled, by all steps", recall, GRAY, 0.95),
            ("recalled, by the steps that are scored", scored, BLUE, 0.5),
        )
    ]
    truths = _true_distances(data, batch)
    if len(truths) == 1:
        marks.append(Rule(x=truths[0], label=f"what is to be recalled, {truths[0]:,} steps back",
                          color=VERMILION))  # fmt: skip
    elif truths:
        shares = _shares(torch.bincount(torch.tensor(truths), minlength=T)[:T].float(), width)
        marks.append(
            Line(x=marks[0].at, y=shares, label="what is to be recalled", color=VERMILION)  # type: ignore[union-attr]
        )
    return Figure(
        name="distances",
        title=f"How far back the best model recalls, #{data.best.number}",
        caption=f"The share of the recalled weight by the distance in steps, in bins of "
        f"{width}, over {len(batch.x)} test sequences of length {data.run.task.length:,} "
        f"(T = {T:,} steps).",
        panels=[
            Panel(
                x=Axis(label="distance (steps back)", low=0, high=T),
                y=Axis(label="share of the weight (%)", low=0),
                marks=marks,
            )
        ],
    )


def _shares(by_distance: Tensor, width: int) -> list[float]:
    """Return the share in % of each bin of `width` distances, from distance 1 on."""
    weights = by_distance[1:]
    binned = pad(weights, (0, -len(weights) % width)).reshape(-1, width).sum(dim=1)
    shares: list[float] = (100 * binned / binned.sum().clamp_min(1e-12)).tolist()
    return shares


def _true_distances(data: ReportData, batch: Batch) -> list[int]:
    """Return the distances to the steps to recall, or a single one if all are equal."""
    pairs = [data.task.sources(x) for x in batch.x]
    distances = [int(t - i) for pair in pairs if pair is not None for t, i in pair.tolist()]
    return distances[:1] if len(set(distances)) == 1 else distances
