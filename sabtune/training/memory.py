"""Peak memory of training, on the GPU or in this process."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch


def forget_peak(device: torch.device) -> None:
    """Reset the peak memory, because a process may run many trials one after the other.

    For a CPU this requires Linux; elsewhere it does nothing.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: proc(5)


def peak(device: torch.device) -> float:
    """Return the peak memory in MiB: the GPU's allocated memory or the process's resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
