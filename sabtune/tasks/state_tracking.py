"""State tracking: answer with the parity of bits, or with the composition of permutations."""

from __future__ import annotations

import functools
import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sabtune.schema import check, check_whole
from sabtune.tasks.base import SyntheticTask, TaskConfig
from sabtune.tasks.batch import CPU, Batch, last, moved, one_hot

Output = Literal["every", "last"]
"""The steps whose answers count."""


class StateTracking(SyntheticTask):
    """The word problem of a finite group: answer with the product of the elements so far.

    The elements are drawn uniformly and independently, and so are the products: a product
    determines the element that leads to it from the product before. `batch` draws products.
    """

    def __init__(self, config: TaskConfig, order: int, output: Output):
        super().__init__(config)
        self.inputs = self.outputs = order
        self.chance = 1 / order
        self.output = output
        self.loss_everywhere = self.output == "every"
        self.phased = self.output == "last"
        self.loss_unit = "nats a step" if self.loss_everywhere else "nats a sequence"

    def steps(self, length: int) -> int:
        check(length >= 2, "length", length, "at least 2, since the first step is its own answer")
        return length

    @abstractmethod
    def quotient(self, product: Tensor, before: Tensor) -> Tensor:
        """Return the elements that lead from the products `before` to the products `product`."""

    def batch(
        self, size: int, length: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Batch:
        products = torch.randint(self.outputs, (size, self.steps(length)), generator=generator)
        elements = products.clone()
        elements[:, 1:] = self.quotient(products[:, 1:], products[:, :-1])
        return Batch(
            x=one_hot(moved(elements, device), self.inputs),
            targets=moved(products, device),
            scored=last(length - 1 if self.output == "every" else 1, length),
        )


class Parity(StateTracking):
    """The parity task: answer with the parity of the bits so far.

    A sequence shows T = `length` random bits, each as a one-hot vector (2). The target at a step is
    1 if the number of ones up to it is odd. A recurrent network needs a state of one bit for it. A
    Transformer of fixed size can't compute it robustly at all lengths (Hahn 2020, arXiv
    1906.06755), and trained ones fail at lengths beyond those of training (Delétang et al. 2023,
    arXiv 2207.02098).

    With `output="every"`, every step has an answer. The first step does not count in accuracy: its
    answer is its input, and needs no memory. With `output="last"`, as in Delétang et al., only the
    last step has an answer.

    Args:
        config: The configuration. Its `build` method creates the task too.

    Example:
        >>> import torch, sabtune as sab
        >>> task = sab.Parity.Config(length=20).build()
        >>> batch = task.batch(64, 20, torch.Generator().manual_seed(0))
        >>> batch.x.shape, batch.targets.shape, int(batch.scored.sum())
        (torch.Size([64, 20, 2]), torch.Size([64, 20]), 19)
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """The configuration of the parity task.

        Args:
            length: The number of steps T, each of which shows a bit; at least 2.
            output: The steps that are answered: "every" or "last".

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> task = sab.Parity.Config(length=20, output="last").build()
            >>> task.steps(500), task.chance
            (500, 0.5)
        """

        length: int = 20
        output: Output = "every"

        def __post_init__(self) -> None:
            self.build().steps(self.length)

        def build(self) -> Parity:
            return Parity(self)

    def __init__(self, config: Config):
        super().__init__(config, 2, config.output)
        self.config = config

    def quotient(self, product: Tensor, before: Tensor) -> Tensor:
        return product ^ before


class Permutations(StateTracking):
    """The permutations task: answer with the composition of the permutations so far.

    This is the word problem of the symmetric groups S_2 to S_5. A sequence shows T = `length`
    random permutations of `items` items, each as a one-hot vector of `items`! numbers. The target
    at step t is p_t ∘ … ∘ p_1, the permutation that applies the ones so far in their order. The
    permutation with index i is the i-th of `itertools.permutations(range(items))`.

    A recurrent network can track this state. For 5 items, the problem is complete for NC¹
    (Barrington 1989), and no Transformer or linear state-space model of fixed depth solves it at
    all lengths, unless TC⁰ = NC¹ (Merrill et al., "The Illusion of State in State-Space Models",
    2024, arXiv 2404.08819).

    With `output="every"`, as in that paper, every step has an answer. The first step does not count
    in accuracy: its answer is its input, and needs no memory. With `output="last"`, only the last
    step has an answer.

    Args:
        config: The configuration. Its `build` method creates the task too.

    Example:
        >>> import torch, sabtune as sab
        >>> task = sab.Permutations.Config(length=10, items=3).build()
        >>> batch = task.batch(64, 10, torch.Generator().manual_seed(0))
        >>> batch.x.shape, batch.targets.shape, int(batch.scored.sum())
        (torch.Size([64, 10, 6]), torch.Size([64, 10]), 9)
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        """The configuration of the permutations task.

        Args:
            length: The number of steps T, each of which shows a permutation; at least 2.
            items: The number of permuted items, from 2 to 5; 5 gives the group S_5.
            output: The steps that are answered: "every" or "last".

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> task = sab.Permutations.Config(length=10, items=5).build()
            >>> task.inputs, task.outputs
            (120, 120)
        """

        length: int = 10
        items: int = 5
        output: Output = "every"

        def __post_init__(self) -> None:
            check_whole("items", self.items, least=2, most=5)
            self.build().steps(self.length)

        def build(self) -> Permutations:
            return Permutations(self)

    def __init__(self, config: Config):
        super().__init__(config, math.factorial(config.items), config.output)
        self.config = config

    def quotient(self, product: Tensor, before: Tensor) -> Tensor:
        return _quotients(self.config.items)[product, before]


@functools.cache
def _quotients(items: int) -> Tensor:
    """Return the table (N, N) of a ∘ b⁻¹ for permutations a and b, by their indices."""
    permutations = torch.tensor(list(itertools.permutations(range(items))))
    composed = permutations[:, permutations.argsort(dim=1)]  # (N, N, items)
    place_values = items ** torch.arange(items - 1, -1, -1)
    numbers = (permutations * place_values).sum(dim=-1)  # in rising order
    return torch.searchsorted(numbers, (composed * place_values).sum(dim=-1))
