"""Multi-query associative recall at the sizes and with the distances of Zoology."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding

from sabtune.schema import check, check_whole
from sabtune.tasks.base import SyntheticTask, TaskConfig
from sabtune.tasks.batch import CPU, Batch, distinct, moved, one_hot


class MQAR(SyntheticTask):
    """Multi-query associative recall at the sizes and with the distances of Zoology.

    The task is from Arora et al. ("Zoology", 2023, arXiv 2312.04927), as their program draws it. A
    sequence has T = `length` steps. The first 2 · `pairs` steps show `pairs` different keys, each
    followed by its value; the values differ, too. Every second of the steps after them, from the
    first one on, is a slot, and each key is asked for in a slot of its own. The target at such a
    step is the key's value. The other steps show random keys and values (`filler="random"`), which
    may equal those of the pairs, or a blank.

    As the gaps between repetitions in text do, slots follow a power law: the keys choose their
    slots in the order in which they were shown, slot g = 1, 2, … among the free ones with a
    probability proportional to g^(`power` - 1). With `power` 0.01, most questions come soon after
    the pairs; 1 makes all slots equally likely. Questions are at different steps in each sequence.

    The published settings have 4,095 keys and 4,096 values, from 4 pairs at length 64 to 64 pairs
    at length 512. With `grows="pairs"`, the ladder has more pairs at longer lengths. `Recall` is
    the same task with few keys and with one distance for all pairs.

    Symbols are the keys, 0 to `keys` - 1, then the values, then the blank. The classes are the
    values. The loss covers only the steps of the questions.

    Args:
        config: The configuration. Its `build` method creates the task too.

    Example:
        >>> import torch, sabtune as sab
        >>> task = sab.MQAR.Config(length=64, pairs=4).build()
        >>> batch = task.batch(32, 64, torch.Generator().manual_seed(0))
        >>> batch.x.shape, batch.targets.shape, int(batch.scored.sum())
        (torch.Size([32, 64, 64]), torch.Size([32, 64]), 128)
    """

    loss_unit = "nats a query"
    loss_everywhere = False

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """The configuration of multi-query associative recall.

        Args:
            length: The number of steps T, at least four times the number of pairs.
            pairs: The number of pairs in a sequence, at least 1.
            keys: The number of different keys, at least `pairs`.
            values: The number of different values, at least 2 and at least `pairs`.
            power: The exponent of the power law plus 1, from 0 to 1. 1 makes all slots equally
                likely.
            filler: What is shown at the steps that show no pair and no question: "random" keys and
                values, or the "blank".
            embedding: The number of inputs of a step. Each symbol is shown as a fixed random vector
                of so many numbers, 1 or -1. It must be at least 2 · log2(symbols) + 10, so that all
                vectors differ. None shows a one-hot vector, which needs much memory and time if
                there are thousands of symbols.
            grows: What increases with the length on the ladder: "distance", the number of steps
                alone; or "pairs", also the number of pairs, in proportion to the length.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> task = sab.MQAR.Config(length=64, pairs=4, grows="pairs").build()
            >>> task.pairs(1024), task.steps(1024), task.inputs, task.outputs
            (64, 1024, 64, 4096)
        """

        length: int = 64
        pairs: int = 4
        keys: int = 4096
        values: int = 4096
        power: float = 0.01
        filler: Literal["random", "blank"] = "random"
        embedding: int | None = 64
        grows: Literal["distance", "pairs"] = "distance"

        def __post_init__(self) -> None:
            check_whole("pairs", self.pairs, least=1)
            check_whole("keys", self.keys, least=self.pairs)
            check_whole("values", self.values, least=max(2, self.pairs))
            check(0 <= self.power <= 1, "power", self.power, "a number from 0 to 1")
            if self.embedding is not None:
                least = math.ceil(2 * math.log2(self.symbols) + 10)
                check_whole("embedding", self.embedding, least=least)
            self.build().steps(self.length)

        @property
        def symbols(self) -> int:
            """The number of different symbols."""
            return self.keys + self.values + 1

        def build(self) -> MQAR:
            return MQAR(self)

    def __init__(self, config: Config):
        super().__init__(config)
        self.config = config
        self.inputs = config.embedding or config.symbols
        self.outputs = config.values
        self.chance = 1 / config.values

    def pairs(self, length: int) -> int:
        """Return the number of pairs of a sequence.

        Raises:
            ConfigError: There are fewer keys or values than pairs.
        """
        config = self.config
        if config.grows == "distance":
            return config.pairs
        pairs = max(1, config.pairs * length // self.length)
        for name in ("keys", "values"):
            count = getattr(config, name)
            check(count >= pairs, name, count, f"at least {pairs}, the pairs at length {length}")
        return pairs

    def steps(self, length: int) -> int:
        least = 4 * self.pairs(length)
        check(length >= least, "length", length, f"at least {least}, four times the pairs")
        return length

    def batch(
        self, size: int, length: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Batch:
        config, T, n = self.config, self.steps(length), self.pairs(length)
        keys = distinct(size, n, config.keys, generator)
        values = distinct(size, n, config.values, generator)
        questions = 2 * n + 2 * self._slots(size, n, (T - 2 * n) // 2, generator)
        shown = torch.full((size, T), config.keys + config.values)
        if config.filler == "random":
            shown = torch.randint(config.keys + config.values, (size, T), generator=generator)
        shown[:, : 2 * n : 2] = keys
        shown[:, 1 : 2 * n : 2] = config.keys + values
        shown.scatter_(1, questions, keys)
        targets = torch.zeros((size, T), dtype=torch.long).scatter_(1, questions, values)
        scored = torch.zeros((size, T), dtype=torch.bool).scatter_(1, questions, True)
        return Batch(
            x=self._encode(moved(shown, device)), targets=moved(targets, device), scored=scored
        )

    def _slots(self, size: int, n: int, slots: int, generator: torch.Generator) -> Tensor:
        """Draw a different slot for each of the n keys: (size, n), counted from 0.

        The first arrivals of independent Poisson processes come in the order of draws without
        replacement whose probabilities are proportional to the rates.
        """
        rates = torch.arange(1.0, slots + 1) ** (self.config.power - 1)
        arrivals = torch.empty((size, slots)).exponential_(generator=generator) / rates
        return arrivals.topk(n, largest=False).indices

    def _encode(self, shown: Tensor) -> Tensor:
        if self.config.embedding is None:
            return one_hot(shown, self.inputs)
        return embedding(shown, _vectors(self.config.symbols, self.inputs, shown.device))


@functools.lru_cache(maxsize=8)
def _vectors(symbols: int, width: int, device: torch.device) -> Tensor:
    """Return the vector of each symbol (symbols, width), the same in every process."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (symbols, width), generator=generator)
    return (2.0 * signs - 1).to(device)
