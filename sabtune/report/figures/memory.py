"""What the best model recalls: of one sequence step by step, and from how far back."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sabtune.checkpoint import load_model
from sabtune.diagnostics import RecallMap, recall_map
from sabtune.errors import CheckpointError
from sabtune.models import SAB
from sabtune.report.figures.marks import (
    BLUE,
    GREY,
    ORANGE,
    VERMILION,
    Axis,
    Bars,
    Figure,
    Heat,
    Line,
    Mark,
    Panel,
    Points,
    Scale,
)
from sabtune.report.material import Material
from sabtune.seeding import Stream, generator
from sabtune.tasks import Batch

CELLS = 250
"""Of the recall map along either side; more steps than that are taken together."""

BINS = 60
"""Of the histogram."""

SEQUENCES = 16
"""That the histogram is over."""


def memory(material: Material) -> list[Figure]:
    """The recall map and the histogram; nothing of a model without a sparse memory, or gone."""
    directory = material.best.checkpoint
    try:
        model = load_model(directory) if directory else None
    except CheckpointError:
        return []
    if not isinstance(model, SAB):
        return []
    assert material.best.assignment is not None
    length = material.run.task.length
    source = generator(material.best.assignment.evaluation_seed, Stream.TEST, index=length)
    batch = material.task.batch(SEQUENCES, length, source)
    found = recall_map(model, batch.x)
    return [_map(material, batch, found), _distances(material, batch, found)]


def _map(material: Material, batch: Batch, found: RecallMap) -> Figure:
    weights, made_at = found.weights[0, :, 1:], found.made_at[1:]
    T, M = weights.shape
    rows, columns = math.ceil(T / CELLS), math.ceil(M / CELLS)
    cells = _largest(weights, rows, columns).numpy().astype(float)
    cells[cells == 0] = np.nan
    k_att = int(made_at[0]) if M else 1
    x = [0.5 + k_att * columns * i for i in range(cells.shape[1] + 1)]
    y = [0.5 + rows * i for i in range(cells.shape[0] + 1)]
    marks: list[Mark] = [Heat(x=x, y=y, z=cells)]
    truth = material.task.sources(batch.x[0])
    said = "."
    if truth is not None:
        at, of = truth.T.tolist()
        names = [f"step {t} is to recall step {i}" for t, i in zip(at, of, strict=True)]
        marks.append(
            Points(x=of, y=at, names=names, label="what is to be recalled", colour=VERMILION,
                   filled=False, size=7)
        )  # fmt: skip
        said = ", and circles where the truth lies: a cell that holds one recalls the first state kept since."
    joined = f" A cell is the largest of {rows} × {columns}." if rows * columns > 1 else ""
    kept = f" Every state stands for its {k_att} steps." if k_att > 1 else ""
    return Figure(
        name="recall",
        title=f"What the best model recalls, #{material.best.number}",
        caption=f"The weight by which each step of one test sequence of length "
        f"{material.run.task.length:,} (T = {T:,} steps) recalls each state kept before it{said}{kept}{joined}",
        panels=[
            Panel(
                x=Axis(label="remembered at step", low=0.5, high=T + 0.5),
                y=Axis(label="recalled at step", low=0.5, high=T + 0.5, reverse=True),
                marks=marks,
            )
        ],
        scale=Scale(label="weight p", low=0.0, high=max(1.0, float(weights.max()) if M else 1.0)),
        height=3.6,
    )


def _largest(weights: Tensor, rows: int, columns: int) -> Tensor:
    """The largest of each rows × columns."""
    whole = weights[None, None]
    pool = torch.nn.functional.max_pool2d(whole, (rows, columns), ceil_mode=True)
    return pool[0, 0]


def _distances(material: Material, batch: Batch, found: RecallMap) -> Figure:
    T = batch.x.shape[1]
    width = math.ceil(T / BINS)
    scored = RecallMap(found.weights * batch.scored[None, :, None], found.made_at)
    marks: list[Mark] = []
    at = [width * (i + 0.5) + 0.5 for i in range(math.ceil((T - 1) / width))]
    for label, recalled, colour in (
        ("all steps", found, GREY),
        ("the steps that are scored", scored, BLUE),
    ):
        shares = _shares(recalled.distances(), width)
        marks.append(Bars(at=at, heights=shares, width=width, label=label, colour=colour))
    truth = _true_distances(material, batch)
    if truth is not None:
        shares = _shares(torch.bincount(truth, minlength=T)[:T].float(), width)
        marks.append(
            Line(
                x=at,
                y=shares,
                label="what is to be recalled",
                colour=VERMILION,
                symbol="circle",
                width=1.0,
            )
        )
    return Figure(
        name="distances",
        title="How far back the best model recalls",
        caption=f"The share of the recalled weight by how many steps back it lies, in bins of "
        f"{width}, over {len(batch.x)} test sequences of length {material.run.task.length:,} "
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
    padded = torch.nn.functional.pad(far, (0, -len(far) % width))
    binned = padded.reshape(-1, width).sum(dim=1)
    return (100 * binned / binned.sum().clamp_min(1e-12)).tolist()


def _true_distances(material: Material, batch: Batch) -> Tensor | None:
    pairs = [material.task.sources(x) for x in batch.x]
    known = [pair[:, 0] - pair[:, 1] for pair in pairs if pair is not None]
    return torch.cat(known) if known else None
