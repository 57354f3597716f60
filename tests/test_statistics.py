"""Compare each statistic with values from enumeration, by hand or from a table."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy import stats

from sabtune.analysis import statistics
from sabtune.analysis.statistics import Estimate, Floats, Interval

Averaging = Callable[[ArrayLike], Estimate]


def two_heaps(rng: np.random.Generator, n: int) -> Floats:
    solved = rng.random(n) < 0.6
    return np.where(solved, 1 - 0.01 * rng.random(n), 0.2 + 0.1 * rng.random(n))


@pytest.mark.parametrize("n", [4, 8, 12])
def test_the_interquartile_mean_is_the_trimmed_mean_if_4_divides_n(n: int) -> None:
    values = np.random.default_rng(n).random(n)
    assert statistics.middle_half_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))


@pytest.mark.parametrize("n", range(1, 12))
def test_the_interquartile_mean_weights_border_values(n: int) -> None:
    """Compare with four copies of the sample: the same quartiles, and a size divisible by 4."""
    values = np.random.default_rng(n).random(n)
    copies = np.tile(values, 4)
    assert statistics.middle_half_mean(values) == pytest.approx(stats.trim_mean(copies, 0.25))


def test_an_interquartile_mean_by_hand() -> None:
    found = statistics.interquartile_mean([10, 0, 2, 1, 0])
    assert found.value == pytest.approx((0.75 * 0 + 1 + 0.75 * 2) / 2.5)


def test_the_interquartile_mean_takes_an_axis() -> None:
    values = np.random.default_rng(0).random((5, 7))
    by_column = [statistics.middle_half_mean(values[:, i]) for i in range(7)]
    np.testing.assert_allclose(statistics.middle_half_mean(values, axis=0), by_column)


@pytest.mark.parametrize("statistic", [statistics.mean, statistics.interquartile_mean])
def test_an_interval_agrees_with_independent_resampling(statistic: Averaging) -> None:
    rng = np.random.default_rng(7)
    values = two_heaps(rng, 9)
    found = statistic(values)
    drawn = values[rng.integers(0, 9, size=(40_000, 9))]
    replicates = (
        drawn.mean(axis=1)
        if statistic is statistics.mean
        else stats.trim_mean(np.tile(drawn, 4), 0.25, axis=1)
    )
    low, high = np.percentile(replicates, [2.5, 97.5])
    assert found.interval is not None
    assert found.interval.low == pytest.approx(low, abs=0.02)
    assert found.interval.high == pytest.approx(high, abs=0.02)


def test_a_bootstrap_interval_of_three_values_is_their_range() -> None:
    """1 of 27 resamples, more than 2.5 %, is the lowest value three times."""
    interval = statistics.mean([0.2, 0.5, 1.0]).interval
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((0.2, 1.0))


def test_bootstrap_intervals_of_twenty_seeds_mostly_cover_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    truth = 0.6 * 0.995 + 0.4 * 0.25
    held = 0
    for _ in range(200):
        interval = statistics.mean(two_heaps(rng, 20)).interval
        assert interval is not None
        held += interval.low <= truth <= interval.high
    assert 0.88 <= held / 200 <= 0.99


def test_intervals_are_reproducible() -> None:
    values = np.random.default_rng(3).random(6)
    assert statistics.mean(values) == statistics.mean(values)
    a, b = values[:3], values[3:]
    assert statistics.paired_difference(a, b) == statistics.paired_difference(a, b)


@pytest.mark.parametrize("statistic", [statistics.mean, statistics.interquartile_mean])
def test_one_seed_has_no_interval_and_equal_seeds_have_zero_width(statistic: Averaging) -> None:
    alone = statistic([0.7])
    assert alone.value == pytest.approx(0.7)
    assert alone.interval is None
    equal = statistic([0.7, 0.7, 0.7])
    assert equal.value == pytest.approx(0.7)
    assert equal.interval == Interval(equal.value, equal.value)


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [math.inf], [[0.5], [0.6]]])
def test_an_invalid_sample_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match="is no sample"):
        statistics.mean(np.array(values))


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [
        (5, 10, 0.1871, 0.8129),
        (8, 10, 0.4439, 0.9748),
        (0, 5, 0.0, 1 - 0.025**0.2),
        (5, 5, 0.025**0.2, 1.0),
        (0, 1, 0.0, 0.975),
    ],
)
def test_a_share_of_seeds_has_the_clopper_pearson_interval(
    count: int, n: int, low: float, high: float
) -> None:
    share = statistics.solve_share([True] * count + [False] * (n - count))
    assert (share.count, share.n, share.value) == (count, n, count / n)
    assert share.interval is not None
    assert share.interval.low == pytest.approx(low, abs=1e-4)
    assert share.interval.high == pytest.approx(high, abs=1e-4)


def test_a_share_of_no_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        statistics.solve_share([])


def test_the_paired_p_is_that_of_all_sign_flips() -> None:
    ours = np.array([0.99, 0.95, 0.40, 1.00, 0.80])
    theirs = np.array([0.60, 0.70, 0.55, 0.30, 0.75])
    gaps = ours - theirs
    means = [np.mean(gaps * signs) for signs in product((-1, 1), repeat=5)]
    as_far = sum(abs(mean) >= abs(gaps.mean()) - 1e-12 for mean in means)
    found = statistics.paired_difference(ours, theirs)
    assert found.p == pytest.approx(as_far / 32)
    assert found.value == pytest.approx(gaps.mean())
    assert (found.least_p, found.paired, found.exact) == (2 / 32, True, True)
    assert found.interval == statistics.mean(gaps).interval


def test_the_unpaired_p_is_that_of_all_regroupings() -> None:
    ours, theirs = [0.99, 0.95, 0.40, 1.00], [0.60, 0.50, 0.30, 0.75]
    everyone, observed = [*ours, *theirs], np.mean(ours) - np.mean(theirs)
    gaps = []
    for chosen in combinations(range(8), 4):
        rest = [everyone[i] for i in range(8) if i not in chosen]
        gaps.append(np.mean([everyone[i] for i in chosen]) - np.mean(rest))
    as_far = sum(abs(gap) >= abs(observed) - 1e-12 for gap in gaps)
    found = statistics.unpaired_difference(ours, theirs)
    assert found.p == pytest.approx(as_far / 70)
    assert found.value == pytest.approx(observed)
    assert (found.least_p, found.paired, found.exact) == (2 / 70, False, True)


@pytest.mark.parametrize("n", [2, 3, 4, 6])
def test_the_least_p_is_reached_when_all_seeds_agree(n: int) -> None:
    ours, theirs = 1 - 0.01 * np.arange(n), 0.1 * 0.9 ** np.arange(n)
    paired = statistics.paired_difference(ours, theirs)
    assert paired.p == pytest.approx(paired.least_p)
    unpaired = statistics.unpaired_difference(ours, theirs[:2])
    assert unpaired.p == pytest.approx(unpaired.least_p)


def test_with_many_seeds_p_is_sampled_and_close_to_the_t_test() -> None:
    rng = np.random.default_rng(5)
    ours, theirs = rng.normal(0.5, 1, 40), rng.normal(0, 1, 40)
    paired = statistics.paired_difference(ours, theirs)
    assert not paired.exact
    assert paired.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, abs=0.02)
    unpaired = statistics.unpaired_difference(ours, theirs)
    assert not unpaired.exact
    assert unpaired.p == pytest.approx(stats.ttest_ind(ours, theirs).pvalue, abs=0.02)


def test_equal_methods_have_no_difference() -> None:
    paired = statistics.paired_difference([1, 1, 1], [1, 1, 1])
    assert (paired.value, paired.p, paired.interval) == (0, 1, Interval(0, 0))
    unpaired = statistics.unpaired_difference([1, 1, 1], [1, 1])
    assert (unpaired.value, unpaired.p, unpaired.interval) == (0, 1, Interval(0, 0))


def test_a_single_seed_shows_no_difference() -> None:
    for found in (
        statistics.paired_difference([1], [0]),
        statistics.unpaired_difference([1], [0, 0, 0]),
    ):
        assert (found.value, found.interval, found.p, found.least_p) == (1, None, 1, 1)


def test_pairs_need_equal_numbers_of_seeds() -> None:
    with pytest.raises(ValueError, match="3 seeds against 2"):
        statistics.paired_difference([1, 2, 3], [1, 2])


def test_holm_by_hand() -> None:
    corrected = statistics.holm([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(corrected, [3 * 0.01, 2 * 0.03, 2 * 0.03, 4 * 0.005])
    np.testing.assert_allclose(statistics.holm([0.6, 0.5]), [1, 1])
    np.testing.assert_allclose(statistics.holm([0.03]), [0.03])
    assert len(statistics.holm([])) == 0


def test_estimates_in_percent_and_by_name() -> None:
    found = Estimate(0.25, Interval(-0.1, 0.5))
    assert found.percent() == "25.0 [-10.0, 50.0]"
    assert found.percent(sign="+") == "+25.0 [-10.0, +50.0]"
    assert found.named("mean") == {"mean": 0.25, "mean_low": -0.1, "mean_high": 0.5}
    alone = Estimate(0.25, None)
    assert alone.percent() == "25.0 [no interval]"
    assert alone.named("mean") == {"mean": 0.25, "mean_low": None, "mean_high": None}
