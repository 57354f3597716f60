"""The threads of a call: those of torch, if torch uses GNU OpenMP.

After each operation of torch, its threads keep their processors busy for a while, waiting for the
next operation. Other threads would have to share those processors, and two threads on two
processors then take 1.5 times as long. So the threads of torch do the work, through the OpenMP
library that torch has loaded.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

Work = Callable[[int, int], None]
Range = tuple[int, int]

_POOLS: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process and number of threads


def parts(count: int) -> list[Range]:
    """Split 0 to `count` into at most as many ranges as torch has threads; none is empty."""
    threads = min(torch.get_num_threads(), count)
    ends = [count * i // threads for i in range(threads + 1)]
    return list(pairwise(ends))


def in_parts(ranges: list[Range], work: Work) -> None:
    """Call `work` on every range, each in its own thread; a single range needs no thread.

    Raises the exception that `work` raised on the first range that failed.
    """
    if len(ranges) == 1:
        work(*ranges[0])
        return
    library = openmp()
    if library is None:
        in_pool(ranges, work)
    else:
        in_team(library, ranges, work)


@cache
def openmp() -> Any:
    """Return the OpenMP library that torch computes with if it is GNU's, otherwise None."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
    own = [path for path in loaded if Path(path).is_relative_to(Path(torch.__file__).parent)]
    return ctypes.CDLL(own[0]) if own else None


def in_team(library: Any, ranges: list[Range], work: Work) -> None:
    """Call `work` on each range, in the member of an OpenMP team with the range's number."""
    problems: dict[int, BaseException] = {}

    def member(_: int | None) -> None:
        # a team may be smaller than requested, for example within another team
        first, size = library.omp_get_thread_num(), library.omp_get_num_threads()
        for index in range(first, len(ranges), size):
            try:
                work(*ranges[index])
            except BaseException as problem:  # C cannot pass it on
                problems[index] = problem

    library.GOMP_parallel(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(member), None, len(ranges), 0)
    for index in sorted(problems):
        raise problems[index]


def in_pool(ranges: list[Range], work: Work) -> None:
    """Call `work` on the first range here, and on the others in threads that are kept."""
    name = os.getpid(), len(ranges) - 1  # a forked process does not have its parent's threads
    pool = _POOLS.setdefault(name, ThreadPoolExecutor(name[1], thread_name_prefix="sab"))
    others = [pool.submit(work, *each) for each in ranges[1:]]
    work(*ranges[0])
    for other in others:
        other.result()
