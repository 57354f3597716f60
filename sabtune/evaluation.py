"""The length ladder: how a model does on sequences longer than those it was trained on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import torch

from sabtune.models import Model
from sabtune.schema import Config, check, check_whole
from sabtune.seeding import Stream, generator
from sabtune.tasks import Tally, Task

BATCH_STEPS = 65_536
"""Most sequence steps, batch × T, held at once: it bounds a memory that grows with T."""

WINDOW = 512
"""Steps whose logits are held at once."""

SOLVED = Task.solved
"""The accuracy at which a length counts as solved, where a task has none of its own."""


@dataclass(frozen=True, kw_only=True)
class Ladder(Config):
    """The lengths a model is tested on, the training length first.

    select: the short rungs that are measured during training; they alone choose and prune.
    sequences: how many each rung is measured on. solved_reports: after so many reports in a row
    that solve every short rung, and once k_top is what it ends with, a trial has trained enough;
    None: it makes all its updates.
    """

    lengths: tuple[int, ...]
    select: tuple[int, ...]
    sequences: int = 512
    solved_reports: int | None = None

    def __post_init__(self) -> None:
        for name in ("lengths", "select"):
            rungs = getattr(self, name)
            check(len(rungs) > 0, name, rungs, "at least one length")
            for rung in rungs:
                check_whole(name, rung, least=1)
            rising = all(a < b for a, b in pairwise(rungs))
            check(rising, name, rungs, "lengths in rising order")
        check_whole("sequences", self.sequences, least=1)
        if self.solved_reports is not None:
            check_whole("solved_reports", self.solved_reports, least=1)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """How a model does at one length."""

    length: int
    accuracy: float
    loss: float  # in the task's unit
    sequences: int
    seconds: float | None = field(default=None, compare=False)  # that measuring took, if recorded


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A rung of which the first sequences were measured."""

    done: int = 0  # sequences
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """What `dataclasses.asdict` made of it."""
        return cls(**(data | {"tally": Tally(**data["tally"])}))


def never() -> bool:
    """The clock of what isn't to pause."""
    return False


def measure(
    model: Model, task: Task, length: int, *, sequences: int, seed: int, stream: Stream
) -> Rung:
    """`measure_on` without a pause."""
    rung = measure_on(
        model, task, length, sequences=sequences, seed=seed, stream=stream, begun=Begun()
    )
    assert isinstance(rung, Rung)
    return rung


@torch.no_grad()
def measure_on(
    model: Model,
    task: Task,
    length: int,
    *,
    sequences: int,
    seed: int,
    stream: Stream,
    begun: Begun,
    pressed: Callable[[], bool] = never,
) -> Rung | Begun:
    """The model on `sequences` sequences of one length, in memory that `BATCH_STEPS` bounds.

    On all there are for `stream`, if they are fewer. The same seed and stream give the same
    sequences, whichever the model. Where training carries a state from one batch to the next, it
    is carried here as it is there: at every multiple of the training length.

    begun: what was measured before, and isn't again. Where `pressed` says that it's time to pause,
    which it is asked between two batches, what was measured so far is returned.
    """
    source = task.batches(length, stream, generator(seed, stream, index=length), model.device)
    sequences = min(sequences, source.count or sequences)
    at_once = max(1, BATCH_STEPS // task.steps(length))
    since, total, span = time.perf_counter() - begun.seconds, begun.tally, task.memory_span
    window = WINDOW if span is None else task.length
    for done in range(0, sequences, at_once):
        batch = source.batch(min(at_once, sequences - done))
        if done < begun.done:
            continue
        state = None
        for part in batch.windows(window):
            logits, state = model(part.x, state)
            state = state if span is None else model.carried(state, span)
            total += task.tally(logits, part)
        if done + at_once < sequences and pressed():
            seconds = time.perf_counter() - since
            return Begun(done=done + at_once, tally=total, seconds=seconds)
    return Rung(
        length=length,
        accuracy=total.accuracy,
        loss=total.mean_loss,
        sequences=sequences,
        seconds=time.perf_counter() - since,
    )


def climb(
    model: Model,
    task: Task,
    lengths: Sequence[int],
    *,
    sequences: int,
    seed: int,
    stream: Stream,
) -> list[Rung]:
    """`measure` at each of the lengths."""
    return [
        measure(model, task, length, sequences=sequences, seed=seed, stream=stream)
        for length in lengths
    ]


def merit(rung: Rung, task: Task) -> float:
    """How good a rung is by the task's own measure, from 0 to 1."""
    return task.merit(rung.accuracy, rung.loss)


def selection_score(rungs: Sequence[Rung], task: Task) -> float:
    """What a search maximises: the mean of `merit` over the rungs given."""
    return sum(merit(rung, task) for rung in rungs) / len(rungs)


def solves(rungs: Sequence[Rung], select: Sequence[int], task: Task) -> bool:
    """Whether the rungs of these lengths are there, and all of them solved."""
    chosen = [rung for rung in rungs if rung.length in select]
    return bool(chosen) and all(rung.accuracy >= task.solved for rung in chosen)


def length_score(rungs: Sequence[Rung], task: Task) -> float:
    """`merit` averaged over the logarithm of length, from the second rung to the last.

    The first rung is the training length and doesn't count. The average is the trapezoidal rule's,
    so that rungs standing closely together don't weigh more. One longer rung alone is its own
    average; a ladder without any scores 0.
    """
    longer = sorted(rungs, key=lambda rung: rung.length)[1:]
    if len(longer) < 2:
        return merit(longer[0], task) if longer else 0.0
    area = 0.0
    for a, b in pairwise(longer):
        area += (merit(a, task) + merit(b, task)) / 2 * math.log(b.length / a.length)
    return area / math.log(longer[-1].length / longer[0].length)


def solve_length(rungs: Sequence[Rung], solved_at: float = SOLVED) -> int:
    """The largest length whose accuracy is `solved_at`, as is every shorter rung's; 0 if none."""
    solved = 0
    for rung in sorted(rungs, key=lambda rung: rung.length):
        if rung.accuracy < solved_at:
            break
        solved = rung.length
    return solved
