"""Test that the diagnostics of what a model recalls agree with the model's outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sabtune.models import SAB
from sabtune.seeding import Stream, generator
from sabtune.training.diagnostics import RecallMap, recall_map


def model_and_input(k_top: int = 3, k_att: int = 2) -> tuple[SAB, Tensor]:
    config = SAB.Config(hidden=6, k_top=k_top, k_att=k_att, k_trunc=4)
    model = config.build(4, 3, steps=21, generator=generator(0, Stream.INITIALIZATION))
    assert isinstance(model, SAB)
    return model.double(), torch.randn(
        5, 21, 4, dtype=torch.float64, generator=generator(0, Stream.TEST)
    )


def test_the_weights_reproduce_the_summaries() -> None:
    model, x = model_and_input()
    recalled = recall_map(model, x)
    hidden, summary, _ = model.recall(x)
    torch.testing.assert_close(torch.einsum("bti,bih->bth", recalled.by_step(), hidden), summary)


@pytest.mark.parametrize("k_top", [1, 3, 50])
def test_a_step_recalls_at_most_k_top_earlier_states(k_top: int) -> None:
    model, x = model_and_input(k_top=k_top)
    recalled = recall_map(model, x)
    assert recalled.made_at.tolist() == list(range(0, 21 + 1, 2))
    kept = (recalled.weights != 0).sum(dim=-1)
    assert 0 < int(kept.max()) <= k_top
    assert recalled.by_step().triu().eq(0).all()  # neither itself nor a later step
    sums = recalled.weights.sum(dim=-1)
    torch.testing.assert_close(sums[:, 2:], torch.ones_like(sums[:, 2:]), rtol=1e-3, atol=1e-3)


def by_hand() -> RecallMap:
    """Return three steps with k_att 1: step 2 recalls step 1, and step 3 recalls step 1 and m_0."""
    weights = torch.tensor([[[0.0, 0, 0, 0], [0, 1, 0, 0], [0.25, 0.75, 0, 0]]])
    return RecallMap(weights, torch.tensor([0, 1, 2, 3]))


def test_distances_count_steps_back() -> None:
    assert by_hand().distances().tolist() == [0.0, 1.0, 0.75]


def test_sparsity_is_the_share_of_memories_not_recalled() -> None:
    assert by_hand().kept().tolist() == [0.0, 1.0, 2.0]
    assert by_hand().sparsity() == pytest.approx(1 - 3 / (1 + 2 + 3))


def test_distances_sum_to_the_weight_of_all_states() -> None:
    model, x = model_and_input()
    recalled = recall_map(model, x)
    torch.testing.assert_close(recalled.distances().sum(), recalled.weights[:, :, 1:].sum())
