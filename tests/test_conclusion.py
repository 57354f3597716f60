"""Test the conclusion of a study against numbers computed by hand."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sabtune.analysis.conclusion import Conclusion, conclude
from sabtune.models import LSTM, SAB, ModelConfig
from sabtune.storage.store import Store
from sabtune.study.attributes import RESULT, SPEC, TEST
from sabtune.study.record import StudyRecord
from sabtune.tasks import Copying
from tests.reports import confirmed, frozen, searched

LENGTHS = (100, 200, 1000)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def of_study(store: Store, name: str = "search") -> Conclusion:
    return conclude(StudyRecord.open(store, name))


def search(store: Store, *models: tuple[ModelConfig, float], name: str = "search") -> optuna.Study:
    """Write a search with a complete trial for each model and score, and one pruned trial.

    With a score of 1, the accuracy is 100 % at every length.
    """
    study = searched(store, name, 0)
    for number, (model, score) in enumerate(models):
        study.add_trial(frozen(number, model, score, TrialState.COMPLETE, lengths=LENGTHS))
    pruned = frozen(len(models), SAB.Config(hidden=8), 0.5, TrialState.PRUNED, lengths=LENGTHS)
    study.add_trial(pruned)
    return study


def sab(k_top: int, k_att: int = 1) -> ModelConfig:
    return SAB.Config(hidden=8, k_top=k_top, k_att=k_att)


def share(k_top: int, k_att: int = 1) -> str:
    """Return the share kept at length 100 of copying 10 symbols: T = 100 + 2 · 10 steps."""
    return f"{k_top / (1 + 120 // k_att):.1%}"


def test_without_a_complete_trial_there_is_no_table(store: Store) -> None:
    study = searched(store, "search", 0)
    assert of_study(store) == Conclusion(sentences=("No trial has started yet.",), table=None)
    study.add_trial(frozen(0, sab(2), 0.5, TrialState.PRUNED))
    assert of_study(store) == Conclusion(sentences=("No trial has completed yet.",), table=None)


def test_configurations_that_generalize_are_counted_with_their_shares(store: Store) -> None:
    search(store, (sab(2), 1.0), (sab(5, 3), 1.0), (sab(9), 0.5))
    first, best, certainty = of_study(store).sentences
    assert first.startswith(
        "2 of 3 configurations trained to the end (of 4 tried) solve length 1,000, 10 times the"
    )
    assert first.endswith(
        f"and keep {share(2)} to {share(5, 3)} of the memories at the training length."
    )
    assert "phase" not in first
    assert best.startswith("The best by its score in the search, #0 SAB (k_top=2, ")
    assert f"keeps {share(2)} of the memories at the training length and" in best
    assert "100.0% at length 100 and 100.0% at length 1,000, where chance is 12.5%" in best
    assert certainty.startswith("Not established: that this holds for other seeds.")
    assert "with one seed" in certainty
    assert "sabtune confirm search" in certainty


def test_if_none_generalizes_the_most_accurate_is_named(store: Store) -> None:
    search(store, (sab(2), 0.6), (sab(3), 0.8))
    first = of_study(store).sentences[0]
    accuracy = 0.125 + 0.875 * 0.8 ** (1 + 2.302585)  # `tests.reports.results` at length 1,000
    assert first.startswith("None of 2 configurations trained to the end (of 3 tried) solves ")
    assert first.endswith(f"#1, reaches {accuracy:.1%}.")


def test_the_table_has_the_five_best(store: Store) -> None:
    search(store, *((sab(k), 0.9 - 0.1 * k) for k in range(1, 8)))
    table = of_study(store).table
    assert table is not None
    assert table.header == ("configuration", "share kept", "seeds", "length 100", "length 1,000")
    assert [row[0].split()[0] for row in table.body] == ["#0", "#1", "#2", "#3", "#4"]
    assert table.body[1][1:4] == (share(2), "1", f"{0.125 + 0.875 * 0.7:.1%}")


def test_a_model_without_memories_has_no_share(store: Store) -> None:
    search(store, (LSTM.Config(hidden=8), 0.4))
    conclusion = of_study(store)
    assert conclusion.table is not None
    assert "share kept" not in conclusion.table.header
    assert not any("memories" in sentence for sentence in conclusion.sentences)


def test_seeds_are_averaged(store: Store) -> None:
    study = search(store, (sab(4), 0.8))
    for number, (score, state) in enumerate(
        [(0.4, TrialState.COMPLETE), (0.1, TrialState.PRUNED)], start=2
    ):
        trial = frozen(number, sab(4), score, state, lengths=LENGTHS)
        trial.user_attrs[SPEC]["configuration"] = 0
        study.add_trial(trial)
    conclusion = of_study(store)
    mean = 0.125 + 0.875 * (0.8 + 0.4) / 2
    assert conclusion.table is not None
    assert conclusion.table.body[0][2:4] == ("3, 2 complete", f"{mean:.1%}")
    assert f"reaches {mean:.1%} at length 100" in conclusion.sentences[1]
    assert "on average over 2 seeds" in conclusion.sentences[1]
    assert "with at most 3 seeds" in conclusion.sentences[2]


def test_a_configuration_solves_with_one_of_its_seeds(store: Store) -> None:
    study = search(store, (sab(4), 1.0))
    trial = frozen(2, sab(4), 0.4, TrialState.COMPLETE, lengths=LENGTHS)
    trial.user_attrs[SPEC]["configuration"] = 0
    study.add_trial(trial)
    first = of_study(store).sentences[0]
    assert "at every shorter length) with at least one seed and keeps" in first


def test_a_single_length_is_named_once(store: Store) -> None:
    study = searched(store, "search", 0)
    study.add_trial(frozen(0, sab(2), 1.0, TrialState.COMPLETE, lengths=(100,)))
    first, best, _ = of_study(store).sentences
    assert first.startswith("1 of 1 configuration trained to the end solves length 100 (at least")
    assert best.count("at length 100") == 1


def test_the_worst_phase_is_named_if_it_is_lower(store: Store) -> None:
    study = search(store, (sab(2, 2), 0.8))
    trial = frozen(2, sab(2, 2), 1.0, TrialState.COMPLETE, lengths=LENGTHS)
    trial.user_attrs[RESULT][TEST][-1] |= {
        "accuracy": 0.75, "by_phase": [1.0, 0.5], "in_phase": 1.0, "worst_phase": 0.5,
    }  # fmt: skip
    study.add_trial(trial)
    first, best, _ = of_study(store).sentences
    assert first.startswith("None of")
    assert "(at least 99% accuracy at it and at every shorter length, in every phase)" in first
    assert "75.0% at length 1,000 (50.0% at the least favorable length modulo k_att)" in best


def test_fresh_seeds_decide_once_they_are_measured(store: Store) -> None:
    """Ten seeds each: the search's second is much better on fresh seeds than its first."""
    search(store, (sab(2), 1.0), (sab(5), 0.9), (sab(8), 0.8))
    better = [0.9 + 0.01 * seed for seed in range(10)]
    methods: dict[str, tuple[ModelConfig, list[float | None]]] = {
        "#0": (sab(2), [0.3] * 10),
        "#1": (sab(5), [*better]),
        "LSTM": (LSTM.Config(hidden=8), [*better[:5], *(value - 0.001 for value in better[5:])]),
    }
    confirmed(store, "search.confirm", methods, lengths=(100, 400))
    conclusion = of_study(store)
    assert conclusion.table is not None
    assert [row[0].split()[0] for row in conclusion.table.body] == ["#1", "#0", "#2"]
    assert conclusion.table.header[-3:] == ("fresh seeds", "length 100", "length 400")
    mean = 0.125 + 0.875 * sum(better) / 10
    assert conclusion.table.body[0][-2].startswith(f"{mean:.1%}\n[")
    assert conclusion.table.body[2][-3:] == ("–", "–", "–")
    _, best, certainty = conclusion.sentences
    assert best.startswith("The best on fresh seeds, #1 ")
    assert f"{mean:.1%} at length 100" in best
    assert "over 10 fresh seeds" in best
    assert certainty.startswith("Established: 0 of 10 fresh seeds solved length 400")
    assert "higher than that of #0." in certainty
    assert certainty.endswith("Not established: that it differs from LSTM.")


def test_few_seeds_establish_nothing(store: Store) -> None:
    search(store, (sab(2), 1.0), (sab(5), 0.9))
    methods: dict[str, tuple[ModelConfig, list[float | None]]] = {
        "#0": (sab(2), [0.9, 0.8]),
        "#1": (sab(5), [0.1, 0.2]),
    }
    confirmed(store, "search.confirm", methods)
    certainty = of_study(store).sentences[2]
    assert "Not established: that it differs from #1" in certainty
    assert "this takes more seeds (p is at least 0.5 with these)" in certainty


def test_a_comparison_concludes_on_its_methods(store: Store) -> None:
    methods: dict[str, tuple[ModelConfig, list[float | None]]] = {
        "ours": (sab(2), [1.0, 1.0]),
        "lstm": (LSTM.Config(hidden=8), [0.2, None]),
    }
    confirmed(store, "other.confirm", methods)
    conclusion = of_study(store, "other.confirm")
    first, best, _ = conclusion.sentences
    assert first == "2 methods on fresh seeds: 1 of them solves length 2,000 with every seed."
    assert best.startswith("The most accurate there, ours, reaches 100.0% (95% interval 100.0% to")
    assert conclusion.table is not None
    assert [row[0] for row in conclusion.table.body] == ["ours", "LSTM, full BPTT"]


def test_the_task_decides_when_a_length_is_solved(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Copying, "solved", 0.6)
    methods: dict[str, tuple[ModelConfig, list[float | None]]] = {
        "ours": (sab(2), [0.9, 0.9]),  # 70.1 % at length 2,000
        "lstm": (LSTM.Config(hidden=8), [0.2, 0.2]),
    }
    confirmed(store, "other.confirm", methods)
    first, _, certainty = of_study(store, "other.confirm").sentences
    assert first == "2 methods on fresh seeds: 1 of them solves length 2,000 with every seed."
    assert certainty.startswith("Established: 2 of 2 fresh seeds solved length 2,000")


def test_several_methods_are_lower_than_all_of_a_list(store: Store) -> None:
    methods: dict[str, tuple[ModelConfig, list[float | None]]] = {
        "ours": (sab(2), [0.9 + 0.01 * seed for seed in range(10)]),
        "lstm": (LSTM.Config(hidden=8), [0.2] * 10),
        "truncated": (LSTM.Config(hidden=8, k_trunc=5), [0.3] * 10),
    }
    confirmed(store, "other.confirm", methods)
    assert (
        "higher than that of LSTM, full BPTT and LSTM, truncated BPTT (k_trunc=5)."
    ) in of_study(store, "other.confirm").sentences[2]


def test_markdown_shows_names_literally(store: Store) -> None:
    search(store, (sab(2), 1.0), name="a_b|c*")
    text = conclude(StudyRecord.open(store, "a_b|c*")).markdown()
    assert r"sabtune confirm 'a_b\|c\*'" in text
    assert "\n\n**The best configuration" in text


def test_methods_are_listed_by_name_with_semicolons(store: Store) -> None:
    methods: dict[str, tuple[ModelConfig, list[float | None]]] = {
        "ours": (sab(2), [1.0, 0.9]),
        "lstm": (LSTM.Config(hidden=8), [0.2, 0.3]),
        "truncated": (LSTM.Config(hidden=8, k_trunc=5), [0.2, 0.3]),
        "#3 own": (sab(3), [0.2, 0.3]),
    }
    confirmed(store, "other.confirm", methods)
    assert (
        "LSTM, full BPTT; LSTM, truncated BPTT (k_trunc=5); or SAB (k_top=3, k_att=1, k_trunc=5)"
    ) in of_study(store, "other.confirm").sentences[2]
