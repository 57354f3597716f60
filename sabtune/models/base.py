"""The interface of a model: a recurrent map from sequences to logits.

Shapes: B batch, T steps, I inputs, O outputs, H hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from sabtune.schema import Config, check_whole


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config, ABC):
    """The base of every model's configuration, a frozen dataclass that builds the model.

    A configuration of your own defines `build` and `label`, and may define `legend`.

    Args:
        hidden: H, the number of units of the recurrent state, from 1 to `2**20`.

    Raises:
        ConfigError: A field is unknown, out of range or of the wrong type.

    Example:
        >>> import torch, sabtune as sab
        >>> config = sab.LSTM.Config(hidden=8)
        >>> model = config.build(2, 3, steps=10, generator=torch.Generator().manual_seed(0))
        >>> isinstance(config, sab.ModelConfig), isinstance(model, sab.Model)
        (True, True)
    """

    hidden: int = 128

    def __post_init__(self) -> None:
        check_whole("hidden", self.hidden, least=1, most=2**20)

    @property
    def period(self) -> int:
        """The number of steps after which the pattern of remembered states repeats."""
        return 1

    def share_kept(self, steps: int) -> float | None:
        """Return the share of the memories that the last of T = `steps` steps attends to.

        The share is that with the final k_top. A model without memories, or one whose
        scores decide how many it attends to, returns None.
        """
        return None

    @property
    def same_at_test(self) -> bool:
        """Whether the logits are the same in training mode and in evaluation mode.

        Models are measured in evaluation mode.
        """
        return True

    @abstractmethod
    def label(self) -> str:
        """Return a short description that distinguishes this configuration in a list."""

    def legend(self) -> str:
        """Return the name of this configuration in figures and tables, as in "LSTM, full BPTT".

        Defaults to `label()`.
        """
        return self.label()

    @abstractmethod
    def build(self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator) -> Model:
        """Build a model with weights drawn from `generator`.

        Args:
            inputs: I, the number of inputs of a step.
            outputs: O, the number of logits of a step.
            steps: T, the number of steps of a training sequence.
            generator: A random generator on the CPU.
        """


def uniform(*shape: int, fan_in: int, generator: torch.Generator | None) -> nn.Parameter:
    """Draw a weight uniformly from ±1/√fan_in, PyTorch's default for nn.LSTM and nn.Linear."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))


def matrix_weights(model: nn.Module) -> int:
    """Return the number of weights in matrices: the multiply-adds of a step that uses each once."""
    return sum(weight.numel() for weight in model.parameters() if weight.dim() > 1)


def linear(
    inputs: int, outputs: int, generator: torch.Generator, *, bias: bool = True
) -> nn.Linear:
    """Return a linear map with weights drawn from `generator`, from PyTorch's default range."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(uniform(*weight.shape, fan_in=inputs, generator=generator))
    return layer


def state_tensors(state: Any) -> dict[str, Tensor]:
    """Return the fields of a state, tensors or integers, as copied tensors by name."""
    values = {field.name: torch.as_tensor(getattr(state, field.name)) for field in fields(state)}
    return {name: value.clone() for name, value in values.items()}


def detached(state: Any) -> Any:
    """Return a copy of a state whose tensors are detached."""
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    tensors = {name: t.detach() for name, t in values.items() if isinstance(t, Tensor)}
    return replace(state, **tensors)


class Model(nn.Module, ABC):
    """A recurrent network that can process a sequence in several calls.

    A model of your own defines `state_type`, and the methods `forward`, `carry`, `restart` and
    `random_start`. `state_type` is a dataclass of ints of at least 0 and of tensors whose first
    dimension is the batch. Keep the configuration as `config`, which `print` shows.

    Example:
        >>> import torch, sabtune as sab
        >>> config = sab.LSTM.Config(hidden=8)
        >>> model = config.build(2, 3, steps=10, generator=torch.Generator().manual_seed(0))
        >>> x = torch.randn(4, 10, 2)  # (B, T, I)
        >>> logits, state = model(x)
        >>> first, state = model(x[:, :6])  # the same in two calls
        >>> last, state = model(x[:, 6:], state)
        >>> torch.allclose(torch.cat([first, last], dim=1), logits, atol=1e-6)
        True
    """

    state_type: type
    """The type of the state that `forward` returns."""

    def extra_repr(self) -> str:
        """Return the configuration in words, for `print`."""
        config: ModelConfig | None = getattr(self, "config", None)
        return f"{config.label()} hidden={config.hidden}" if config else ""

    def state_of(self, tensors: Mapping[str, Tensor]) -> Any:
        """Rebuild a state from the result of `state_tensors`.

        The tensors are copied into memory that PyTorch allocates, because the alignment of an
        operand can change the last bits of a product. Raises KeyError if a field is missing.
        """
        values = {field.name: tensors[field.name] for field in fields(self.state_type)}
        return self.state_type(
            **{k: t.clone().to(self.device) if t.dim() else int(t) for k, t in values.items()}
        )

    @abstractmethod
    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Compute the logits of every step, and the state after the last one.

        A sequence gives the same logits in one call and in several.

        Args:
            x: (B, T, I), a batch of B sequences of T steps with I inputs.
            state: The state that an earlier call on the same sequences returned. None at the start.

        Returns:
            The logits (B, T, O), and the state after x.

        Raises:
            InputError: x or `state` doesn't fit the model.
        """

    @abstractmethod
    def carry(self, state: Any, span: int) -> Any:
        """Return `state` prepared for the next update, which continues the sequence.

        It is detached, has no memories that are more than `span` steps old, and its keys are
        computed with the current weights.
        """

    @abstractmethod
    def random_start(self, batch: int, scale: float, generator: torch.Generator) -> Any:
        """Return a random state at the start of `batch` sequences, with no memories.

        It is on the device of the weights. A model without a recurrent state returns the state
        without memories, which has no numbers.

        Args:
            batch: B, the number of sequences.
            scale: The standard deviation of its numbers.
            generator: A random generator on the CPU.
        """

    @abstractmethod
    def restart(self, state: Any) -> Any:
        """Return the state at the start of new sequences that keep what `state` passes on.

        It is detached and has no memories.
        """

    @property
    def period(self) -> int:
        """The number of steps after which the pattern of remembered states repeats."""
        return 1

    @property
    def settled(self) -> bool:
        """Whether all scheduled values have reached their final value."""
        return True

    def multiply_adds(self, inputs: int, steps: int) -> float:
        """Return the number of multiply-adds of a step, for one sequence, in the forward pass.

        It is the mean over a sequence of T = `steps` steps, with the final value of each schedule.
        Products of matrices count, and nothing else does. By default, `torch.utils.flop_counter`
        counts them in a call on one sequence. A call of more than 2,000 operations, such as a loop
        over many steps, isn't counted: the model then counts as one that multiplies by each weight
        of its matrices once a step. If yours computes something else, define this method.

        Args:
            inputs: I, the number of inputs of a step.
            steps: T, the number of steps of the sequence.
        """
        from sabtune.models.flops import counted

        count = counted(self, inputs, steps)
        return matrix_weights(self) if count is None else count

    @property
    def device(self) -> torch.device:
        """The device of the weights. Sequences must be on the same device."""
        return next(self.parameters()).device

    def set_progress(self, progress: float) -> None:
        """Set the completed share of training (0 to 1). A model without a schedule ignores it."""

    def in_force(self) -> dict[str, float]:
        """Return the current scheduled values by name, for metrics."""
        return {}
