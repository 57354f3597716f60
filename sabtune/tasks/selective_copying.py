"""The selective copying task: recall symbols that were scattered among blanks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sabtune.schema import check_whole
from sabtune.tasks.base import SyntheticTask, TaskConfig
from sabtune.tasks.batch import CPU, Batch, last, moved, one_hot


class SelectiveCopying(SyntheticTask):
    """The selective copying task: recall symbols that were scattered among blanks.

    The task is from Gu and Dao ("Mamba", 2023, arXiv 2312.00752). A sequence of length L shows
    `symbols` symbols at random steps among L blanks, and then `symbols` markers. The targets at the
    markers are the symbols, in order. The distances between the symbols vary, so that a model must
    choose by content what it remembers. A sequence has L + 2 · `symbols` steps. The paper has 16
    symbols and 15 different ones in 4,096 steps before the markers, a length of 4,080.

    Symbols are 0 to `alphabet` - 1, the blank is `alphabet`, and the marker is `alphabet` + 1. A
    step shows one of them as a one-hot vector. The classes are the symbols. The loss covers only
    the steps of the markers.

    Args:
        config: The configuration. Its `build` method creates the task too.

    Example:
        >>> import torch, sabtune as sab
        >>> task = sab.SelectiveCopying.Config(length=20, symbols=5).build()
        >>> batch = task.batch(64, 20, torch.Generator().manual_seed(0))
        >>> batch.x.shape, batch.targets.shape, int(batch.scored.sum())
        (torch.Size([64, 30, 10]), torch.Size([64, 30]), 5)
    """

    loss_unit = "nats a symbol"
    loss_everywhere = False

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """The configuration of the selective copying task.

        Args:
            length: The number of blanks that the symbols are scattered among, at least 1.
            symbols: The number of symbols to recall, at least 1.
            alphabet: The number of different symbols, at least 2.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> task = sab.SelectiveCopying.Config(length=4080, symbols=16, alphabet=15).build()
            >>> task.steps(4080), task.inputs, task.outputs
            (4112, 17, 15)
        """

        length: int = 100
        symbols: int = 10
        alphabet: int = 8

        def __post_init__(self) -> None:
            check_whole("length", self.length, least=1)
            check_whole("symbols", self.symbols, least=1)
            check_whole("alphabet", self.alphabet, least=2)

        def build(self) -> SelectiveCopying:
            return SelectiveCopying(self)

    def __init__(self, config: Config):
        super().__init__(config)
        self.config = config
        self.blank, self.marker = config.alphabet, config.alphabet + 1
        self.inputs = config.alphabet + 2
        self.outputs = config.alphabet
        self.chance = 1 / config.alphabet

    def steps(self, length: int) -> int:
        return length + 2 * self.config.symbols

    def batch(
        self, size: int, length: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Batch:
        n, T = self.config.symbols, self.steps(length)
        symbols = torch.randint(self.config.alphabet, (size, n), generator=generator)
        steps = torch.rand((size, T - n), generator=generator).topk(n).indices.sort(dim=1).values
        shown = torch.full((size, T), self.blank)
        shown.scatter_(1, steps, symbols)
        shown[:, T - n :] = self.marker
        targets = torch.zeros((size, T), dtype=torch.long)
        targets[:, T - n :] = symbols
        return Batch(
            x=one_hot(moved(shown, device), self.inputs),
            targets=moved(targets, device),
            scored=last(n, T),
        )

    def sources(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pairs (t, i) of a marker's step t that must recall step i, counted from 1."""
        n, T = self.config.symbols, x.shape[0]
        shown = 1 + (x.argmax(dim=-1) < self.config.alphabet).nonzero().flatten()
        return torch.stack([torch.arange(T - n + 1, T + 1), shown.cpu()], dim=1)
