"""What a model is said to recall, against what its outputs say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sabtune.models import SAB
from sabtune.seeding import Stream, generator
from sabtune.training.diagnostics import RecallMap, recall_map


def model_and_input(k_top: int = 3, k_att: int = 2) -> tuple[SAB, Tensor]:
    config = SAB.Config(hidden=6, k_top=k_top, k_att=k_att, k_trunc=4)
    model = config.build(4, 3, steps=21, generator=generator(0, Stream.INITIALISATION))
    assert isinstance(model, SAB)
    return model.double(), torch.randn(
        5, 21, 4, dtype=torch.float64, generator=generator(0, Stream.TEST)
    )


def test_the_weights_are_those_that_make_the_summaries() -> None:
    model, x = model_and_input()
    recalled = recall_map(model, x)
    hidden, summary, _ = model.recall(x)
    torch.testing.assert_close(torch.einsum("bti,bih->bth", recalled.by_step(), hidden), summary)


@pytest.mark.parametrize("k_top", [1, 3, 50])
def test_no_step_recalls_more_than_k_top_or_what_is_not_there_yet(k_top: int) -> None:
    model, x = model_and_input(k_top=k_top)
    recalled = recall_map(model, x)
    assert recalled.made_at.tolist() == list(range(0, 21 + 1, 2))
    kept = (recalled.weights != 0).sum(dim=-1)
    assert 0 < int(kept.max()) <= k_top
    assert recalled.by_step().triu().eq(0).all()  # neither itself nor what comes after
    sums = recalled.weights.sum(dim=-1)
    torch.testing.assert_close(sums[:, 2:], torch.ones_like(sums[:, 2:]), rtol=1e-3, atol=1e-3)


def by_hand() -> RecallMap:
    """Three steps, k_att 1: the second recalls the first, the third the first and m_0."""
    weights = torch.tensor([[[0.0, 0, 0, 0], [0, 1, 0, 0], [0.25, 0.75, 0, 0]]])
    return RecallMap(weights, torch.tensor([0, 1, 2, 3]))


def test_distances_count_steps_back() -> None:
    assert by_hand().distances().tolist() == [0.0, 1.0, 0.75]


def test_sparsity_is_the_share_left_alone() -> None:
    assert by_hand().kept().tolist() == [0.0, 1.0, 2.0]
    assert by_hand().sparsity() == pytest.approx(1 - 3 / (1 + 2 + 3))


def test_distances_sum_to_all_that_was_recalled_of_states() -> None:
    model, x = model_and_input()
    recalled = recall_map(model, x)
    torch.testing.assert_close(recalled.distances().sum(), recalled.weights[:, :, 1:].sum())
