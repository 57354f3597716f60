"""Random streams that never share a seed.

Every generator comes from one recorded seed and the purpose it serves. Torch's CPU generator, a
Mersenne Twister, is seeded with the low 32 bits of what it is given and drops the rest
(`at::mt19937`), so the purpose occupies the lowest three of those: generators of two purposes
differ for whatever seeds.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import torch

PURPOSE_BITS = 3


class Stream(IntEnum):
    """What a generator is for; of data, which part is drawn from.

    SELECTION chooses trials, TEST is what a search measures at a trial's end, CONFIRMATION what a
    contest does: no search ever sees it. STATES are those that training starts sequences from.
    """

    INITIALISATION = 0
    TRAINING = 1
    SELECTION = 2
    TEST = 3
    CONFIRMATION = 4
    STATES = 5


def stream_seed(seed: int, stream: Stream, index: int = 0) -> int:
    """The 32-bit seed of generator `index` of a stream: 29 hashed bits above the stream's three."""
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=4).digest()
    hashed = int.from_bytes(digest, "big") >> PURPOSE_BITS
    return hashed << PURPOSE_BITS | stream


def generator(seed: int, stream: Stream, index: int = 0) -> torch.Generator:
    """A CPU generator for `stream`; `index` tells several of one stream apart."""
    return torch.Generator().manual_seed(stream_seed(seed, stream, index))
