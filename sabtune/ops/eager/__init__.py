"""SAB in PyTorch operations, on any device and for every rule."""

from sabtune.ops.eager.call import DTYPES, sab, supports

__all__ = ["DTYPES", "sab", "supports"]
