"""Multi-query associative recall: recall the value that was shown with each key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from sabtune.schema import check, check_whole
from sabtune.tasks.base import SyntheticTask, TaskConfig
from sabtune.tasks.batch import CPU, Batch, last, moved, one_hot


class Recall(SyntheticTask):
    """Multi-query associative recall: recall the value that was shown with each key.

    This is the probe of Arora et al. ("Zoology", 2023, arXiv 2312.04927) with controlled distances.
    A sequence shows `pairs` keys, each followed by its value, then blanks, then every key again in
    another order. The target at such a key is its value. At length L, the first queried key comes L
    steps after the last value, and a query comes at most L + 3 · (pairs - 1) steps after its value.

    Symbols are the keys, 0 to `keys` - 1, then the values, then the blank. A step shows a symbol as
    a one-hot vector. The classes are the values. The loss covers only the steps of the queried
    keys.

    Args:
        config: The configuration. Its `build` method creates the task too.

    Example:
        >>> import torch, sabtune as sab
        >>> task = sab.Recall.Config(length=32, pairs=4, keys=16, values=8).build()
        >>> batch = task.batch(64, 32, torch.Generator().manual_seed(0))
        >>> batch.x.shape, batch.targets.shape, int(batch.scored.sum())
        (torch.Size([64, 43, 25]), torch.Size([64, 43]), 4)
    """

    loss_unit = "nats a query"
    loss_everywhere = False

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """The configuration of the recall task.

        Args:
            length: The number of steps from the last value to the first queried key, at least 1.
            pairs: The number of pairs in a sequence, at least 1.
            keys: The number of different keys, at least `pairs`. A sequence has no pairs with the
                same key.
            values: The number of different values, at least 2.
            grows: What increases with the length on the ladder: "distance"; "pairs", the number of
                pairs in proportion to the length, at the training distance; or "both".

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> task = sab.Recall.Config(length=32, pairs=4, grows="pairs").build()
            >>> task.pairs(128), task.distance(128), task.steps(128)
            (16, 32, 79)
        """

        length: int = 32
        pairs: int = 4
        keys: int = 16
        values: int = 8
        grows: Literal["distance", "pairs", "both"] = "distance"

        def __post_init__(self) -> None:
            check_whole("length", self.length, least=1)
            check_whole("pairs", self.pairs, least=1)
            check_whole("keys", self.keys, least=self.pairs)
            check_whole("values", self.values, least=2)

        def build(self) -> Recall:
            return Recall(self)

    def __init__(self, config: Config):
        super().__init__(config)
        self.config = config
        self.inputs = config.keys + config.values + 1
        self.outputs = config.values
        self.chance = 1 / config.values

    def distance(self, length: int) -> int:
        """Return the number of steps from the last value to the first queried key."""
        return self.length if self.config.grows == "pairs" else length

    def pairs(self, length: int) -> int:
        """Return the number of pairs of a sequence.

        Raises:
            ConfigError: There are fewer keys than pairs.
        """
        config = self.config
        if config.grows == "distance":
            return config.pairs
        pairs = max(1, round(config.pairs * length / self.length))
        enough = pairs <= config.keys
        check(enough, "keys", config.keys, f"at least {pairs}, the pairs at length {length}")
        return pairs

    def steps(self, length: int) -> int:
        return 3 * self.pairs(length) + self.distance(length) - 1

    def batch(
        self, size: int, length: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Batch:
        config, n, T = self.config, self.pairs(length), self.steps(length)
        keys = torch.rand((size, config.keys), generator=generator).topk(n).indices
        values = torch.randint(config.values, (size, n), generator=generator)
        order = torch.rand((size, n), generator=generator).topk(n).indices
        pairs = torch.stack([keys, config.keys + values], dim=-1).flatten(1)
        blanks = torch.full((size, T - 3 * n), config.keys + config.values)
        unscored = torch.zeros((size, T - n), dtype=torch.long)
        shown = torch.cat([pairs, blanks, keys.gather(1, order)], dim=1)
        targets = torch.cat([unscored, values.gather(1, order)], dim=1)
        return Batch(
            x=one_hot(moved(shown, device), self.inputs),
            targets=moved(targets, device),
            scored=last(n, T),
        )
