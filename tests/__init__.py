"""Without a GPU its kernels are run by Triton's interpreter: Triton reads this as it loads."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
