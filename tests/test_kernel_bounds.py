"""Test the checked build of the kernels: every access outside an array raises IndexError.

`make test-checked` runs these tests with SABTUNE_CHECKED_KERNELS=1. Without that variable, only the
test of the variable runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sabtune.ops import reference
from sabtune.ops.compiled import call
from sabtune.ops.compiled.common import SOURCES, widen
from sabtune.ops.compiled.memory_bank import _start_keys
from sabtune.ops.compiled.simd import CHECKED, LANES, called, load, prefetch, spread, store
from sabtune.ops.compiled.tile import Left, Right, Rows, tile
from tests.fused_cases import Sparsity, dispatch_sab, noise, parameters

SIZE = 3 * LANES
ROWS, VECTORS = 2, 2

Array = Any
least_tile = tile(ROWS, VECTORS)
checked = pytest.mark.skipif(not CHECKED, reason="only in the checked build")


@called
def loaded(a: Array, at: int) -> None:
    store(a, 0, load(a, at))


@called
def stored(a: Array, at: int) -> None:
    store(a, at, load(a, 0))


@called
def spreads(a: Array, at: int) -> None:
    store(a, 0, spread(a, at))


@called
def indexed(a: Array, at: int) -> None:
    a[0] = a[at]


@called
def assigned(a: Array, at: int) -> None:
    a[at] = a[0]


@called
def prefetched(a: Array, at: int) -> None:
    prefetch(a, at)


@called
def tiled(
    a: Array, at: int, row: int, step: int, b: Array, b_at: int, b_step: int, b_next: int,
    count: int, c: Array, c_at: int, c_row: int,
) -> None:  # fmt: skip
    left, right = Left(a, at, row, step), Right(b, b_at, b_step, b_next)
    least_tile(left, right, count, Rows(c, c_at, c_row))


@called
def widened(a: Array, at: int) -> None:
    widen(a, at, 1)


def test_the_switch_selects_the_build_and_its_cache() -> None:
    assert os.environ.get("SABTUNE_CHECKED_KERNELS") == ("1" if CHECKED else None)
    assert SOURCES.endswith("_checked") == CHECKED


@checked
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("access", "last"),
    [
        (loaded, SIZE - LANES),
        (stored, SIZE - LANES),
        (spreads, SIZE - 1),
        (indexed, SIZE - 1),
        (assigned, SIZE - 1),
        (widened, SIZE - 1),
    ],
)
def test_an_offset_outside_its_array_raises(
    access: Callable[..., None], last: int, dtype: Any
) -> None:
    a = np.ones(SIZE, dtype)
    for at in (0, last):
        access(a, at)
    for at in (-1, last + 1, -SIZE, 10**15):
        with pytest.raises(IndexError, match="out of bounds"):
            access(a, at)


@checked
def test_prefetch_accepts_any_address() -> None:
    a = np.ones(SIZE)
    for at in (-1, SIZE, 10**15):
        prefetched(a, at)


COUNT = 3
TILE = {  # matches the arrays below exactly
    "at": 0, "row": COUNT, "step": 1, "b_at": 0, "b_step": VECTORS * LANES, "b_next": LANES,
    "count": COUNT, "c_at": 0, "c_row": VECTORS * LANES,
}  # fmt: skip


def run_tile(**changed: int) -> np.ndarray:
    a, b, c = (
        np.ones((ROWS, COUNT)),
        np.ones((COUNT, VECTORS * LANES)),
        np.zeros((ROWS, VECTORS * LANES)),
    )
    v = TILE | changed
    tiled(
        a, v["at"], v["row"], v["step"], b, v["b_at"], v["b_step"], v["b_next"], v["count"],
        c, v["c_at"], v["c_row"],
    )  # fmt: skip
    return c


@checked
def test_a_tile_inside_its_arrays_is_computed() -> None:
    assert (run_tile() == COUNT).all()
    assert (run_tile(at=COUNT, row=-COUNT) == COUNT).all()
    assert (run_tile(count=0, at=10**9, b_at=10**9) == 0).all()  # reads neither a nor b


@checked
@pytest.mark.parametrize("changed", TILE)
@pytest.mark.parametrize("by", [-1, 1])
def test_a_tile_that_reaches_outside_raises(changed: str, by: int) -> None:
    values = {changed: TILE[changed] + by}
    if by < 0 and changed not in ("at", "b_at", "c_at"):  # smaller strides stay inside
        values[changed] = -TILE[changed]
    if changed == "count" and by < 0:
        pytest.skip("fewer stay inside")
    with pytest.raises(IndexError, match="tile's"):
        run_tile(**values)


@checked
def test_a_short_array_raises_in_a_kernel() -> None:
    raw, wide = np.ones((2, 3, LANES)), np.zeros(2, np.bool_)
    _start_keys(raw, np.empty((2, 3, LANES)), wide)
    with pytest.raises(IndexError, match="store is out of bounds"):
        _start_keys(raw, np.empty((2, 2, LANES)), wide)


@checked
@pytest.mark.parametrize("threads", [1, 2])
def test_a_short_array_raises_in_a_pass(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that an error in any thread of the pass reaches the caller."""
    p, x = parameters(17, 4, torch.float64), noise(4, 6, 4, dtype=torch.float64)
    sparsity = Sparsity(k_top=2, k_att=1, k_trunc=0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    dispatch_sab(x, reference.initial_state(4, p), p, **sparsity)
    original = call.CompiledCall.compute

    def with_few_cells(self: Any, tape: Any, *args: Any, **how: Any) -> Any:
        tape.memory = tape.memory[:-1]
        return original(self, tape, args[0], tape.memory, *args[2:], **how)

    monkeypatch.setattr(call.CompiledCall, "compute", with_few_cells)
    p.W1.requires_grad_()
    with pytest.raises(IndexError, match="out of bounds"):
        dispatch_sab(x, reference.initial_state(4, p), p, **sparsity)
