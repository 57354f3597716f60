"""What the best model recalls: of one sequence step by step, and from how far back."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from sabtune.errors import CheckpointError, StoreError
from sabtune.models import SAB
from sabtune.report.data import ReportData
from sabtune.report.figures.marks import (
    BLACK,
    BLUE,
    GREY,
    VERMILION,
    WHITE,
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
from sabtune.seeding import Stream, generator
from sabtune.tasks import Batch
from sabtune.training.checkpoint import MODEL_FILES, load_model
from sabtune.training.diagnostics import RecallMap, recall_map

CELLS = 250
"""Of the recall map along either side; more steps than that are taken together."""

BINS = 60
"""Of the histogram."""

FAR = 5_000
"""The longest length of which a recall map is drawn."""

SEQUENCES = 16
"""That the histogram is over."""


def memory(data: ReportData) -> list[Figure]:
    """The recall map and the histogram; nothing of a model that keeps no states, or is gone."""
    checkpoint = data.best.checkpoint
    if checkpoint is None:
        return []
    try:
        with checkpoint.here(MODEL_FILES) as here:
            model = load_model(here, data.run)
    except (CheckpointError, StoreError):
        return []
    length, spec = data.run.task.length, data.best.spec
    if not isinstance(model, SAB) or spec is None:
        return []

    def drawn(length: int, sequences: int) -> tuple[Batch, RecallMap]:
        source = generator(spec.evaluation_seed, Stream.TEST, index=length)
        batch = data.task.batches(length, Stream.TEST, source).batch(sequences)
        return batch, recall_map(model, batch.x)

    batch, found = drawn(length, SEQUENCES)
    if len(found.made_at) == 1:  # m_0 alone
        return []
    figures = [_map(data, batch, found), _distances(data, batch, found)]
    far = max((result.length for result in data.best.test if result.length <= FAR), default=length)
    if far > length:
        figures.insert(1, _far(data, far, *drawn(far, 1)))
    return figures


def _map(data: ReportData, batch: Batch, found: RecallMap) -> Figure:
    weights, k_att = found.weights[0, :, 1:], int(found.made_at[1])
    T, M = weights.shape
    rows, columns = math.ceil(T / CELLS), math.ceil(M / CELLS)
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
        f"The weight by which each step of one test sequence (length {data.run.task.length:,}, "
        f"T = {T:,} steps) recalls each state kept before it; white is not recalled."
    )
    if k_att > 1:
        caption += f" One state in {k_att} is kept, and drawn over the {k_att} steps that it ends."
    if rows * columns > 1:
        caption += f" A cell is the largest of {rows} steps × {columns} states."
    truth = data.task.sources(batch.x[0])
    if truth is not None:
        marks += _circles(truth)
        caption += " Circles are where what a step is to recall was shown."
    return Figure(
        name="recall",
        title=f"What the best model recalls, #{data.best.number}",
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


def _far(data: ReportData, length: int, batch: Batch, found: RecallMap) -> Figure:
    """The scored steps alone, one below the other: at such a length the others hide them."""
    scored = 1 + batch.scored.nonzero().flatten()
    weights, k_att = found.weights[0, batch.scored, 1:], int(found.made_at[1])
    T, (S, M) = batch.x.shape[1], weights.shape
    edges = np.unique(np.geomspace(1, M + 1, CELLS + 1).round().astype(int))
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
        f"{T:,} steps) recall each state kept before them; white is not recalled. Cells are wider "
        "the later, and show the largest of their states."
    )
    truth = data.task.sources(batch.x[0])
    if truth is not None:
        rows = 1 + torch.searchsorted(scored, truth[:, 0].contiguous())
        marks += _circles(truth, rows.tolist())
        caption += " Circles are where what a step is to recall was shown."
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
    """Black on white, to be seen on every colour; at the step that recalls, or in its row."""
    at, of = truth.T.tolist()
    names = [f"step {t} is to recall step {i}" for t, i in zip(at, of, strict=True)]
    looks = (("", WHITE, 3.0), ("what is to be recalled", BLACK, 1.2))
    return [
        Points(
            x=of,
            y=rows or at,
            names=names,
            label=label,
            colour=colour,
            filled=False,
            size=6,
            width=edge,
        )
        for label, colour, edge in looks
    ]


def _distances(data: ReportData, batch: Batch, found: RecallMap) -> Figure:
    T = batch.x.shape[1]
    width = math.ceil(T / BINS)
    scored = RecallMap(found.weights * batch.scored[None, :, None], found.made_at)
    marks: list[Mark] = [
        Bars(
            at=[width * (i + 0.5) + 0.5 for i in range(math.ceil((T - 1) / width))],
            heights=_shares(recalled.distances(), width),
            width=width * share,
            label=label,
            colour=colour,
        )
        for label, recalled, colour, share in (
            ("recalled, by all steps", found, GREY, 0.95),
            ("recalled, by the steps that are scored", scored, BLUE, 0.5),
        )
    ]
    truths = _true_distances(data, batch)
    if len(truths) == 1:
        marks.append(Rule(x=truths[0], label=f"what is to be recalled, {truths[0]:,} steps back",
                          colour=VERMILION))  # fmt: skip
    elif truths:
        shares = _shares(torch.bincount(torch.tensor(truths), minlength=T)[:T].float(), width)
        marks.append(
            Line(x=marks[0].at, y=shares, label="what is to be recalled", colour=VERMILION)  # type: ignore[union-attr]
        )
    return Figure(
        name="distances",
        title=f"How far back the best model recalls, #{data.best.number}",
        caption=f"The share of the recalled weight by how many steps back it lies, in bins of "
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
    """In %, of each bin of distances from 1 on."""
    far = by_distance[1:]
    binned = pad(far, (0, -len(far) % width)).reshape(-1, width).sum(dim=1)
    shares: list[float] = (100 * binned / binned.sum().clamp_min(1e-12)).tolist()
    return shares


def _true_distances(data: ReportData, batch: Batch) -> list[int]:
    """How far back what is to be recalled lies; a single number where it is always the same."""
    pairs = [data.task.sources(x) for x in batch.x]
    found = [int(t - i) for pair in pairs if pair is not None for t, i in pair.tolist()]
    return found[:1] if len(set(found)) == 1 else found
