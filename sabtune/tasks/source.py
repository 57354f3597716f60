"""Where batches come from: made as they are asked for, or taken from data in passes.

A source is for one length and one purpose, a `seeding.Stream`. What it needs to go on is a few
tensors (`state`), so that a training taken up again sees the batches of an unbroken one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sabtune.schema import check
from sabtune.tasks.batch import CPU, Batch, moved

GENERATOR, CURSOR = "generator", "cursor"


class Source(ABC):
    """One batch after the other, without end."""

    count: int | None = None
    """How many sequences there are before the first one comes again; None: they never do."""

    @abstractmethod
    def batch(self, size: int) -> Batch:
        """The next `size` sequences."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that `restore` needs."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from where `state` was taken. Raises KeyError if it lacks something."""


class Drawn(Source):
    """Fresh sequences, each batch drawn from the generator by `draw(size, generator)`."""

    def __init__(self, draw: Callable[[int, torch.Generator], Batch], generator: torch.Generator):
        self.draw, self.generator = draw, generator

    def batch(self, size: int) -> Batch:
        return self.draw(size, self.generator)

    def state(self) -> dict[str, Tensor]:
        return {GENERATOR: self.generator.get_state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.generator.set_state(state[GENERATOR])


class Passes(Source):
    """Data gone through again and again; each pass draws from the generator once, at its start."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator
        self.cursor = 0  # what of the pass is behind
        self.before = generator.get_state()  # of the generator, at the pass's start
        self.fresh = True  # the pass hasn't drawn yet

    @abstractmethod
    def begin(self, size: int) -> None:
        """Draws what this pass is to be like; `size` sequences a batch."""

    @abstractmethod
    def take(self, size: int) -> Batch | None:
        """The next batch, the cursor moved behind it; None if the pass has no whole one left."""

    def batch(self, size: int) -> Batch:
        if self.fresh:
            self.begin(size)
            self.fresh = False
        batch = self.take(size)
        if batch is None:
            self.before, self.cursor = self.generator.get_state(), 0
            self.begin(size)
            batch = self.take(size)
            assert batch is not None
        return batch

    def state(self) -> dict[str, Tensor]:
        return {GENERATOR: self.before, CURSOR: torch.tensor(self.cursor)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.before, self.cursor = state[GENERATOR], int(state[CURSOR])
        self.generator.set_state(self.before)
        self.fresh = True


class Shuffled(Passes):
    """`count` examples, each once a pass and in another order; what is no whole batch is left out.

    make: the batch of the examples whose numbers (B,) it is given, on `device`.
    """

    def __init__(
        self,
        count: int,
        make: Callable[[Tensor], Batch],
        generator: torch.Generator,
        device: torch.device = CPU,
    ):
        super().__init__(generator)
        self.count: int = count
        self.make, self.device = make, device

    def begin(self, size: int) -> None:
        check(size <= self.count, "batch_size", size, f"at most {self.count}, all there are")
        self.order = moved(torch.randperm(self.count, generator=self.generator), self.device)

    def take(self, size: int) -> Batch | None:
        if self.cursor + size > self.count:
            return None
        taken = self.order[self.cursor : self.cursor + size]
        self.cursor += size
        return self.make(taken)
