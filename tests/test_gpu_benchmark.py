"""Test the parts of `benchmarks/gpu.py` that run without a GPU."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sabtune.ops import triton as gpu
from sabtune.ops.call import Call, Results
from tests.gpu_cases import DEVICE

pytest.importorskip("triton", reason="Triton isn't installed")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(gpu.SWITCH, "1")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu")


def test_without_a_gpu_it_prints_one_line_with_exit_code_2() -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(BENCHMARKS / "gpu.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "")
    assert len(done.stdout.splitlines()) == 1


def test_wrong_results_have_no_times(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [benchmark.Case(1, 3, 4, 2, 1, 2)]
    benchmark.verify(sizes, DEVICE)
    right = benchmark.BACKENDS["kernels"]

    def wrong(call: Call) -> Results:
        (logits,), after = right.run(call)
        return (1.001 * logits,), after

    monkeypatch.setitem(benchmark.BACKENDS, "kernels", replace(right, run=wrong))
    with pytest.raises(SystemExit, match="No times"):
        benchmark.verify(sizes, DEVICE)


def test_the_roofline_by_hand(benchmark: Any) -> None:
    """Check two steps of one unit, which have one and two memories, all with a weight."""
    case = benchmark.Case(1, 2, 1, 1, 1, 1)
    assert benchmark.flop(case) == 2 * 3 * (88 + 2 + 2) + 4 * 3 + 12 * 3
    assert benchmark.moved(case, torch.float32) == 2 * (2 * (8 + 4 + 40 + 8) + 8) + 16 * 3
    at = {"rate": 600.0, "width": 304.0}
    assert benchmark.least_ms(case, torch.float32, **at) == 1000
    assert benchmark.least_ms(case, torch.float32, **(at | {"width": 152.0})) == 2000
