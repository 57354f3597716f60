"""SAB in PyTorch operations, on any device and for every rule."""

from sabtune.ops.eager.call import BACKEND, DTYPES

__all__ = ["BACKEND", "DTYPES"]
