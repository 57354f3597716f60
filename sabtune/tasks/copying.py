"""The copying task: recall a few symbols after a long stretch of blanks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from sabtune.schema import check_whole
from sabtune.tasks.base import SyntheticTask, TaskConfig
from sabtune.tasks.batch import CPU, Batch, last, moved, one_hot

BLANK = 0


class Copying(SyntheticTask):
    """The copying task: recall a few symbols after a long stretch of blanks.

    As in Ke et al. (2018) and their released script, a sequence shows `symbols` symbols, length - 1
    blanks, a marker, and then as many blanks as symbols. The targets are the symbols, in order, at
    those last blanks, and the blank at every earlier step. A sequence of length L with 10 symbols
    has L + 20 steps. The blank is 0, symbols are 1 to `alphabet`, and the marker is alphabet + 1.

    Args:
        config: The configuration. Its `build` method creates the task too.

    Example:
        >>> import torch, sabtune as sab
        >>> task = sab.Copying.Config(length=20, symbols=5).build()
        >>> batch = task.batch(64, 20, torch.Generator().manual_seed(0))
        >>> batch.x.shape, batch.targets.shape, int(batch.scored.sum())
        (torch.Size([64, 30, 10]), torch.Size([64, 30]), 5)
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """The configuration of the copying task.

        Args:
            length: The number of steps from the last symbol to the marker, at least 1.
            symbols: The number of symbols to recall, at least 1.
            alphabet: The number of different symbols, at least 2.
            input: What a step shows: "one-hot", a vector of `alphabet` + 2 numbers; or "scalar",
                the symbol's number itself, as in the authors' released script.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> task = sab.Copying.Config(length=100, symbols=10, alphabet=8).build()
            >>> task.steps(100), task.inputs, task.outputs
            (120, 10, 9)
        """

        length: int = 100
        symbols: int = 10
        alphabet: int = 8
        input: Literal["one-hot", "scalar"] = "one-hot"

        def __post_init__(self) -> None:
            check_whole("length", self.length, least=1)
            check_whole("symbols", self.symbols, least=1)
            check_whole("alphabet", self.alphabet, least=2)

        def build(self) -> Copying:
            return Copying(self)

    def __init__(self, config: Config):
        super().__init__(config)
        self.config = config
        self.marker = config.alphabet + 1
        self.inputs = 1 if config.input == "scalar" else config.alphabet + 2
        self.outputs = config.alphabet + 1
        self.chance = 1 / config.alphabet

    def steps(self, length: int) -> int:
        return length + 2 * self.config.symbols

    def batch(
        self, size: int, length: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Batch:
        n, T = self.config.symbols, self.steps(length)
        symbols = torch.randint(1, self.config.alphabet + 1, (size, n), generator=generator)
        symbols = moved(symbols, device)
        shown = torch.full((size, T), BLANK, device=device)
        shown[:, :n] = symbols
        shown[:, n + length - 1] = self.marker
        targets = torch.full((size, T), BLANK, device=device)
        targets[:, -n:] = symbols
        return Batch(x=self._encode(shown), targets=targets, scored=last(n, T))

    def sources(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pairs (t, i) of a step t that must recall step i, counted from 1.

        The last `symbols` steps recall the first `symbols` steps, in order.
        """
        n, T = self.config.symbols, x.shape[0]
        shown = torch.arange(1, n + 1)
        return torch.stack([T - n + shown, shown], dim=1)

    def _encode(self, shown: torch.Tensor) -> torch.Tensor:
        if self.config.input == "scalar":
            return shown.unsqueeze(-1).float()
        return one_hot(shown, self.inputs)
