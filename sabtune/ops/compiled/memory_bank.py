"""The memory that one call leaves to the next.

A sequence may come in several calls. `Bank` holds the memories and their keys as the kernels need
them, with spare room, so that a call appends its own memories and copies none. `Carried` is a state
that creates its memory and keys only when they are first read, which training never does.

Shapes: B batch, M memories, H hidden, W = H padded to whole vectors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sabtune.ops.compiled.common import REACH, Array, Flags, kernel, largest_magnitude
from sabtune.ops.compiled.layout import Layout
from sabtune.ops.compiled.simd import LANES, exp, load, store
from sabtune.ops.reference import State


def start_keys(raw: Tensor, keys: Array, all_wide: bool) -> Flags:
    """Write the kernels' keys of `raw`, W1 m (B, M, W); return which examples are wide (B,)."""
    wide = np.full(len(raw), all_wide)
    _start_keys(raw.numpy(), keys, wide)
    return wide


@kernel
def _start_keys(raw: Array, keys: Array, wide: Flags) -> None:
    """Write the keys (B, M or more, W) of raw (B, M, W); set wide (B,) where needed."""
    B, M, W = raw.shape
    for b in range(B):
        from_, to = b * M * W, b * keys.shape[1] * W
        if M > 0 and largest_magnitude(raw, from_, M * W) > REACH:
            wide[b] = True
        for j in range(0, M * W, LANES):
            v = load(raw, from_ + j)
            store(keys, to + j, v if wide[b] else exp(v + v))


class Bank:
    """Memories and keys (B, capacity, W), of which the first `count` are in use."""

    def __init__(self, state: State, layout: Layout, capacity: int, all_wide: bool):
        memory, raw = layout.rows(state.memory), layout.rows(state.keys)
        B, self.count, W = memory.shape
        self.memory: Array = memory.new_empty(B, capacity, W).numpy()
        self.keys = np.empty_like(self.memory)
        self.memory[:, : self.count] = memory.numpy()
        self.wide = start_keys(raw, self.keys, all_wide)
        self.all_wide = all_wide
        self._lock = threading.Lock()

    def claim(self, count: int, more: int) -> bool:
        """Reserve room for `more` memories after the first `count`.

        Returns False, and reserves nothing, if the bank has other memories there.
        """
        with self._lock:
            if self.count != count:
                return False
            self.count += more
        if self.count > self.memory.shape[1]:
            room = ((0, 0), (0, max(more, self.memory.shape[1])), (0, 0))
            self.memory, self.keys = np.pad(self.memory, room), np.pad(self.keys, room)
        return True

    def part(self, count: int) -> Bank:
        """Return a copy that holds the first `count` memories."""
        part = object.__new__(Bank)
        part.__setstate__(
            {
                "memory": self.memory[:, :count].copy(),
                "keys": self.keys[:, :count].copy(),
                "wide": self.wide.copy(),
                "all_wide": self.all_wide,
                "count": count,
            }
        )
        return part

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())


class Carried(State):
    """A state that creates its memory and keys when they are first read."""

    bank: Bank | None = None
    count: int = 0

    @cached_property
    def memory(self) -> Tensor:
        made: Tensor = vars(self).pop("_make_memory")()  # pop releases what it was made from
        return made

    @cached_property
    def keys(self) -> Tensor:
        made: Tensor = vars(self).pop("_make_keys")()
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the state. A copy gives the same bits and has its own part of the bank, if any."""
        if self.bank is not None:
            return on_bank, (self.bank.part(self.count), self.h, self.c, self.step)
        values = {name: getattr(self, name) for name in ("h", "c", "memory", "keys", "step")}
        return plain, (values,)


def carried(
    h: Tensor,
    c: Tensor,
    step: int,
    memory: Callable[[], Tensor],
    keys: Callable[[], Tensor],
    bank: Bank | None = None,
) -> Carried:
    """Return a state that calls these functions when its memory and its keys are first read."""
    state = object.__new__(Carried)
    values = {"h": h, "c": c, "step": step, "_make_memory": memory, "_make_keys": keys}
    vars(state).update(values, bank=bank, count=bank.count if bank else 0)
    return state


def on_bank(bank: Bank, h: Tensor, c: Tensor, step: int) -> Carried:
    """Return the state with h and c (B, H) and all memories that are in the bank now."""
    layout, count = Layout(h.shape[1]), bank.count

    def memory() -> Tensor:
        return layout.no_rows(torch.from_numpy(bank.memory[:, :count]))

    return carried(h, c, step, memory, lambda: raw_keys(bank, count, layout), bank)


def plain(values: dict[str, Any]) -> State:
    """Return the state of these values."""
    return State(**values)


def bank_of(state: State, layout: Layout, more: int, all_wide: bool) -> tuple[Bank, int]:
    """Return a bank with the state's memories and room for `more`, and the state's count."""
    if isinstance(state, Carried):
        bank = state.bank
        if bank and bank.all_wide == all_wide and bank.claim(state.count, more):
            return bank, state.count
    M0 = state.memory.shape[1]
    bank = Bank(state, layout, M0 + more, all_wide)
    bank.claim(M0, more)
    return bank, M0


def raw_keys(bank: Bank, count: int, layout: Layout) -> Tensor:
    """Return W1 m (B, M, H) of the first `count` memories of a bank."""
    kept = torch.from_numpy(bank.keys[:, :count])
    wide = torch.from_numpy(bank.wide)[:, None, None]
    return layout.no_rows(torch.where(wide, kept, 0.5 * kept.log()))
