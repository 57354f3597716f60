"""Every sparsity schedule, and the shape of each."""

from __future__ import annotations

import pytest

from sabtune.errors import ConfigError
from sabtune.schedule import SCHEDULES, Constant, Linear, Schedule

EXAMPLES: dict[str, Schedule] = {"constant": Constant(), "linear": Linear(start=12, share=0.6)}


def test_every_schedule_has_an_example_here() -> None:
    assert EXAMPLES.keys() == SCHEDULES.keys()


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("final", [1, 5])
def test_every_schedule_ends_at_the_final_value(kind: str, final: int) -> None:
    values = [EXAMPLES[kind].k_top(step / 100, final) for step in range(101)]
    assert values[-1] == final
    assert min(values) >= 1
    assert all(isinstance(value, int) for value in values)


def test_linear_goes_straight_and_then_stays() -> None:
    schedule = Linear(start=11, share=0.5)
    assert [schedule.k_top(p, 1) for p in (0, 0.1, 0.25, 0.5, 0.9, 1)] == [11, 9, 6, 1, 1, 1]


def test_linear_may_rise() -> None:
    assert [Linear(start=1, share=1.0).k_top(p, 5) for p in (0, 0.5, 1)] == [1, 3, 5]


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ConfigError, match="share is"):
        Linear(start=3, share=share)
