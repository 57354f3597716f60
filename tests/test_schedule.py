"""Test every sparsity schedule and its shape."""

from __future__ import annotations

import pytest

from sabtune.errors import ConfigError
from sabtune.schedule import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    Linear,
    Moving,
    Schedule,
    Stepwise,
)
from sabtune.testing import check_schedule

EXAMPLES: dict[str, Schedule] = {
    "constant": Constant(),
    "linear": Linear(start=12, share=0.6),
    "cosine": Cosine(start=12, warmup=0.1, share=0.6),
    "exponential": Exponential(start="all"),
    "stepwise": Stepwise(start=12, steps=3),
}
MOVING = sorted(EXAMPLES.keys() - {"constant"})
QUARTERS = (0, 0.25, 0.5, 0.75, 1)


def test_every_schedule_has_an_example_here() -> None:
    assert EXAMPLES.keys() == SCHEDULES.keys()


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_keeps_its_contract(kind: str) -> None:
    check_schedule(EXAMPLES[kind])


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_falls_to_the_final_value(kind: str) -> None:
    values = [EXAMPLES[kind].k_top(step / 100, 5, dense=20) for step in range(101)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("kind", MOVING)
def test_every_moving_schedule_starts_and_ends_on_time(kind: str) -> None:
    part = SCHEDULES[kind]
    assert issubclass(part, Moving)
    schedule = part(start="all", warmup=0.2, share=0.7)
    assert {schedule.k_top(p, 3, dense=31) for p in (0, 0.1, 0.2)} == {31}
    assert {schedule.k_top(p, 3, dense=31) for p in (0.7, 0.8, 1)} == {3}
    assert 3 < schedule.k_top(0.45, 3, dense=31) < 31


@pytest.mark.parametrize("kind", MOVING)
def test_every_moving_schedule_can_increase(kind: str) -> None:
    part = SCHEDULES[kind]
    assert issubclass(part, Moving)
    values = [part(start=1, share=1.0).k_top(p / 50, 9, dense=31) for p in range(51)]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (1, 9)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(), [1, 1, 1, 1, 1]),
        (Linear(start=17, share=1.0), [17, 13, 9, 5, 1]),
        (Cosine(start=17, share=1.0), [17, 15, 9, 3, 1]),  # 16·(2 ± √2)/4 + 1 = 14.66 and 3.34
        (Exponential(start=16, share=1.0), [16, 8, 4, 2, 1]),
        (Stepwise(start=17, share=1.0, steps=2), [17, 17, 9, 9, 1]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Schedule) else "",
)
def test_the_shape_of_each_schedule(schedule: Schedule, values: list[int]) -> None:
    assert [schedule.k_top(p, 1, dense=99) for p in QUARTERS] == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 0}, "share is 0"),
        ({"share": 1.1}, "share is 1.1"),
        ({"warmup": 0.5}, "warmup is 0.5"),
        ({"warmup": -0.1}, "warmup is -0.1"),
        ({"start": 0}, "start is 0"),
        ({"start": "most"}, "start is 'most'"),
    ],
)
def test_schedule_values_out_of_range_are_named(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Linear(**values)  # type: ignore[arg-type]
