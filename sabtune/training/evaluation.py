"""The length ladder: evaluation on sequences longer than those a model was trained on."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
"""The most sequence steps, B × T, in a batch of several sequences. This bounds the memory."""

WINDOW_STEPS = 512
"""The number of steps whose logits are in memory at once."""

SOLVED = Task.solved
"""The lowest accuracy at which a length is solved, unless the task defines another."""


@dataclass(frozen=True, kw_only=True)
class Ladder(Config):
    """The lengths that a model is tested at, the training length first.

    Args:
        lengths: All lengths, in increasing order.
        select: The selection lengths, in increasing order: short lengths that are measured at every
            report. Only they decide which trial is best and which is pruned.
        sequences: The number of sequences that each length is measured on, at least `phases`. A
            length for which the data has fewer sequences is measured on all of them.
        solved_reports: Stop training after this many consecutive reports that solve every selection
            length, but not before k_top has reached its final value. None makes all updates.
        phases: Measure each length L over the lengths L, L + 1, …, L + phases - 1, with the
            sequences spread evenly over them. The accuracy of a model that remembers every k_att-th
            state may depend on the length modulo k_att. With phases = k_att, every remainder
            occurs. None takes the largest k_att of the study's search spaces, or 1 for a task that
            scores every step.
        k_top: The k_top that models are measured with during training: "final", the value at the
            end of the schedule, or "scheduled", the current value. None takes "final". A study that
            was recorded before this option existed uses "scheduled".

    Raises:
        ConfigError: A field is missing, unknown, out of range or of the wrong type.

    Example:
        >>> import sabtune as sab
        >>> ladder = sab.Ladder(lengths=(20, 40, 100, 200), select=(20, 40), phases=5)
        >>> ladder.sequences, ladder.phase_count
        (512, 5)
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

    @property
    def phase_count(self) -> int:
        """The number of consecutive lengths that each length is measured over, at least 1."""
        return self.phases or 1


def recorded_ladder(data: object, where: str = "") -> Ladder:
    """Return the ladder that a study recorded as a dict, with `phases` and `k_top` set.

    If an older version did not record them, they take the values that it used: one phase, and the
    scheduled k_top. Raises ConfigError with the path of an invalid key.
    """
    return resolved(read_ladder(data, where))


def read_ladder(data: object, where: str = "") -> Ladder:
    """Return the ladder that was stored as a dict; an option that is None there stays None.

    A missing k_top becomes "scheduled", and other missing keys take their defaults. Keys that a
    newer version added are ignored. Raises ConfigError with the path of an invalid key.
    """
    if isinstance(data, Mapping):
        data = {"k_top": "scheduled"} | known_fields(Ladder, data)
    return from_dict(Ladder, data, {}, where)


def resolved(ladder: Ladder) -> Ladder:
    """Return the ladder with values in place of None: 1 for `phases`, "final" for `k_top`."""
    return replace(ladder, phases=ladder.phase_count, k_top=ladder.k_top or "final")


@dataclass(frozen=True, kw_only=True)
class LengthResult:
    """The accuracy and loss of a model at one length, or over several consecutive lengths.

    accuracy, loss: Means over the phases.

    by_phase: Accuracies at `length`, `length` + 1, …; empty if only `length` was measured.

    in_phase: The accuracy at lengths whose number of steps has the same remainder modulo k_att as
    that of a training sequence. None: not measured.

    worst_phase: The lowest accuracy in any phase. None: not every phase was measured.
    """

    length: int
    accuracy: float
    loss: float  # in the task's unit
    sequences: int
    seconds: float | None = field(default=None, compare=False)  # duration of the measurement
    by_phase: tuple[float, ...] = ()
    in_phase: float | None = None
    worst_phase: float | None = None

    @property
    def least(self) -> float:
        """The accuracy in the worst phase, or the mean if not every phase was measured."""
        return self.accuracy if self.worst_phase is None else self.worst_phase

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the result from the dict that `dataclasses.asdict` made in any version."""
        by_phase = tuple(data.get("by_phase", ()))
        return cls(**known_fields(cls, data) | {"by_phase": by_phase})


@dataclass(frozen=True, kw_only=True)
class Begun:
    """The partial measurement of a length."""

    done: int = 0  # number of sequences measured
    tallies: tuple[Tally, ...] = ()  # one for each phase; empty if nothing is measured
    seconds: float = 0.0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the measurement from the dict that `dataclasses.asdict` made in any version.

        Older versions wrote a single tally. If the number of sequences or the tallies are missing,
        the length is measured again from its start, which gives the same result.
        """
        tallies = data.get("tallies", [data["tally"]] if "tally" in data else [])
        if not tallies or "done" not in data:
            return cls()
        return cls(
            done=data["done"],
            tallies=tuple(Tally(**known_fields(Tally, tally)) for tally in tallies),
            seconds=data.get("seconds", 0.0),
        )


def never() -> bool:
    """Return False: the `should_pause` of a measurement or training that never pauses."""
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
    """Measure `model` at `length` without a pause. For the arguments, see `measure_on`."""
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


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Set a model to evaluation mode within the context, and restore the modes of its parts."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


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
    """Measure `model` in evaluation mode at `length`, continuing from `begun`.

    The measurement spreads `sequences` sequences evenly over the lengths `length` to `length` +
    `phases` - 1. At a length that has fewer sequences in `stream`, it uses all of them. The same
    seed and stream give the same sequences for every model. If training carries the state from one
    batch to the next, evaluation carries it in the same way at every multiple of the training
    length.

    `BATCH_STEPS` bounds the memory. The function calls `should_pause` between two batches. If it
    returns True, the function returns the measurement so far as a `Begun`.
    """
    started_at = time.perf_counter() - begun.seconds
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
        with evaluating(model):
            counted = tallied(model, task, batches)
        for phase, tally in counted.items():
            tallies[phase] += tally
        if done < len(phase_of) and should_pause():
            seconds = time.perf_counter() - started_at
            return Begun(done=done, tallies=tuple(tallies), seconds=seconds)
    return length_result(
        task,
        length,
        tallies,
        period=model.period,
        sequences=len(phase_of),
        seconds=time.perf_counter() - started_at,
    )


def tallied(model: Model, task: Task, batches: Mapping[int, Batch]) -> dict[int, Tally]:
    """Return the tally of each batch, from one forward pass over all of them.

    The batches may differ in length. Shorter sequences are padded at their end. The padding changes
    no earlier step, because models are causal.
    """
    span = task.memory_span
    window = WINDOW_STEPS if span is None else task.length
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
        state = state if span is None else model.carry(state, span)
        rows = logits.split([len(batch.x) for batch in batches.values()])
        for key, part, own in zip(batches, parts, rows, strict=True):
            if part is not None:
                totals[key] += task.tally(own[:, : part.x.shape[1]], part)
    return totals


def shares(sequences: int, phases: int) -> list[int]:
    """Return how many of the sequences each phase gets, as evenly as possible."""
    return [sequences // phases + (phase < sequences % phases) for phase in range(phases)]


def phase_of_length(task: Task, length: int, period: int) -> int:
    """Return the phase of a length: its steps minus those of the training length, mod `period`."""
    return (task.steps(length) - task.steps(task.length)) % period


def mean_by_phase(task: Task, length: int, accuracies: Sequence[float], period: int) -> list[float]:
    """Return the mean accuracy in each phase, starting with the phase of the training length.

    accuracies: Accuracies at `length`, `length` + 1, …; at least `period` of them.
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
    """Return the result at `length` from the tallies at `length`, `length` + 1, ….

    period: The number of phases. `phase_of_length` defines the phase of a length.
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
    """Measure `model` at each of the lengths. For the arguments, see `measure_on`."""
    return [
        measure(model, task, length, sequences=sequences, seed=seed, stream=stream)
        for length in lengths
    ]


def normalized_score(result: LengthResult, task: Task) -> float:
    """Return the task's measure of a length result, from 0 at chance to 1."""
    return task.normalized_score(result.accuracy, result.loss)


def selection_score(results: Sequence[LengthResult], task: Task) -> float:
    """Return the objective of a search: the mean of `normalized_score` over `results`."""
    return sum(normalized_score(result, task) for result in results) / len(results)


def solves(results: Sequence[LengthResult], select: Sequence[int], task: Task) -> bool:
    """Return whether `results` has any of the lengths `select`, and all of those are solved."""
    chosen = [result for result in results if result.length in select]
    return bool(chosen) and all(result.least >= task.solved for result in chosen)


def length_score(results: Sequence[LengthResult], task: Task) -> float:
    """Return the length score: the mean of `normalized_score` over the logarithm of the length.

    The first length is the training length and does not count. The mean uses the trapezoidal rule,
    so lengths that are close together do not get more weight. If there is only one longer length,
    the result is the score at that length. If there is none, it is 0.
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
    """Return the largest length up to which every length is solved; 0 if none is.

    A length is solved if the accuracy in its worst phase is at least `solved_at`. in_phase: use the
    accuracy in phase with the training length instead. If the required accuracy was not measured,
    the mean accuracy decides.
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
