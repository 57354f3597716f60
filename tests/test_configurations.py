"""Test which configuration gets another seed and which is the best."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState

from sabtune.errors import ConfigError
from sabtune.study.configurations import Leaderboard, Over, Seeds
from tests.records import trial


def leaderboard(seeds: Seeds, *scores: list[float]) -> Leaderboard:
    """Return configurations 0, 10, 20, …, each with these scores of its seeds."""
    made = Leaderboard(seeds)
    for i, of in enumerate(scores):
        made.add(trial(10 * i + j, 10 * i, score=score) for j, score in enumerate(of))
    return made


def test_with_one_seed_each_only_new_configurations_are_drawn() -> None:
    assert leaderboard(Seeds(), [0.9], [0.1], [0.5], [0.4]).next() is None


def test_every_configuration_gets_its_first_seeds() -> None:
    assert leaderboard(Seeds(first=3, most=3), [0.1, 0.2, 0.1], [0.9]).next() == 10


def test_running_seeds_are_counted() -> None:
    going = leaderboard(Seeds(first=2, most=2), [0.1])
    assert going.next() == 0
    going.start(0)
    assert going.next() is None


def test_the_best_third_gets_a_second_seed() -> None:
    seeds = Seeds(most=4, reduction=3)
    assert leaderboard(seeds, [0.9], [0.1]).next() is None  # a third of two rounds down to zero
    assert leaderboard(seeds, [0.2], [0.9], [0.1]).next() == 10
    going = leaderboard(seeds, [0.2], [0.9], [0.1])
    going.start(10)
    assert going.next() is None  # the best has its second seed; the others are not promising


def test_the_last_seeds_go_to_the_best_of_the_best() -> None:
    seeds = Seeds(most=3, reduction=2)
    assert leaderboard(seeds, [0.9, 0.1], [0.8, 0.8], [0.1], [0.2]).next() == 10
    finished = leaderboard(seeds, [0.8, 0.8, 0.8], [0.9, 0.1], [0.1], [0.2])
    assert finished.next() is None


def test_a_score_of_zero_earns_no_second_seed() -> None:
    assert leaderboard(Seeds(most=2, reduction=2), [0.0], [0.0], [0.0], [0.0]).next() is None


@pytest.mark.parametrize(("over", "best"), [("mean", 0), ("median", 10), ("solve", 20)])
def test_configurations_are_ranked_by_the_objective_of_the_seeds(over: Over, best: int) -> None:
    made = Leaderboard(Seeds(most=3, first=3, objective=over))
    accuracies = {0: [0.5] * 3, 10: [0.5] * 3, 20: [1.0, 0.2, 0.2]}
    scores = {0: [0.9, 0.5, 0.5], 10: [0.1, 0.6, 0.6], 20: [0.99, 0.0, 0.0]}
    for of, values in scores.items():
        made.add(
            trial(of + i, of, score=score, accuracy=accuracies[of][i])
            for i, score in enumerate(values)
        )
    assert made.ranked()[0].number == best


def test_one_lucky_seed_does_not_beat_a_configuration_with_more_seeds() -> None:
    made = leaderboard(Seeds(most=3), [0.95], [0.9, 0.9, 0.9], [0.1], [0.2], [0.1])
    assert [c.number for c in made.ranked()][:2] == [10, 0]


def test_many_bad_seeds_do_not_beat_one_good_one() -> None:
    assert leaderboard(Seeds(), [0.5, 0.0, 0.0], [0.9]).ranked()[0].number == 10


def test_a_failed_seed_scores_zero() -> None:
    made = leaderboard(Seeds(first=2, most=2), [0.9], [0.6, 0.6])
    made.add([trial(1, 0, score=0.8, state=TrialState.FAIL)])
    assert made.configurations[0].scores == [0.9, 0.0]
    assert made.ranked()[0].number == 10


def test_a_pruned_seed_counts_with_its_last_score_and_is_never_the_best() -> None:
    made = leaderboard(Seeds(first=2, most=2), [0.3, 0.2])
    made.add([trial(10, 10, score=0.9, state=TrialState.PRUNED)])
    assert made.configurations[10].scores == [0.9]
    assert [c.number for c in made.ranked()] == [0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"first": 0}, "first is 0"),
        ({"first": 3, "most": 2}, "most is 2: give a whole number of at least 3"),
        ({"reduction": 1}, "reduction is 1"),
        ({"objective": "best"}, "objective is 'best': give one of mean, median, solve"),
    ],
)
def test_bad_seeds(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Seeds(**values)  # type: ignore[arg-type]


def test_an_infeasible_configuration_gets_no_further_seed() -> None:
    over = {"memory": 1.0}
    made = leaderboard(Seeds(most=4, reduction=2), [0.5], [0.4], [0.3])
    made.add([trial(90, score=0.9, constraints=over)])
    assert made.next() == 0
    made = leaderboard(Seeds(first=2, most=2, reduction=2), [0.5, 0.5])
    made.add([trial(90, score=0.9, constraints=over)])
    assert made.next() is None
    assert [c.number for c in made.ranked()] == [0]


def test_a_configuration_with_one_feasible_seed_gets_further_seeds() -> None:
    made = leaderboard(Seeds(most=3, reduction=2), [0.5, 0.5], [0.1], [0.2])
    made.add([trial(90, score=0.9, constraints={"memory": 1.0}), trial(91, 90, score=0.9)])
    assert made.next() == 90


def test_a_retried_trial_counts_only_once() -> None:
    made = leaderboard(Seeds(first=2, most=2), [0.5, 0.5])
    failed = trial(90, score=0.3, state=TrialState.FAIL, run_again=True)
    made.add([failed, trial(91, 90, score=0.95)])
    assert made.configurations[90].scores == [0.95]
    assert made.configurations[90].started == 1
    assert made.ranked()[0].number == 90
    assert made.next() == 90


def test_a_trial_without_a_spec_is_no_configuration() -> None:
    made = leaderboard(Seeds(first=2, most=2))
    made.add([trial(0, score=0.0, state=TrialState.FAIL, spec=None)])
    assert made.next() is None
