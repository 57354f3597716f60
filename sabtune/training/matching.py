"""Models of the same number of parameters."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import NoReturn, TypeVar

import torch

from sabtune.errors import ConfigError
from sabtune.models import ModelConfig
from sabtune.schema import check_whole, shown
from sabtune.tasks import Copying, TaskConfig

M = TypeVar("M", bound=ModelConfig)

WIDEST = 2**20
"""The largest width that is tried."""

MOST_REFUSED = 4096
"""The number of widths in a row that a model may refuse, such as those that heads don't divide."""

Sizes = tuple[int, int, int]
"""The number of inputs, of outputs, and of the steps of a training sequence."""


def matched(model: M, *, parameters: int | ModelConfig, task: TaskConfig | None = None) -> M:
    """Return the configuration with the width at which a model has a given number of parameters.

    Only `hidden` is changed. Of all widths that the model accepts, the result has the number of
    parameters that is closest to the requested one. Baselines of the same size as SAB are a fairer
    comparison than baselines of the same width.

    Args:
        model: The configuration of the model. Its `hidden` doesn't matter.
        parameters: The number of parameters, readout included; or the configuration of a model
            with that number, on the same task.
        task: The task, which decides the numbers of inputs and outputs. Defaults to
            `Copying.Config()`, with 10 inputs and 9 outputs.

    Returns:
        `model` with another `hidden`.

    Raises:
        ConfigError: An argument is of the wrong type, or no width gives so few or so many
            parameters.

    Example:
        >>> import sabtune as sab
        >>> task = sab.Copying.Config(length=100)
        >>> sab.matched(sab.GRU.Config(), parameters=10_000, task=task).hidden
        51
        >>> ours = sab.SAB.Config(hidden=64)
        >>> sab.matched(sab.LSTM.Config(), parameters=ours, task=task)
        LSTM.Config(hidden=78, forget_bias=0.0, k_trunc=0, h_detach=0.0)
    """
    task = Copying.Config() if task is None else task
    _check_config("model", model, ModelConfig, "LSTM.Config()")
    _check_config("task", task, TaskConfig, "Copying.Config(length=100)")
    if isinstance(parameters, ModelConfig):
        parameters = count_parameters(parameters, task)
    check_whole("parameters", parameters, least=1)
    return replace(model, hidden=_width(model, parameters, _sizes(task)))


def count_parameters(model: ModelConfig, task: TaskConfig) -> int:
    """Return the number of parameters that a model has for a task, readout included."""
    return _count(model, _sizes(task))


def _sizes(task: TaskConfig) -> Sizes:
    built = task.build()
    return built.inputs, built.outputs, built.remembered_steps


def _check_config(name: str, value: object, wanted: type, example: str) -> None:
    if not isinstance(value, wanted):
        raise ConfigError(f"{name} is {shown(value)}: give a configuration such as {example}")


@cache
def _count(model: ModelConfig, sizes: Sizes) -> int:
    """Count the parameters of a model, built without memory for its weights if it can be."""
    inputs, outputs, steps = sizes
    build = partial(model.build, inputs, outputs, steps=steps, generator=torch.Generator())
    try:
        with torch.device("meta"):
            built = build()
    except (RuntimeError, TypeError, ValueError):  # a model of your own may read its weights
        built = build()
    return sum(parameter.numel() for parameter in built.parameters())


@cache
def _width(model: ModelConfig, parameters: int, sizes: Sizes) -> int:
    """Return the width with the closest number of parameters, by bisection."""

    def counted(width: int) -> int:
        return _count(replace(model, hidden=width), sizes)

    def refuse(bound: str, width: int) -> NoReturn:
        raise ConfigError(
            f"parameters is {parameters:,}: {model.legend()} has {bound} {counted(width):,} "
            f"parameters, at hidden={width}; give another number or another model"
        )

    narrowest = _accepted(model, 1) or model.hidden
    if parameters < counted(narrowest):
        refuse("at least", narrowest)
    # From here on, `low` and the widths below give fewer parameters, and `high` gives enough.
    low = high = narrowest
    while counted(high) < parameters:
        wider = _accepted(model, 2 * high)
        if wider is None:
            refuse("at most", high)
        low, high = high, wider
    while high - low > 1:
        middle = (low + high) // 2
        accepted = _accepted(model, middle)
        assert accepted is not None
        low, high = (middle, high) if counted(accepted) < parameters else (low, middle)
    closest = (width for width in (_accepted(model, low), _accepted(model, high)) if width)
    return min(closest, key=lambda width: abs(counted(width) - parameters))


def _accepted(model: ModelConfig, width: int) -> int | None:
    """Return the first width from `width` on that the model accepts; None if there is none."""
    for each in range(width, min(width + MOST_REFUSED, WIDEST) + 1):
        with suppress(ConfigError):
            return replace(model, hidden=each).hidden
    return None
