"""Test asynchronous successive halving."""

from __future__ import annotations

import random

from sabtune.study.definition import ASHA
from sabtune.tuning.asha import Halving


def test_no_trial_is_pruned_before_the_first_rung() -> None:
    halving = Halving(ASHA(grace=100))
    assert all(halving.goes_on(trial, 99, 0.0) for trial in range(10))


def test_the_best_half_of_the_trials_at_a_rung_continues() -> None:
    halving = Halving(ASHA(grace=10, reduction=2))
    came = [(0, 0.5, True), (1, 0.4, False), (2, 0.6, True), (3, 0.55, True), (4, 0.3, False)]
    for trial, score, expected in came:
        assert halving.goes_on(trial, 10, score) == expected


def test_a_trial_is_compared_once_per_rung() -> None:
    halving = Halving(ASHA(grace=10, reduction=2))
    for trial in range(4):
        halving.goes_on(trial, 10, 0.1 * trial)
    assert halving.goes_on(3, 19, 0.0)  # between two rungs the score doesn't matter
    assert halving.goes_on(3, 20, 0.0)  # the first trial at the next rung


def test_rungs_are_powers_of_the_reduction_even_if_no_report_falls_on_them() -> None:
    halving = Halving(ASHA(grace=30, reduction=3))
    steps = [1, 29, 30, 45, 89, 90, 100, 269, 270, 809, 810]
    assert [halving.rung(step) for step in steps] == [
        None, None, 0, 0, 0, 1, 1, 1, 2, 2, 3,
    ]  # fmt: skip


def test_reports_of_earlier_searches_count() -> None:
    """An interrupted and resumed search makes the same decisions as an uninterrupted one."""
    draw = random.Random(0)
    scores = [[draw.random() for _ in range(4)] for _ in range(30)]
    whole, first = (Halving(ASHA(grace=1, reduction=2)) for _ in range(2))

    def run(halving: Halving, trial: int) -> dict[int, float]:
        told = {}
        for i, score in enumerate(scores[trial]):
            told[2**i] = score
            if not halving.goes_on(trial, 2**i, score):
                break
        return told

    expected = [run(whole, trial) for trial in range(30)]
    told = [run(first, trial) for trial in range(15)]
    second = Halving(ASHA(grace=1, reduction=2))
    for trial, reported in enumerate(told):
        second.remember(trial, reported, complete=False)
    assert told + [run(second, trial) for trial in range(15, 30)] == expected


def test_a_trial_that_ended_early_counts_at_later_rungs() -> None:
    halving, later = (Halving(ASHA(grace=10, reduction=2)) for _ in range(2))
    assert halving.goes_on(0, 10, 0.9)
    halving.end(0, 0.99)
    later.remember(0, {10: 0.9, 15: 0.99}, complete=True)
    for told in (halving, later):
        assert told.rungs[0] == {0: 0.9}  # the score that it had at this rung
        assert not told.goes_on(1, 20, 0.98)
        assert told.goes_on(2, 20, 1.0)
