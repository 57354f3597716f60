"""Select Triton's interpreter where there is no GPU; Triton reads this setting when it loads."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
