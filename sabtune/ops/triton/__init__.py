"""Kernels for NVIDIA GPUs, in Triton, which is loaded once they are asked for."""

from sabtune.ops.triton.call import SWITCH, asked_for, runs_on, sab, supports

__all__ = ["SWITCH", "asked_for", "runs_on", "sab", "supports"]
