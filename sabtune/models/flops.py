"""Count the multiply-adds of a model: those of its products of matrices, in the forward pass.

Import this module where it is needed: `torch.utils.flop_counter` takes a while to import.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

MOST_OPERATIONS = 2_000
"""The largest number of operations that a count runs, in about 0.1 s."""


class TooManyOperationsError(Exception):
    """A forward pass of more than MOST_OPERATIONS operations."""


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the FLOPs of the products within the context.

    Raises TooManyOperationsError after MOST_OPERATIONS operations. It counts what torch's
    `FlopCounterMode` does, but that imports torch's compiler, which takes seconds.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False, so that torch doesn't import its compiler."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int = 0
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.operations += 1
        if self.operations > MOST_OPERATIONS:
            raise TooManyOperationsError
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = FORMULAS.get(func.overloadpacket)
        self.flops += formula(*args, **kwargs, out_val=result) if formula else 0
        return result


def _vector_flops(first: Tensor, *_: Any, **__: Any) -> int:
    return 2 * first.numel()


def _recurrence_flops(x: Tensor, of_x: Tensor, of_h: Tensor, *_: Any, **__: Any) -> int:
    return 2 * x.shape[0] * x.shape[1] * (of_x.numel() + of_h.numel())


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    rows = query.numel() // query.shape[-1]
    return 2 * rows * key.shape[-2] * (query.shape[-1] + value.shape[-1])


aten = torch.ops.aten

FORMULAS: Mapping[Any, Callable[..., int]] = {
    **flop_registry,
    aten.mv: _vector_flops,
    aten.dot: _vector_flops,
    aten.mkldnn_rnn_layer: _recurrence_flops,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
}
"""The FLOPs of an operation, from its operands: those of torch, and of products that it lacks."""


def counted(model: nn.Module, inputs: int, steps: int) -> float | None:
    """Return the multiply-adds of a step, counted in a call on one sequence of T steps.

    The call is one of a copy of the model on the CPU, with the final value of each schedule, and
    the formulas are those of `torch.utils.flop_counter`. Returns None if the call fails, or makes
    more than MOST_OPERATIONS operations.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            twin: Any = copy.deepcopy(model).to("cpu")
            twin.set_progress(1.0)
            with _Counter() as counter:
                twin(torch.zeros(1, steps, inputs))
    except Exception:  # a model of your own may raise anything, and must train all the same
        return None
    return float(counter.flops / 2 / steps)
