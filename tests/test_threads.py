"""Test the threads of a compiled call."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from sabtune.ops.compiled import threads
from sabtune.ops.compiled.threads import Range, Work, in_parts, in_pool, in_team, openmp, parts

Run = Callable[[list[Range], Work], None]


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def team(ranges: list[Range], work: Work) -> None:
    in_team(openmp(), ranges, work)


def both() -> list[Run]:
    return [in_pool, *([team] if openmp() is not None else [])]


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU's OpenMP on Linux alone")
def test_torch_provides_openmp() -> None:
    assert openmp() is not None


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_parts_cover_the_range(count: int) -> None:
    ranges = parts(count)
    assert len(ranges) == min(3, count)
    assert [i for low, high in ranges for i in range(low, high)] == list(range(count))


@pytest.mark.parametrize("run", both())
def test_parts_run_concurrently(run: Run) -> None:
    together = threading.Barrier(3, timeout=30)
    done: list[Range] = []

    def work(low: int, high: int) -> None:
        together.wait()  # fails unless all three run at the same time
        done.append((low, high))

    run(parts(9), work)
    assert sorted(done) == [(0, 3), (3, 6), (6, 9)]


@pytest.mark.parametrize("run", both())
def test_an_error_in_a_part_is_raised(run: Run) -> None:
    def work(low: int, high: int) -> None:
        if low:
            raise ValueError(low)

    with pytest.raises(ValueError, match="3"):
        run(parts(9), work)


def test_a_single_part_runs_in_the_calling_thread() -> None:
    here: list[int] = []
    in_parts([(0, 5)], lambda low, high: here.append(threading.get_ident()))
    assert here == [threading.get_ident()]


def test_without_openmp_a_pool_runs_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "openmp", lambda: None)
    done: list[Range] = []
    in_parts(parts(6), lambda low, high: done.append((low, high)))
    assert sorted(done) == parts(6)
