"""The checks of the sequences that a task makes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations

import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from sabtune.errors import ConfigError
from sabtune.seeding import Stream, generator
from sabtune.tasks import Batch, Task
from sabtune.tasks.base import MEASURED
from sabtune.tasks.batch import CPU
from sabtune.testing.result import expect, is_whole, name_of, seed_globally, type_of, wrong
from sabtune.testing.task_case import SIZES, TaskCase, same_batch

STREAMS = (Stream.TRAINING, *MEASURED)
ROWS = 2048
"""The largest number of sequences that are compared between the streams."""
NUMBERS = 2**22
"""The largest number of inputs of these sequences in a stream, which bounds their number."""
AT_ONCE = 32
"""The largest number of them in a batch."""
BATCHES = 16
"""The number of batches that tell whether two sources are the same."""
ERRORS = 4.0
"""The number of standard errors by which coincidences may exceed their expectation."""


class SourceChecks(TaskCase):
    """The checks of the sequences that a task makes."""

    def batches(self) -> str | None:
        """Check that shapes, types and values fit at several lengths and batch sizes."""
        for length in self.refused:
            calls: dict[str, Callable[[], object]] = {
                "batches": partial(self.source, length=length),
                "prepare": partial(self.task.prepare, [length]),
            }
            for call, refuses in calls.items():
                expect(
                    _refuses(refuses),
                    f"{self.named(call)} accepts length {length}, which "
                    f"{self.named('steps')} refuses: raise ConfigError",
                )
        missing = []
        for length in list(self.lengths):
            try:
                self.source(length=length)
            except ConfigError:
                if length == self.task.length:
                    raise
                self.lengths.remove(length)
                missing.append(length)
                continue
            for size in SIZES:
                for stream in STREAMS:
                    self.check_batches(length, size, stream)
        self.task.prepare(self.lengths)
        return f"the data has no sequences of length {missing}" if missing else None

    def check_batches(self, length: int, size: int, stream: Stream) -> None:
        """Check two batches of a new source."""
        source = self.source(stream, length=length)
        expect(
            source.count is None or is_whole(source.count, 1),
            wrong("the `count` of its source", source.count, "None, or an int of at least 1"),
        )
        for number in range(2):
            batch = source.batch(size)
            where = f"{self.drawing} at length {length} in batches of {size} ({stream.name})"
            self.check_batch(batch, (size, self.task.steps(length)), where)
            carries = self.task.memory_span is not None and stream == Stream.TRAINING
            remedy = "only with `memory_span`, for training, and after a first batch"
            expect(
                (carries and number > 0) or not batch.continues,
                f"{where} continues a batch: {remedy}",
            )

    def check_batch(self, batch: Batch, shape: tuple[int, int], where: str) -> None:
        expect(isinstance(batch, Batch), f"{where} returns {type_of(batch)}: return a Batch")
        B, T = shape
        by_row = isinstance(batch.scored, Tensor) and batch.scored.dim() == 2
        for name, tensor, wanted_shape, dtype in (
            ("x", batch.x, (B, T, self.task.inputs), torch.float32),
            ("targets", batch.targets, (B, T), None),
            ("scored", batch.scored, (B, T) if by_row else (T,), torch.bool),
        ):
            expect(
                isinstance(tensor, Tensor), f"{where}: {name} is {type_of(tensor)}: give a tensor"
            )
            size, letters = tuple(tensor.shape), {1: "(T,)", 2: "(B, T)", 3: "(B, T, inputs)"}
            wanted = f"{wanted_shape}, {letters[len(wanted_shape)]}"
            expect(size == wanted_shape, f"{where}: {name} has shape {size}: give {wanted}")
            expect(
                dtype in (None, tensor.dtype),
                f"{where}: {name} is {tensor.dtype}: give {dtype}",
            )
            expect(tensor.device == CPU, f"{where}: {name} is on {tensor.device}: give it on cpu")
            fixed = "detach it, a batch has no gradient"
            expect(not tensor.requires_grad, f"{where}: {name} requires a gradient: {fixed}")
        finite = bool(batch.x.isfinite().all())
        expect(finite, f"{where}: x has numbers that are not finite: replace them")
        marked = bool(batch.scored_by_row.any(dim=1).all())
        expect(marked, f"{where}: scored has no step of a sequence: mark at least one")
        self.check_targets(batch.targets, where)

    def check_targets(self, targets: Tensor, where: str) -> None:
        if targets.is_floating_point():
            finite = bool(targets.isfinite().all())
            expect(finite, f"{where}: targets has numbers that are not finite: replace them")
        elif type(self.task).criterion is Task.criterion and type(self.task).loss is Task.loss:
            wanted = f"give classes from 0 to {self.task.outputs - 1}, as int64"
            expect(targets.dtype == torch.int64, f"{where}: targets is {targets.dtype}: {wanted}")
            least, most = int(targets.min()), int(targets.max())
            inside = 0 <= least <= most < self.task.outputs
            expect(inside, f"{where}: targets has classes from {least} to {most}: {wanted}")

    def determinism(self) -> None:
        """Check that only the given generator decides the sequences."""
        remedy = "draw every number from the given generator"
        for stream in STREAMS:
            batches = []
            for seed, globally in ((1, 1), (1, 1), (1, 2), (2, 2)):
                seed_globally(globally)
                batches.append(self.source(stream, seed=seed).batch(max(SIZES)))
            one, again, elsewhere, other = batches
            expect(
                same_batch(one, again),
                f"{self.drawing} gives other sequences for generators of the same seed: {remedy}",
            )
            expect(
                same_batch(one, elsewhere),
                f"{self.drawing} gives other sequences if the global random seed changes: {remedy}",
            )
            # a text that is read in order needs no generator
            ordered = self.task.memory_span is not None and stream == Stream.TRAINING
            expect(
                ordered or not same_batch(one, other) or not self.are_same(stream, (1, 2)),
                f"{self.drawing} gives the same sequences for generators of different seeds "
                f"({stream.name}): {remedy}",
            )
            alone, between, another = (self.source(stream, seed=n) for n in (1, 1, 2))
            for _ in range(2):
                another.batch(max(SIZES))
                expect(
                    same_batch(alone.batch(max(SIZES)), between.batch(max(SIZES))),
                    f"{self.named('batches')} gives other sequences if another source draws in "
                    f"between ({stream.name}): share nothing that changes",
                )
        task = replace(self.task_config).build()
        source = task.batches(task.length, Stream.TEST, generator(0, Stream.TEST))
        alike = same_batch(source.batch(max(SIZES)), self.batch)
        expect(alike, f"{self.drawing} differs between two tasks of one configuration: {remedy}")
        one = self.task.batch(max(SIZES), self.task.length, generator(0, Stream.TEST))
        same = same_batch(one, self.batch)
        expect(same, f"{self.named('batch')} differs from `batches` with the test stream: use it")

    def are_same(self, stream: Stream, seeds: tuple[int, int]) -> bool:
        """Return whether sources of two seeds have the same sequences in several batches."""
        one, other = (self.source(stream, seed=seed) for seed in seeds)
        size = max(SIZES)
        return all(same_batch(one.batch(size), other.batch(size)) for _ in range(BATCHES))

    def restoring(self) -> None:
        """Check that a source continues from its `state`, which a checkpoint stores."""
        for stream in STREAMS[:2]:
            source = self.source(stream)
            name = name_of(type(source))
            for taken in range(4):
                state = source.state()
                tensors = isinstance(state, dict) and all(
                    isinstance(value, Tensor) for value in state.values()
                )
                expect(tensors, f"{name}.state returns {type_of(state)}: return a dict of tensors")
                stored = tensors_of(bytes_of({k: v.contiguous() for k, v in state.items()}))
                expected = [source.batch(max(SIZES)) for _ in range(taken + 1)]
                again = self.source(stream, seed=9)
                again.batch(max(SIZES))
                again.restore(stored)
                for batch in expected:
                    restored = again.batch(max(SIZES))
                    expect(
                        same_batch(restored, batch) and restored.continues == batch.continues,
                        f"{name}.restore continues with other sequences than the source whose "
                        f"`state` it takes ({stream.name}): store all that decides them",
                    )
            if source.state():
                refuses = _refuses(partial(source.restore, {}), KeyError)
                expect(refuses, f"{name}.restore accepts an empty state: raise KeyError")

    def devices(self) -> str | None:
        """Check that batches are on the requested device, and are made without reading it."""
        meta = torch.device("meta")
        for stream in STREAMS[:2]:
            source = self.source(stream, device=meta)
            batch = source.batch(max(SIZES))
            self.check_devices(batch, meta)
            logits = self.logits(self.batch).to(meta)
            loss = self.task.loss(logits, batch)
            expect(
                loss.device == meta,
                f"{self.named('loss')} is on {loss.device} for a batch on meta: keep it there",
            )
        if not torch.cuda.is_available():
            return "no CUDA device: checked on the devices cpu and meta"
        cuda = torch.device("cuda", torch.cuda.current_device())
        batch = self.source(device=cuda).batch(max(SIZES))
        self.check_devices(batch, cuda)
        moved = replace(batch, x=batch.x.cpu(), targets=batch.targets.cpu())
        expect(same_batch(moved, self.batch), f"{self.drawing} differs on {cuda}: draw on the CPU")
        tally = self.task.tally(self.logits(self.batch).to(cuda), batch)
        expect(tally.scored > 0, f"{self.named('tally')} counts no answers on {cuda}")
        return None

    def check_devices(self, batch: Batch, device: torch.device) -> None:
        for name, tensor in (("x", batch.x), ("targets", batch.targets)):
            there = f"{self.drawing}: {name} is on {tensor.device}, not on the requested {device}"
            expect(tensor.device == device, f"{there}: move it, with sabtune.tasks.batch.moved")
        device = batch.scored.device
        expect(device == CPU, f"{self.drawing}: scored is on {device}: keep it on the CPU")

    def streams(self) -> None:
        """Check that training, selection, test and confirmation share no sequences.

        Sequences of a small space coincide by chance. Therefore, the coincidences between two
        streams are compared with those within each of them.
        """

        rows = {}
        for stream in STREAMS:
            batches = self.draw(stream)
            if stream == Stream.TEST:
                self.rows = batches
            rows[stream] = [row.tobytes() for batch in batches for row in batch.x.numpy()]
        for one, other in combinations(STREAMS, 2):
            count = min(len(rows[one]), len(rows[other]))
            first, second = rows[one][:count], rows[other][:count]
            within = _coincidences(first) + _coincidences(second)
            both = _coincidences(first + second) - within
            allowed = within + ERRORS * math.sqrt(within) + min(5, count - 1)
            expect(
                both <= allowed,
                f"{self.named('batches')} gives {one.name} and {other.name} the same sequences, "
                f"{both} of {count}: give each stream its own part of the data",
            )

    def draw(self, stream: Stream) -> list[Batch]:
        """Return many sequences of a stream, none of them twice if the stream is a data set."""
        count = self.source(stream).count or ROWS
        numbers = self.task.steps(self.task.length) * self.task.inputs
        rows = max(AT_ONCE, min(ROWS, NUMBERS // numbers))
        size = min(AT_ONCE, count)
        while True:
            source = self.source(stream)
            try:
                began = time.perf_counter()
                batches = [source.batch(size) for _ in range(min(rows, count) // size)]
            except ConfigError:  # more sequences than the data has rows for
                if size == 1:
                    raise
                size //= 2
                continue
            if stream == Stream.TRAINING:
                seconds = time.perf_counter() - began
                self.sequences_per_second = size * len(batches) / max(seconds, 1e-9)
            return batches

    def varied_lengths(self) -> str | None:
        """Check that `varied` draws the lengths of its range, or raises `ConfigError`."""
        task, shortest = self.task, min(self.lengths)
        try:
            source = task.varied(shortest, generator(0, Stream.TRAINING))
        except ConfigError:
            return "the task has no batches of varied lengths"
        again = task.varied(shortest, generator(0, Stream.TRAINING))
        allowed = {task.steps(length) for length in range(shortest, task.length + 1)}
        name = self.named("varied")
        for _ in range(8):
            batch = source.batch(max(SIZES))
            T = batch.x.shape[1]
            expect(T in allowed, f"{name}({shortest}) gives {T} steps: give those of its lengths")
            self.check_batch(batch, (max(SIZES), T), f"{name}({shortest})")
            same = same_batch(batch, again.batch(max(SIZES)))
            expect(same, f"{name}({shortest}) differs for the same seed: draw from its generator")
        return None


def _refuses(call: Callable[[], object], error: type[Exception] = ConfigError) -> bool:
    """Return whether a call raises `error`."""
    try:
        call()
    except error:
        return True
    return False


def _coincidences(rows: list[bytes]) -> int:
    """Return the number of pairs of equal rows."""
    counts: dict[bytes, int] = {}
    for row in rows:
        counts[row] = counts.get(row, 0) + 1
    return sum(count * (count - 1) // 2 for count in counts.values())
