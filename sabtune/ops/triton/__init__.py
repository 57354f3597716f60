"""SAB in Triton kernels for NVIDIA GPUs. Triton is imported on the first call that uses them."""

from sabtune.ops.triton.call import BACKEND, SWITCH, is_enabled, problem_on

__all__ = ["BACKEND", "SWITCH", "is_enabled", "problem_on"]
