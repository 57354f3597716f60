"""Test the champion of a study: first its best trial, then what a comparison confirms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import optuna
import pytest

from sabtune.compare.champion import update_champion
from sabtune.config import RunConfig
from sabtune.models import LSTM, SAB
from sabtune.models.base import ModelConfig
from sabtune.study.attributes import RESULT, SPEC, TEST
from sabtune.study.events import Outcome, Version
from sabtune.study.record import StudyRecord
from sabtune.study.trial_specs import FRESH_SEED
from sabtune.study.writer import StudyWriter
from sabtune.tracking.mirror import nominate
from sabtune.training.evaluation import LengthResult
from sabtune.training.trial import plain
from tests.records import spec

MODELS: dict[str, ModelConfig] = {
    "a": SAB.Config(hidden=4, k_top=1),
    "b": SAB.Config(hidden=4, k_top=2),
    "c": SAB.Config(hidden=4, k_top=3),
    "baseline": LSTM.Config(hidden=4),
}
LENGTH = 64


def run_of(name: str, seed: int) -> RunConfig:
    run: RunConfig = spec().run
    return replace(run, model=MODELS[name], seed=seed)


def search(scores: Sequence[tuple[str, float]]) -> optuna.Study:
    """Return a study with these complete trials; equal names are seeds of one configuration."""
    study = optuna.create_study(study_name="s", direction="maximize")
    first: dict[str, int] = {}
    for number, (name, score) in enumerate(scores):
        trial = study.ask()
        made = spec(number, first.setdefault(name, number), run=run_of(name, number))
        trial.set_user_attr(SPEC, made.to_dict())
        study.tell(trial, score)
    nominate(StudyWriter(study))
    return study


def confirmation(
    accuracies: Mapping[str, Sequence[float]], name: str = "s.confirm"
) -> optuna.Study:
    """Return a finished comparison with these accuracies at the longest length, by seed."""
    study = optuna.create_study(study_name=name, direction="maximize")
    for label, seeds in accuracies.items():
        for index, accuracy in enumerate(seeds):
            StudyWriter(study).enqueue(run_of(label, FRESH_SEED + index), label=label)
            trial = study.ask()
            made = spec(trial.number, run=run_of(label, FRESH_SEED + index))
            trial.set_user_attr(SPEC, made.to_dict())
            results = [
                LengthResult(length=at, accuracy=accuracy, loss=0.0, sequences=8) for at in (4, 64)
            ]
            StudyWriter(study).end(trial, Outcome(state="COMPLETE", test=results), [accuracy], None)
            assert plain(results) == trial.user_attrs[RESULT][TEST]
    return study


def updated(study: optuna.Study, comparison: optuna.Study) -> Version | None:
    return update_champion(StudyWriter(study), StudyRecord(comparison))


LOW, HIGH = [0.2, 0.3, 0.25, 0.3, 0.2, 0.25, 0.3], [0.9, 0.8, 0.85, 0.9, 0.95, 0.9, 0.8]


def test_the_first_champion_is_the_best_trial_unconfirmed() -> None:
    study = search([("a", 0.5), ("b", 0.9)])
    assert StudyRecord(study).registered.champion_version == Version(trial=1)
    trial = study.ask()
    trial.set_user_attr(SPEC, spec(2, run=run_of("c", 2)).to_dict())
    study.tell(trial, 0.95)
    nominate(StudyWriter(study))
    found = StudyRecord(study).registered
    assert [version.trial for version in found.versions] == [1, 2]  # trial 2 is registered
    assert found.champion == 1  # but it is not the champion


def test_a_comparison_has_no_champion_of_its_own() -> None:
    study = confirmation({"a": HIGH})
    study.set_user_attr("plan", {"contest": {"a": "a"}})
    nominate(StudyWriter(study))
    assert StudyRecord(study).registered.versions == ()


def test_a_champion_that_nobody_beats_is_confirmed() -> None:
    study = search([("a", 0.5), ("b", 0.9)])
    higher = [accuracy + 0.01 for accuracy in HIGH[:3]] + [0.1] * 4
    champion = update_champion(
        StudyWriter(study), StudyRecord(confirmation({"b": HIGH, "a": higher}))
    )
    assert champion is not None
    assert champion.accuracy == pytest.approx(sum(HIGH) / len(HIGH))
    told = replace(champion, accuracy=0.0)
    assert told == Version(trial=1, contest="s.confirm", seeds=7, length=LENGTH)
    assert champion == StudyRecord(study).registered.champion_version


@pytest.mark.parametrize("seeds", [5, 7])
def test_a_higher_mean_alone_is_not_enough(seeds: int) -> None:
    """With 5 pairs the least possible p is 1/16; with 7 it is 1/64."""
    study = search([("a", 0.5), ("b", 0.9)])
    champion = update_champion(
        StudyWriter(study), StudyRecord(confirmation({"b": LOW[:seeds], "a": HIGH[:seeds]}))
    )
    assert champion is not None
    assert champion.trial == (1 if seeds == 5 else 0)
    assert champion.confirmed
    assert champion.accuracy == pytest.approx(sum((LOW if seeds == 5 else HIGH)[:seeds]) / seeds)


def test_of_several_better_configurations_the_highest_mean_becomes_champion() -> None:
    study = search([("a", 0.5), ("b", 0.9), ("c", 0.6)])
    best = [accuracy + 0.04 for accuracy in HIGH]
    updated(study, confirmation({"b": LOW, "a": HIGH, "c": best}))
    found = StudyRecord(study).registered
    assert found.champion == 2
    told = {version.trial: version for version in found.versions}
    assert told.keys() == {1, 2}
    assert told[1].confirmed  # with its own accuracy, although it lost
    assert told[1].accuracy == pytest.approx(sum(LOW) / len(LOW))


def test_more_comparisons_need_a_smaller_p() -> None:
    """7 pairs give p = 1/64 at best: 3/64 after Holm against three others, 4/64 against four."""
    extra = {f"x{index}": SAB.Config(hidden=4, k_top=9 + index) for index in range(3)}
    for others, champion in ((2, 0), (3, 1)):
        names = ["a", "b", *list(extra)[:others]]
        MODELS.update(extra)
        study = search([(name, 0.9 if name == "b" else 0.5) for name in names])
        accuracies = {"b": LOW, "a": HIGH} | dict.fromkeys(names[2:], LOW)
        updated(study, confirmation(accuracies))
        assert StudyRecord(study).registered.champion == champion, others


def test_an_unconfirmed_champion_outside_the_comparison_is_replaced() -> None:
    study = search([("a", 0.5), ("b", 0.9), ("c", 0.6)])
    champion = update_champion(
        StudyWriter(study), StudyRecord(confirmation({"a": HIGH[:2], "c": LOW[:2]}))
    )
    assert champion is not None
    assert (champion.trial, champion.seeds) == (0, 2)


def test_a_confirmed_champion_outside_the_comparison_stays() -> None:
    study = search([("a", 0.5), ("b", 0.9)])
    confirmed = updated(study, confirmation({"b": LOW}))
    assert updated(study, confirmation({"a": HIGH}, "other")) == confirmed


def test_baselines_of_other_studies_do_not_become_champion() -> None:
    study = search([("a", 0.5), ("b", 0.9)])
    champion = update_champion(
        StudyWriter(study), StudyRecord(confirmation({"b": LOW, "baseline": HIGH}))
    )
    assert champion is not None
    assert champion.trial == 1
    assert updated(study, confirmation({"baseline": HIGH}, "others")) is None


def test_an_unfinished_comparison_changes_nothing() -> None:
    study, running = search([("a", 0.5), ("b", 0.9)]), confirmation({"b": LOW, "a": HIGH})
    running.ask()
    assert updated(study, running) is None
    assert StudyRecord(study).registered.champion_version == Version(trial=1)


def test_repeating_a_comparison_changes_nothing_until_it_has_more_seeds() -> None:
    study = search([("a", 0.5), ("b", 0.9), ("b", 0.95)])
    found = updated(study, confirmation({"b": LOW, "a": HIGH}))
    assert found is not None
    before = StudyRecord(study).registered
    assert updated(study, confirmation({"b": LOW, "a": HIGH})) == found
    assert StudyRecord(study).registered == before
    more = update_champion(
        StudyWriter(study), StudyRecord(confirmation({"b": [*LOW, 0.2], "a": [*HIGH, 0.9]}))
    )
    assert more is not None
    assert (more.trial, more.seeds) == (found.trial, 8)
