"""Sources of batches, which generate sequences on the fly or read data in passes.

A source serves one purpose, a `seeding.Stream`. Its `state` consists of a few tensors. Resumed
training restores them, and then sees the same batches as uninterrupted training.
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
    """An endless series of batches.

    Training saves the state of its source in every checkpoint, so a resumed trial sees the same
    batches. `Shuffled` is a source of examples in memory.

    Example:
        >>> import torch, sabtune as sab
        >>> task = sab.Copying.Config(length=5).build()
        >>> source = task.batches(5, sab.Stream.TRAINING, torch.Generator().manual_seed(0))
        >>> isinstance(source, sab.Source), source.batch(8).targets.shape
        (True, torch.Size([8, 25]))
    """

    count: int | None = None
    """The number of sequences before they repeat; None if they never do."""

    @abstractmethod
    def batch(self, size: int) -> Batch:
        """Return the next `size` sequences."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return the tensors that `restore` needs, by name."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from where `state` was taken. Raises KeyError if an entry is missing."""


class Drawn(Source):
    """A source that draws every batch with `draw(size, generator)`."""

    def __init__(self, draw: Callable[[int, torch.Generator], Batch], generator: torch.Generator):
        self.draw, self.generator = draw, generator

    def batch(self, size: int) -> Batch:
        return self.draw(size, self.generator)

    def state(self) -> dict[str, Tensor]:
        return {GENERATOR: self.generator.get_state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.generator.set_state(state[GENERATOR])


class Passes(Source):
    """A source that reads data in repeated passes, and draws from the generator once per pass."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator
        self.cursor = 0  # position within the pass
        self.pass_start = generator.get_state()  # the generator's state at the start of the pass
        self.begun = False  # whether `begin` was called for this pass

    @abstractmethod
    def begin(self, size: int) -> None:
        """Start a pass with `size` sequences per batch, and draw what it needs."""

    @abstractmethod
    def take(self, size: int) -> Batch | None:
        """Return the next batch and advance the cursor; None if the pass has no full batch left."""

    def batch(self, size: int) -> Batch:
        if not self.begun:
            self.begin(size)
            self.begun = True
        batch = self.take(size)
        if batch is None:
            self.pass_start, self.cursor = self.generator.get_state(), 0
            self.begin(size)
            batch = self.take(size)
            assert batch is not None
        return batch

    def state(self) -> dict[str, Tensor]:
        return {GENERATOR: self.pass_start, CURSOR: torch.tensor(self.cursor)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.pass_start, self.cursor = state[GENERATOR], int(state[CURSOR])
        self.generator.set_state(self.pass_start)
        self.begun = False


class Shuffled(Passes):
    """A source of `count` examples in a new random order each pass, without incomplete batches.

    Args:
        count: The number of examples.
        make: A function that returns the batch of the examples with the given indices (B,), which
            are on `device`.
        generator: The random generator of the order.
        device: The device of the indices.

    Example:
        >>> import torch, sabtune as sab
        >>> x, labels = torch.randn(100, 20, 1), torch.randint(0, 2, (100,))
        >>> def make(index):
        ...     targets = labels[index, None].expand(-1, 20)
        ...     return sab.Batch(x=x[index], targets=targets, scored=torch.arange(20) == 19)
        >>> source = sab.Shuffled(100, make, torch.Generator().manual_seed(0))
        >>> source.batch(8).x.shape
        torch.Size([8, 20, 1])
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
        check(
            size <= self.count, "batch_size", size, f"at most {self.count}, the number of examples"
        )
        self.order = moved(torch.randperm(self.count, generator=self.generator), self.device)

    def take(self, size: int) -> Batch | None:
        if self.cursor + size > self.count:
            return None
        taken = self.order[self.cursor : self.cursor + size]
        self.cursor += size
        return self.make(taken)
