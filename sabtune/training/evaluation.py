"""The length ladder: how a model does on sequences longer than those it was trained on."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest
from typing import Any, Literal, Self

import torch
from torch.nn.functional import pad

from sabtune.models import Model
from sabtune.schema import Config, check, check_whole, from_dict, known_fields
from sabtune.seeding import Stream, generator
from sabtune.tasks import Batch, Tally, Task

BATCH_STEPS = 65_536
"""Most sequence steps, batch × T, held at once: it bounds a memory that grows with T."""

WINDOW = 512
"""Steps whose logits are held at once."""

SOLVED = Task.solved
"""The accuracy at which a length counts as solved, where a task has none of its own."""


@dataclass(frozen=True, kw_only=True)
class Ladder(Config):
    """The lengths a model is tested on, the training length first.

    select: the short lengths that are measured during training; they alone choose and prune.
    sequences: how many each length is measured on. solved_reports: after so many reports in a row
    that solve every short length, and once k_top is what it ends with, a trial has trained enough;
    None: it makes all its updates.

    phases: each length L is measured over the lengths L, L + 1, …, L + phases - 1, its sequences
    spread evenly over them. A model that remembers every k_att-th state may depend on the remainder
    of the length by k_att, and so many lengths have every remainder. None: as many as the largest
    k_att of the study's spaces; 1 where every step of a sequence is scored.

    k_top: that models are measured with during training: "final", the one that they are trained to
    end with, or "scheduled", the one in force. None: final; a study that was begun before there was
    a choice goes on with the scheduled one.
    """

    lengths: tuple[int, ...]
    select: tuple[int, ...]
    sequences: int = 512
    solved_reports: int | None = None
    phases: int | None = None
    k_top: Literal["final", "scheduled"] | None = None

    def __post_init__(self) -> None:
        for name in ("lengths", "select"):
            lengths = getattr(self, name)
            check(len(lengths) > 0, name, lengths, "at least one length")
            for length in lengths:
                check_whole(name, length, least=1)
            rising = all(a < b for a, b in pairwise(lengths))
            check(rising, name, lengths, "lengths in rising order")
        check_whole("sequences", self.sequences, least=1)
        if self.solved_reports is not None:
            check_whole("solved_reports", self.solved_reports, least=1)
        if self.phases is not None:
            check_whole("phases", self.phases, least=1)
            enough = f"at least one a phase, {self.phases}, or fewer phases"
            check(self.sequences >= self.phases, "sequences", self.sequences, enough)


def recorded_ladder(data: object, where: str = "") -> Ladder:
    """Return the ladder that was written as a dict; where an older one leaves something open, that
    is as it was measured then: over one phase, and with the scheduled k_top.

    Raises ConfigError with the path of the key that is off.
    """
    return resolved(read_ladder(data, where))


def read_ladder(data: object, where: str = "") -> Ladder:
    """Return the ladder that was written as a dict, open where it was. Raises ConfigError."""
    if isinstance(data, Mapping):
        data = {"k_top": "scheduled"} | dict(data)
    return from_dict(Ladder, data, {}, where)


def resolved(ladder: Ladder) -> Ladder:
    """Return the ladder with what it leaves open: one phase, and the final k_top."""
    return replace(ladder, phases=ladder.phases or 1, k_top=ladder.k_top or "final")


@dataclass(frozen=True, kw_only=True)
class LengthResult:
    """How a model does at one length, or over the lengths that follow it.

    accuracy, loss: the mean over the phases. by_phase: the accuracy at `length`, `length` + 1, …;
    empty where `length` alone was measured. in_phase: the accuracy where the number of steps has
    the remainder by k_att of a training sequence. worst_phase: the least accuracy at one remainder.
    None: not measured.
    """

    length: int
    accuracy: float
    loss: float  # in the task's unit
    sequences: int
    seconds: float | None = field(default=None, compare=False)  # that measuring took, if recorded
    by_phase: tuple[float, ...] = ()
    in_phase: float | None = None
    worst_phase: float | None = None

    @property
    def least(self) -> float:
        """The accuracy in the worst phase, or as far as it was measured."""
        return self.accuracy if self.worst_phase is None else self.worst_phase

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` made of it; older ones have fewer keys."""
        by_phase = tuple(data.get("by_phase", ()))
        return cls(**known_fields(cls, data) | {"by_phase": by_phase})


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A rung of which the first sequences were measured."""

    done: int = 0  # sequences
    tallies: tuple[Tally, ...] = ()  # one a phase that was begun
    seconds: float = 0.0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` made of it; older ones have one tally."""
        tallies = data["tallies"] if "tallies" in data else [data["tally"]]
        return cls(
            done=data["done"],
            tallies=tuple(Tally(**known_fields(Tally, tally)) for tally in tallies),
            seconds=data["seconds"],
        )


def never() -> bool:
    """The clock of what isn't to pause."""
    return False


def measure(
    model: Model,
    task: Task,
    length: int,
    *,
    sequences: int,
    seed: int,
    stream: Stream,
    phases: int = 1,
) -> LengthResult:
    """`measure_on` without a pause."""
    result = measure_on(
        model,
        task,
        length,
        sequences=sequences,
        seed=seed,
        stream=stream,
        phases=phases,
        begun=Begun(),
    )
    assert isinstance(result, LengthResult)
    return result


@torch.no_grad()
def measure_on(
    model: Model,
    task: Task,
    length: int,
    *,
    sequences: int,
    seed: int,
    stream: Stream,
    phases: int = 1,
    begun: Begun,
    should_pause: Callable[[], bool] = never,
) -> LengthResult | Begun:
    """The model on `sequences` sequences of `phases` lengths from `length` on, in memory that
    `BATCH_STEPS` bounds.

    On all there are for `stream`, if they are fewer. The same seed and stream give the same
    sequences, whichever the model. Where training carries a state from one batch to the next, it
    is carried here as it is there: at every multiple of the training length.

    begun: what was measured before, and isn't again. Where `pressed` says that it's time to pause,
    which it is asked between two batches, what was measured so far is returned.
    """
    since = time.perf_counter() - begun.seconds
    tallies = list(begun.tallies) or [Tally()] * phases
    sources = [
        task.batches(at, stream, generator(seed, stream, index=at), model.device)
        for at in range(length, length + phases)
    ]
    phase_of = [
        phase
        for phase, (share, source) in enumerate(
            zip(shares(sequences, phases), sources, strict=True)
        )
        for _ in range(min(share, source.count or share))
    ]
    at_once = max(1, BATCH_STEPS // task.steps(length + phases - 1))
    for first in range(0, len(phase_of), at_once):
        sizes = Counter(phase_of[first : first + at_once])
        batches = {phase: sources[phase].batch(size) for phase, size in sizes.items()}
        done = first + sizes.total()
        if done <= begun.done:
            continue
        for phase, tally in tallied(model, task, batches).items():
            tallies[phase] += tally
        if done < len(phase_of) and should_pause():
            seconds = time.perf_counter() - since
            return Begun(done=done, tallies=tuple(tallies), seconds=seconds)
    return length_result(
        task,
        length,
        tallies,
        period=model.period,
        sequences=len(phase_of),
        seconds=time.perf_counter() - since,
    )


def tallied(model: Model, task: Task, batches: Mapping[int, Batch]) -> dict[int, Tally]:
    """How the model does on each of the batches, which may have different lengths, in one pass.

    What follows a shorter sequence's end changes nothing before it.
    """
    span = task.memory_span
    window = WINDOW if span is None else task.length
    totals, state = dict.fromkeys(batches, Tally()), None
    for parts in zip_longest(*(batch.windows(window) for batch in batches.values())):
        width = max(part.x.shape[1] for part in parts if part is not None)
        x = torch.cat(
            [
                batch.x.new_zeros(len(batch.x), width, task.inputs)
                if part is None
                else pad(part.x, (0, 0, 0, width - part.x.shape[1]))
                for batch, part in zip(batches.values(), parts, strict=True)
            ]
        )
        logits, state = model(x, state)
        state = state if span is None else model.carried(state, span)
        rows = logits.split([len(batch.x) for batch in batches.values()])
        for key, part, own in zip(batches, parts, rows, strict=True):
            if part is not None:
                totals[key] += task.tally(own[:, : part.x.shape[1]], part)
    return totals


def shares(sequences: int, phases: int) -> list[int]:
    """How many of the sequences each phase gets: as evenly as can be."""
    return [sequences // phases + (phase < sequences % phases) for phase in range(phases)]


def phase_of_length(task: Task, length: int, period: int) -> int:
    """Return the remainder by `period` of the steps of a sequence, counted from a training one."""
    return (task.steps(length) - task.steps(task.length)) % period


def mean_by_phase(task: Task, length: int, accuracies: Sequence[float], period: int) -> list[float]:
    """Return the mean accuracy in each phase, that of the training length first.

    accuracies: at `length`, `length` + 1, and so on, so many that every phase occurs.
    """
    phases: dict[int, list[float]] = defaultdict(list)
    for at, accuracy in enumerate(accuracies, start=length):
        phases[phase_of_length(task, at, period)].append(accuracy)
    return [sum(phases[phase]) / len(phases[phase]) for phase in range(period)]


def length_result(
    task: Task,
    length: int,
    tallies: Sequence[Tally],
    *,
    period: int,
    sequences: int,
    seconds: float,
) -> LengthResult:
    """What the tallies of the lengths from `length` on say.

    A phase is a remainder of the number of steps by `period`, counted from a training sequence.
    """
    total = sum(tallies, Tally())
    phases: dict[int, Tally] = defaultdict(Tally)
    for at, tally in enumerate(tallies, start=length):
        if task.phased or period == 1:
            phases[phase_of_length(task, at, period)] += tally
    several = len(tallies) > 1
    return LengthResult(
        length=length,
        accuracy=total.accuracy,
        loss=total.mean_loss,
        sequences=sequences,
        seconds=seconds,
        by_phase=tuple(tally.accuracy for tally in tallies) if several else (),
        in_phase=phases[0].accuracy if 0 in phases else None,
        worst_phase=(
            min(tally.accuracy for tally in phases.values()) if len(phases) == period else None
        ),
    )


def measure_ladder(
    model: Model,
    task: Task,
    lengths: Sequence[int],
    *,
    sequences: int,
    seed: int,
    stream: Stream,
) -> list[LengthResult]:
    """`measure` at each of the lengths."""
    return [
        measure(model, task, length, sequences=sequences, seed=seed, stream=stream)
        for length in lengths
    ]


def normalized_score(result: LengthResult, task: Task) -> float:
    """How good a rung is by the task's own measure, from 0 to 1."""
    return task.normalized_score(result.accuracy, result.loss)


def selection_score(results: Sequence[LengthResult], task: Task) -> float:
    """What a search maximises: the mean of `normalized_score` over the rungs given."""
    return sum(normalized_score(result, task) for result in results) / len(results)


def solves(results: Sequence[LengthResult], select: Sequence[int], task: Task) -> bool:
    """Whether the rungs of these lengths are there, and all of them solved."""
    chosen = [result for result in results if result.length in select]
    return bool(chosen) and all(result.least >= task.solved for result in chosen)


def length_score(results: Sequence[LengthResult], task: Task) -> float:
    """`normalized_score` averaged over the logarithm of length, from the second rung to the last.

    The first rung is the training length and doesn't count. The average is the trapezoidal rule's,
    so that rungs standing closely together don't weigh more. One longer rung alone is its own
    average; a ladder without any scores 0.
    """
    longer = sorted(results, key=lambda result: result.length)[1:]
    if len(longer) < 2:
        return normalized_score(longer[0], task) if longer else 0.0
    area = 0.0
    for a, b in pairwise(longer):
        area += (
            (normalized_score(a, task) + normalized_score(b, task))
            / 2
            * math.log(b.length / a.length)
        )
    return area / math.log(longer[-1].length / longer[0].length)


def solve_length(
    results: Sequence[LengthResult], solved_at: float = SOLVED, *, in_phase: bool = False
) -> int:
    """The largest length whose accuracy is `solved_at`, as is every shorter rung's; 0 if none.

    The accuracy in the worst phase, or else in phase with the training length; where that wasn't
    measured, the mean.
    """
    solved = 0
    for result in sorted(results, key=lambda result: result.length):
        accuracy = result.least
        if in_phase:
            accuracy = result.accuracy if result.in_phase is None else result.in_phase
        if accuracy < solved_at:
            break
        solved = result.length
    return solved
