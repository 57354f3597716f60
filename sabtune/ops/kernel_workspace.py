"""Memory that is used again from one call to the next, and the threads of a call.

Fresh memory costs a page fault for every 4 KiB. A `Workspace` is one block, cut into the arrays of
the call that holds it; while it is held nobody else has it, and what an earlier call left in it is
never read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sabtune.ops.kernel import Shape

ALIGNMENT = 64  # bytes: a cache line
IDLE = 6  # blocks kept for later: forward, backward, evaluation, and what threads work in


@dataclass(frozen=True, eq=False)
class Workspace:
    """Arrays that lie in one block."""

    block: Tensor  # (bytes,)
    arrays: list[NDArray[Any]]


@dataclass
class Shelf:
    """The idle blocks of this process; safe to use from several threads."""

    poisoned: bool = False  # whether each block is filled with NaN first: for tests
    _idle: list[Tensor] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, shapes: Sequence[Shape]) -> Workspace:
        """Arrays of these shapes in the smallest idle block that holds them, or in a new one."""
        sizes = [prod(shape) * np.dtype(dtype).itemsize for shape, dtype in shapes]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
        with self._lock:
            fitting = [i for i, block in enumerate(self._idle) if block.numel() >= starts[-1]]
            best = min(fitting, key=lambda i: self._idle[i].numel(), default=None)
            block = None if best is None else self._idle.pop(best)
        if block is None:
            block = torch.empty(starts[-1], dtype=torch.uint8)
        if self.poisoned:
            block.fill_(0xFF)  # a NaN in float32 and in float64, -1 as an index
        whole = block.numpy()
        arrays = [
            whole[start : start + size].view(dtype).reshape(shape)
            for start, size, (shape, dtype) in zip(starts, sizes, shapes, strict=False)
        ]
        return Workspace(block, arrays)

    def give_back(self, workspace: Workspace) -> None:
        with self._lock:
            self._idle.append(workspace.block)
            del self._idle[:-IDLE]

    def clear(self) -> None:
        with self._lock:
            self._idle.clear()


SHELF = Shelf()
_POOLS: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process and number of threads


def parts(count: int) -> list[tuple[int, int]]:
    """0 … count in as many ranges as torch has threads, none of them empty."""
    threads = min(torch.get_num_threads(), count)
    ends = [count * i // threads for i in range(threads + 1)]
    return list(pairwise(ends))


def in_parts(ranges: list[tuple[int, int]], work: Callable[[int, int], None]) -> None:
    """`work` on every range, each in a thread of its own; with one range, none is started."""
    if len(ranges) == 1:
        work(*ranges[0])
        return
    name = os.getpid(), len(ranges) - 1  # a forked process has none of its parent's threads
    pool = _POOLS.setdefault(name, ThreadPoolExecutor(name[1], thread_name_prefix="sab"))
    others = [pool.submit(work, *each) for each in ranges[1:]]
    work(*ranges[0])
    for other in others:
        other.result()
