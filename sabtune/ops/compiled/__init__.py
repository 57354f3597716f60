"""The CPU backend: compiled kernels that run one pass over the sequence and one back."""

from sabtune.ops.compiled.backend import BACKEND

__all__ = ["BACKEND"]
