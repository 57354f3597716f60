"""The CPU backend: compiled kernels that run one pass over the sequence and one back."""
