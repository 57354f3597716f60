"""Test that random streams are reproducible and distinct."""

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


def test_stream_seeds_fit_into_32_bits() -> None:
    """Torch's generator uses only the lower 32 bits of a seed."""
    assert torch.equal(
        torch.rand(3, generator=torch.Generator().manual_seed(5 + 2**32)),
        torch.rand(3, generator=torch.Generator().manual_seed(5)),
    )
    assert all(stream_seed(s, stream) < 2**32 for s in range(100) for stream in Stream)


def test_generators_differ_by_seed_and_index() -> None:
    draws = {
        tuple(torch.rand(2, generator=generator(seed, Stream.TRAINING, index)).tolist())
        for seed, index in itertools.product(range(20), range(20))
    }
    assert len(draws) == 400


def test_a_generator_is_reproducible() -> None:
    one, two = (torch.rand(5, generator=generator(9, Stream.TEST, 3)) for _ in range(2))
    assert torch.equal(one, two)
