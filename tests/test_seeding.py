"""Random streams: the same when asked for again, and never another's."""

from __future__ import annotations

import itertools

import torch

from sabtune.seeding import Stream, generator, stream_seed


def test_streams_never_share_a_seed() -> None:
    seeds = {
        stream: {stream_seed(seed, stream, i) for seed in range(300) for i in range(30)}
        for stream in Stream
    }
    for a, b in itertools.combinations(Stream, 2):
        assert not seeds[a] & seeds[b]


def test_the_purpose_survives_what_torch_drops() -> None:
    """Torch's generator keeps 32 bits of a seed: two that differ above them are the same."""
    assert torch.equal(
        torch.rand(3, generator=torch.Generator().manual_seed(5 + 2**32)),
        torch.rand(3, generator=torch.Generator().manual_seed(5)),
    )
    assert all(stream_seed(s, stream) < 2**32 for s in range(100) for stream in Stream)


def test_seed_and_index_tell_generators_apart() -> None:
    draws = {
        tuple(torch.rand(2, generator=generator(seed, Stream.TRAINING, index)).tolist())
        for seed, index in itertools.product(range(20), range(20))
    }
    assert len(draws) == 400


def test_the_same_again() -> None:
    one, two = (torch.rand(5, generator=generator(9, Stream.TEST, 3)) for _ in range(2))
    assert torch.equal(one, two)
