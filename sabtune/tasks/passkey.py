"""The passkey task: recall a key that was shown at an unknown depth of noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sabtune.schema import check_whole
from sabtune.tasks.base import SyntheticTask, TaskConfig
from sabtune.tasks.batch import CPU, Batch, last, moved, one_hot


class Passkey(SyntheticTask):
    """The passkey task: recall a key that was shown at an unknown depth of noise.

    This is passkey retrieval by Mohtashami and Jaggi ("Landmark Attention", 2023, arXiv
    2305.16300), also known as a needle in a haystack, with symbols in place of words. A sequence of
    length L shows L random digits as noise. Among them, a marker and the `digits` digits of the key
    follow each other; the depth of the marker, the number of noise digits before it, is drawn
    uniformly from 0 to L. Then `digits` questions follow, whose targets are the digits of the key,
    in order. A sequence has L + 1 + 2 · `digits` steps.

    Noise and key have the same `alphabet` digits, 0 to `alphabet` - 1, so that only the marker
    tells the key from noise. The marker is `alphabet`, and the question is `alphabet` + 1. A step
    shows one of them as a one-hot vector. The classes are the digits. The loss covers only the
    steps of the questions.

    Args:
        config: The configuration. Its `build` method creates the task too.

    Example:
        >>> import torch, sabtune as sab
        >>> task = sab.Passkey.Config(length=20, digits=5).build()
        >>> batch = task.batch(64, 20, torch.Generator().manual_seed(0))
        >>> batch.x.shape, batch.targets.shape, int(batch.scored.sum())
        (torch.Size([64, 31, 12]), torch.Size([64, 31]), 5)
    """

    loss_unit = "nats a digit"
    loss_everywhere = False

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """The configuration of the passkey task.

        Args:
            length: The number of noise digits, at least 1.
            digits: The number of digits of the key, at least 1.
            alphabet: The number of different digits, at least 2.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> task = sab.Passkey.Config(length=50, digits=1).build()
            >>> task.steps(1000), task.chance
            (1003, 0.1)
        """

        length: int = 50
        digits: int = 5
        alphabet: int = 10

        def __post_init__(self) -> None:
            check_whole("length", self.length, least=1)
            check_whole("digits", self.digits, least=1)
            check_whole("alphabet", self.alphabet, least=2)

        def build(self) -> Passkey:
            return Passkey(self)

    def __init__(self, config: Config):
        super().__init__(config)
        self.config = config
        self.marker, self.question = config.alphabet, config.alphabet + 1
        self.inputs = config.alphabet + 2
        self.outputs = config.alphabet
        self.chance = 1 / config.alphabet

    def steps(self, length: int) -> int:
        return length + 1 + 2 * self.config.digits

    def batch(
        self, size: int, length: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Batch:
        n, T = self.config.digits, self.steps(length)
        shown = torch.randint(self.config.alphabet, (size, T), generator=generator)
        key = torch.randint(self.config.alphabet, (size, n), generator=generator)
        depth = torch.randint(length + 1, (size, 1), generator=generator)
        shown.scatter_(1, depth, self.marker)
        shown.scatter_(1, depth + torch.arange(1, n + 1), key)
        shown[:, T - n :] = self.question
        targets = torch.zeros((size, T), dtype=torch.long)
        targets[:, T - n :] = key
        return Batch(
            x=one_hot(moved(shown, device), self.inputs),
            targets=moved(targets, device),
            scored=last(n, T),
        )

    def sources(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pairs (t, i) of a question's step t that must recall step i, counted from 1.

        The last `digits` steps recall the steps after the marker, in order.
        """
        n, T = self.config.digits, x.shape[0]
        number, marked = torch.arange(1, n + 1), 1 + int(x[:, self.marker].argmax())
        return torch.stack([T - n + number, marked + number], dim=1)
