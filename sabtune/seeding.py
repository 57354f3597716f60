"""Random streams that never share a seed.

The seed of every generator is derived from one recorded seed and the generator's purpose. PyTorch's
CPU generator, a Mersenne Twister, uses only the low 32 bits of its seed (`at::mt19937`). The lowest
three of these bits hold the purpose, so two generators of different purposes never share a seed.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import torch

PURPOSE_BITS = 3


class Stream(IntEnum):
    """The purpose of a generator, and of a part of a data set.

    INITIALIZATION: the initial weights. TRAINING: the training sequences. SELECTION: the sequences
    that a search compares trials on. TEST: the sequences that are measured at the end of a trial.
    CONFIRMATION: the sequences of a confirmation, which no search uses. STATES: the initial states
    of training sequences. GRADIENTS: the steps at which a model blocks gradients.

    Example:
        >>> import sabtune as sab
        >>> [stream.name for stream in sab.Stream]
        ['INITIALIZATION', 'TRAINING', 'SELECTION', 'TEST', 'CONFIRMATION', 'STATES', 'GRADIENTS']
    """

    INITIALIZATION = 0
    TRAINING = 1
    SELECTION = 2
    TEST = 3
    CONFIRMATION = 4
    STATES = 5
    GRADIENTS = 6


def stream_seed(seed: int, stream: Stream, index: int = 0) -> int:
    """Return the 32-bit seed of generator `index`: 29 hashed bits, then the 3 bits of `stream`."""
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=4).digest()
    hashed = int.from_bytes(digest, "big") >> PURPOSE_BITS
    return hashed << PURPOSE_BITS | stream


def generator(seed: int, stream: Stream, index: int = 0) -> torch.Generator:
    """Return a CPU generator for `stream`; `index` distinguishes several of one stream."""
    return torch.Generator().manual_seed(stream_seed(seed, stream, index))
