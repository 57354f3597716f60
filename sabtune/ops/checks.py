"""Argument checks that every call of a cell passes first, whichever implementation runs it.

The checks run before anything is read, compiled or computed. They cost a valid call a few
microseconds, because messages are built only for a call that is refused.

Shapes: B batch, T steps, I inputs, H hidden, M memories, O outputs.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sabtune.errors import InputError
from sabtune.schema import shown

if TYPE_CHECKING:
    from sabtune.ops.reference import Parameters, Readout, Rule, Sparsity, State

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LARGEST_COUNT = 2**62

Named = tuple[str, Any, tuple[int, ...]]
"""A tensor's name, the tensor, and the shape that it must have."""

UNUSED = (0,)
"""The shape of a parameter that a rule does not use. Any empty tensor is accepted."""


def check_x(x: object, width: int | None = None) -> None:
    """Raise InputError unless x is a dense floating-point tensor (B, T, I) with T and I above 0.

    width: the required I; None accepts any.
    """
    if not isinstance(x, Tensor):
        raise InputError(f"x is of type {type(x).__name__}: give a torch.Tensor (B, T, I)")
    if x.dtype not in DTYPES or x.layout is not torch.strided:
        raise InputError(f"x is {describe(x)}: give a dense tensor of floating-point numbers")
    if x.is_meta:
        raise InputError("x is on the device meta, which has no values: give a tensor with values")
    wanted = "I" if width is None else width
    fits = x.dim() == 3 and x.shape[1] > 0 and x.shape[2] > 0
    if not fits or (width is not None and x.shape[2] != width):
        raise InputError(f"x is {tuple(x.shape)}: give (B, T, {wanted}) with T of at least 1")


def check_call(
    x: Tensor,
    state: object,
    p: Parameters,
    state_type: type,
    sparsity: Sparsity | None = None,
    readout: Readout | None = None,
    *,
    mixed: Callable[[], bool] | None = None,
) -> None:
    """Raise InputError unless state, weights and sparsity fit x (B, T, I) and one another.

    sparsity: SAB's counts and rule; None for self-attention. mixed: returns whether to accept
    different dtypes; None refuses them. Under autocast they are always accepted.
    """
    H, I = widths(p)
    check_x(x, I)
    check_state(state, state_type)
    rule = None
    if sparsity is not None:
        rule = sparsity.rule
        check_count("k_top", sparsity.k_top, least=1)
        check_count("k_att", sparsity.k_att, least=1)
        check_count("k_trunc", sparsity.k_trunc, least=0)
        check_count("state.step", state.step, least=0)  # type: ignore[attr-defined]
    B = x.shape[0]
    W1, W2, w3 = ((H, H), (H, H), (H,)) if rule is None else attention_shapes(rule, H)
    named: list[Named] = [
        ("weight_hh", p.weight_hh, (4 * H, H)),
        ("weight_ih", p.weight_ih, (4 * H, I)),
        ("bias_ih", p.bias_ih, (4 * H,)),
        ("bias_hh", p.bias_hh, (4 * H,)),
        ("W1", p.W1, W1),
        ("W2", p.W2, W2),
        ("w3", p.w3, w3),
        ("state.h", state.h, (B, H)),  # type: ignore[attr-defined]
        ("state.c", state.c, (B, H)),  # type: ignore[attr-defined]
    ]
    if not is_lazy(state):
        memory = state.memory  # type: ignore[attr-defined]
        M = memory.shape[1] if isinstance(memory, Tensor) and memory.dim() == 3 else 1
        M = max(M, 0 if rule is None else 1)
        named.append(("state.memory", memory, (B, M, H)))
        named.append(("state.keys", state.keys, (B, M, H)))  # type: ignore[attr-defined]
    if readout is not None:
        V, b = readout
        O = V.shape[0] if isinstance(V, Tensor) and V.dim() == 2 else 1
        named += [("V", V, (O, 2 * H)), ("b", b, (O,))]
    check_tensors(x, named, mixed)


def check_tensors(
    x: Tensor, named: Iterable[Named], mixed: Callable[[], bool] | None = None
) -> None:
    """Raise InputError unless each tensor has its shape, and the device and dtype of x.

    mixed: as in `check_call`.
    """
    dtype, device, strided = x.dtype, x.device, torch.strided
    for name, tensor, shape in named:
        if not isinstance(tensor, Tensor):
            raise InputError(f"{name} is of type {type(tensor).__name__}: give a torch.Tensor")
        if tensor.shape != shape and not (shape == UNUSED and not tensor.numel()):
            raise_wrong_shape(x, name, tensor, shape)
        if tensor.layout is not strided:
            raise InputError(f"{name} is {describe(tensor)}: give a dense tensor")
        if tensor.device != device:
            raise InputError(f"{name} is on {tensor.device}, x on {device}: move one of them")
        if tensor.dtype != dtype:
            allowed = torch.is_autocast_enabled(device.type) or (mixed is not None and mixed())
            if tensor.dtype not in DTYPES or not allowed:
                raise InputError(
                    f"{name} is {describe(tensor)}, x is {describe(x)}: convert one of them"
                )


def check_state(state: object, state_type: type) -> None:
    """Raise InputError unless `state` is of type `state_type`."""
    if not isinstance(state, state_type):
        actual = f"{type(state).__module__}.{type(state).__qualname__}"
        wanted = f"{state_type.__module__}.{state_type.__qualname__}"
        raise InputError(f"state is a {actual}: give the {wanted} of an earlier call, or None")


def is_lazy(state: object) -> bool:
    """Return whether a state computes its memory and keys when they are first read."""
    return "_make_memory" in vars(state) and "_make_keys" in vars(state)


def computed_tensors(state: State) -> tuple[Tensor, ...]:
    """Return h and c, and memory and keys unless the state is lazy.

    A lazy state is detached, and all its tensors have the same dtype.
    """
    if is_lazy(state):
        return state.h, state.c
    return state.h, state.c, state.memory, state.keys


def check_count(name: str, value: object, least: int) -> None:
    """Raise InputError unless `value` is a whole number from `least` to `LARGEST_COUNT`."""
    whole = type(value) is int or (
        isinstance(value, numbers.Integral) and not isinstance(value, bool)
    )
    if not whole or not least <= value <= LARGEST_COUNT:  # type: ignore[operator]
        raise InputError(f"{name} is {shown(value)}: give a whole number of at least {least}")


def widths(p: Parameters) -> tuple[int, int]:
    """Return H and I of the weights. Raises InputError if either weight is not (4H, …)."""
    W_hh, W_ih = p.weight_hh, p.weight_ih
    for name, weight in (("weight_hh", W_hh), ("weight_ih", W_ih)):
        if not isinstance(weight, Tensor) or weight.dim() != 2 or not weight.size(1):
            actual = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            width = "H" if name == "weight_hh" else "I"
            raise InputError(f"{name} is {actual}: give a tensor (4H, {width})")
    return W_hh.size(1), W_ih.size(1)


def attention_shapes(rule: Rule, H: int) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of W1, W2 and w3 that a rule uses."""
    if rule.form == "released":
        return UNUSED, UNUSED, (2 * H,)
    square = (H, H)
    match rule.scoring:
        case "dot":
            return square, square, UNUSED
        case "separable":
            return square, UNUSED, (H,)
    return square, square, (H,)


def raise_wrong_shape(x: Tensor, name: str, tensor: Tensor, shape: tuple[int, ...]) -> NoReturn:
    """Raise InputError because `tensor` does not have this shape."""
    if shape == UNUSED:
        wanted = "an empty tensor: this rule does not use it"
    elif name.startswith("state."):
        wanted = f"{shape}, for this model and x of {tuple(x.shape)}"
    else:
        wanted = f"{shape}"
    raise InputError(f"{name} is {tuple(tensor.shape)}: give {wanted}")


def describe(tensor: Tensor) -> str:
    """Return the tensor's dtype and, unless it is dense, its layout."""
    layout = "" if tensor.layout is torch.strided else f"{tensor.layout} of "
    return f"{layout}{tensor.dtype}"


def transformed() -> bool:
    """Return whether a `torch.func` transform or forward-mode differentiation is active.

    Only the reference implementation supports those.
    """
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
