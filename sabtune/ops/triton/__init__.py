"""SAB in Triton kernels for NVIDIA GPUs. Triton is imported on the first call that uses them."""

from sabtune.ops.triton.call import SWITCH, is_enabled, runs_on, sab, supports

__all__ = ["SWITCH", "is_enabled", "runs_on", "sab", "supports"]
