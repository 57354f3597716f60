"""The flip-flop language: read the bit that was written last, among instructions to ignore."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sabtune.schema import check
from sabtune.seeding import Stream
from sabtune.tasks.base import SyntheticTask, TaskConfig
from sabtune.tasks.batch import CPU, Batch, moved, one_hot
from sabtune.tasks.source import Source

WRITE, READ, IGNORE = 2, 3, 4
"""The symbols of the instructions; a bit is its own symbol."""


class FlipFlop(SyntheticTask):
    """The flip-flop language: read the bit that was written last, among instructions to ignore.

    The language is from Liu et al. ("Exposing Attention Glitches with Flip-Flop Language Modeling",
    2023, arXiv 2306.00946). A sequence of length L has L instructions, "write", "read" or "ignore",
    each followed by a bit. The first instruction is a write and the last one a read. Each of the
    others is "ignore" with probability `ignore`, and otherwise "write" or "read" with the same
    probability. The bit after a read is the one after the last write; the other bits are random.

    The target at a read is the bit that follows it. Only reads are scored and covered by the loss.
    Reads are at different steps in each sequence. A sequence ends with its last read, so that it
    has 2 · L - 1 steps. The symbols are the bits 0 and 1, and 2 to write, 3 to read, 4 to ignore; a
    step shows one as a one-hot vector.

    The paper trains at `ignore` 0.8 with L = 256, and tests at 0.8, at 0.98 (sparse) and at 0.1
    (dense). In a long sequence, 9 other instructions are between a read and its write on average at
    0.8, and 99 at 0.98.

    Args:
        config: The configuration. Its `build` method creates the task too.

    Example:
        >>> import torch, sabtune as sab
        >>> task = sab.FlipFlop.Config(length=16).build()
        >>> batch = task.batch(64, 16, torch.Generator().manual_seed(0))
        >>> batch.x.shape, batch.targets.shape, batch.scored.shape
        (torch.Size([64, 31, 5]), torch.Size([64, 31]), torch.Size([64, 31]))
    """

    inputs = 5
    outputs = 2
    chance = 0.5
    loss_unit = "nats a read"
    loss_everywhere = False

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """The configuration of the flip-flop language.

        Args:
            length: The number of instructions, at least 2.
            ignore: The share of instructions to ignore, from 0 to below 1.
            test_ignore: The share of instructions to ignore in the sequences that models are
                measured on: those for selection, test and confirmation. None takes `ignore`.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> sparse = sab.FlipFlop.Config(length=256, ignore=0.8, test_ignore=0.98)
            >>> sparse.build().steps(256)
            511
        """

        length: int = 64
        ignore: float = 0.8
        test_ignore: float | None = None

        def __post_init__(self) -> None:
            for name in ("ignore", "test_ignore"):
                share = getattr(self, name)
                valid = share is None or 0 <= share < 1
                check(valid, name, share, "a share of at least 0 and below 1")
            self.build().steps(self.length)

        def build(self) -> FlipFlop:
            return FlipFlop(self)

    def __init__(self, config: Config):
        super().__init__(config)
        self.config = config
        measured = config.test_ignore
        self.ignore = config.ignore if measured is None else measured

    def steps(self, length: int) -> int:
        check(length >= 2, "length", length, "at least 2, for a write and a read")
        return 2 * length - 1

    def batch(
        self, size: int, length: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Batch:
        T, active = self.steps(length), 1 - self.ignore
        drawn = torch.rand((size, length), generator=generator)
        bits = torch.randint(2, (size, length), generator=generator)
        write, read = drawn < active / 2, (drawn >= active / 2) & (drawn < active)
        write[:, 0], read[:, 0] = True, False
        write[:, -1], read[:, -1] = False, True
        latest = torch.where(write, torch.arange(length), 0).cummax(dim=1).values
        stored = bits.gather(1, latest)
        instructions = torch.where(write, WRITE, torch.where(read, READ, IGNORE))
        shown = torch.stack([instructions, torch.where(read, stored, bits)], dim=-1)
        targets = torch.zeros((size, T), dtype=torch.long)
        targets[:, ::2] = stored
        scored = torch.zeros((size, T), dtype=torch.bool)
        scored[:, ::2] = read
        return Batch(
            x=one_hot(moved(shown.flatten(1)[:, :T], device), self.inputs),
            targets=moved(targets, device),
            scored=scored,
        )

    def batches(
        self,
        length: int,
        stream: Stream,
        generator: torch.Generator,
        device: torch.device = CPU,
    ) -> Source:
        if stream == Stream.TRAINING and self.config.test_ignore is not None:
            return self._training_task().batches(length, stream, generator, device)
        return super().batches(length, stream, generator, device)

    def varied(
        self, shortest: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Source:
        if self.config.test_ignore is not None:
            return self._training_task().varied(shortest, generator, device)
        return super().varied(shortest, generator, device)

    def _training_task(self) -> FlipFlop:
        """Return the task whose sequences are those for training."""
        return replace(self.config, test_ignore=None).build()

    def sources(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pairs (t, i) of a read's step t that must recall step i, counted from 1.

        Step i shows the bit after the last write.
        """
        shown = x.argmax(dim=-1).cpu()
        written = torch.where(shown == WRITE, torch.arange(len(shown)), 0).cummax(dim=0).values
        reads = (shown == READ).nonzero().flatten()
        return torch.stack([reads + 1, written[reads] + 2], dim=1)
