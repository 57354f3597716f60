"""Memory that is reused from one call to the next.

Fresh memory costs a page fault for every 4 KiB. A `Workspace` is one block of memory, divided into
the arrays of the call that holds it. Meanwhile no other call uses the block. A call never reads
what an earlier call left in it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sabtune.ops.compiled.common import Shape

ALIGNMENT = 64  # bytes: a cache line
IDLE = 6  # idle blocks to keep: for forward, backward, evaluation, and the scratch of threads


@dataclass(frozen=True, eq=False)
class Workspace:
    """Arrays that share one block of memory."""

    block: NDArray[np.uint8]
    arrays: list[NDArray[Any]]


@dataclass
class BufferPool:
    """The idle blocks of this process; safe to use from several threads."""

    poisoned: bool = False  # for tests: whether to fill each block with NaN first
    _idle: list[NDArray[np.uint8]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, shapes: Sequence[Shape]) -> Workspace:
        """Return arrays of these shapes, in the smallest idle block that fits or in a new one."""
        sizes = [prod(shape) * np.dtype(dtype).itemsize for shape, dtype in shapes]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
        with self._lock:
            fitting = [i for i, block in enumerate(self._idle) if block.size >= starts[-1]]
            best = min(fitting, key=lambda i: self._idle[i].size, default=None)
            block = None if best is None else self._idle.pop(best)
        if block is None:
            block = aligned(starts[-1])
        if self.poisoned:
            block.fill(0xFF)  # a NaN in float32 and in float64, -1 as an index
        arrays = [
            block[start : start + size].view(dtype).reshape(shape)
            for start, size, (shape, dtype) in zip(starts, sizes, shapes, strict=False)
        ]
        return Workspace(block, arrays)

    def release(self, workspace: Workspace) -> None:
        """Keep the block of a workspace for a later call."""
        with self._lock:
            self._idle.append(workspace.block)
            del self._idle[:-IDLE]

    def clear(self) -> None:
        """Free all idle blocks."""
        with self._lock:
            self._idle.clear()


def aligned(size: int) -> NDArray[np.uint8]:
    """Return `size` bytes that begin at a cache line.

    They come from NumPy because it asks for huge pages, and torch does not.
    """
    block = np.empty(size + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + size]


BUFFERS = BufferPool()
