"""Test comparisons of methods: each number in the tables is recomputed here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from rich.console import Console, RenderableType

from sabtune.analysis import statistics
from sabtune.analysis.comparison import (
    NOT_DISTINGUISHABLE,
    Comparison,
    Group,
    accuracy_rows,
    accuracy_table,
    contrast_rows,
    contrast_table,
    longest_table,
    markdown,
    notes,
    page,
    tables,
)
from sabtune.analysis.table import ResultTable
from sabtune.errors import ConfigError
from sabtune.training.evaluation import LengthResult

LENGTHS = (300, 1000, 5000)


def results(*accuracies: float) -> list[LengthResult]:
    pairs = zip(LENGTHS, accuracies, strict=True)
    return [LengthResult(length=at, accuracy=found, loss=0.1, sequences=512) for at, found in pairs]


def group(label: str, longest: Sequence[float], *, failed: int = 0, first: int = 0) -> Group:
    runs = {first + i: results(1.0, 0.99, accuracy) for i, accuracy in enumerate(longest)}
    return Group(label=label, runs=runs, failed=failed)


def compare(*groups: Group, length: int | None = None, searched: Sequence[int] = ()) -> Comparison:
    return Comparison(groups=groups, chance=0.125, searched=searched, length=length)


def shown(what: RenderableType, width: int = 250) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


SAB = group("SAB", [1.0, 0.995, 0.99, 1.0, 0.3, 0.992])
LSTM = group("LSTM", [0.2, 0.15, 0.3, 0.25, 0.2, 0.18])
ATTENTION = group("attention", [0.9, 1.0, 0.4, 0.99, 0.6, 0.7])


def test_accuracies_by_method_and_length() -> None:
    table = accuracy_table(compare(SAB, LSTM))
    assert table.header == ("method", "seeds", "length 300", "length 1,000", "length 5,000")
    assert [row[:4] for row in table.body] == [
        ("SAB", "6", "100.0 [100.0, 100.0]", "99.0 [99.0, 99.0]"),
        ("LSTM", "6", "100.0 [100.0, 100.0]", "99.0 [99.0, 99.0]"),
    ]
    mean = (1 + 0.995 + 0.99 + 1 + 0.3 + 0.992) / 6
    interval = statistics.mean([1, 0.995, 0.99, 1, 0.3, 0.992]).interval
    assert interval is not None
    ends = f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    assert table.body[0][4] == f"{100 * mean:.1f} {ends}"


def test_the_longest_length_has_the_interquartile_mean_and_the_share_that_solves() -> None:
    table = longest_table(compare(SAB, LSTM))
    assert table.title == "At length 5,000, the longest"
    # The middle 3 of 6 values: half of the second, the third and fourth, half of the fifth.
    middle = (0.99 / 2 + 0.992 + 0.995 + 1.0 / 2) / 3
    assert table.body[0][2].startswith(f"{100 * middle:.1f} [")
    assert table.body[0][3:] == ("5 of 6", "83.3 [35.9, 99.6]")
    assert table.body[1][3:] == ("0 of 6", "0.0 [0.0, 45.9]")


def test_a_length_is_solved_only_if_every_shorter_one_is() -> None:
    runs = {0: results(1, 0.9, 1), 1: results(1, 1, 1), 2: results(1, 1, 0.5)}
    method = Group(label="SAB", runs=runs)
    assert [method.solved(length).count for length in LENGTHS] == [3, 2, 1]


def test_failed_seeds_count_and_are_shown() -> None:
    comparison = compare(group("SAB", [1.0, 1.0, 0.99], failed=1))
    rows = accuracy_rows(comparison)
    assert [row["mean"] for row in rows] == pytest.approx(
        [(3 + 0.125) / 4, (2.97 + 0.125) / 4, (2.99 + 0.125) / 4]
    )
    assert {(row["seeds"], row["failed"], row["solved"]) for row in rows} == {(4, 1, 3)}
    assert accuracy_table(comparison).body[0][1] == "4 (1 failed)"
    assert longest_table(comparison).body[0][3] == "3 of 4"
    assert any(
        "(1 of SAB) count as unsolved, with chance accuracy (12.5%)" in note
        for note in notes(comparison)
    )


def test_a_method_whose_seeds_all_failed_counts_as_chance() -> None:
    comparison = compare(SAB, Group(label="LSTM", runs={}, failed=6))
    assert accuracy_table(comparison).body[1][2:] == ("12.5 [12.5, 12.5]",) * 3
    assert comparison.contrasts[0].difference.paired


def test_the_first_method_is_compared_with_each_other_method() -> None:
    comparison = compare(SAB, LSTM, ATTENTION)
    against_lstm, against_attention = comparison.contrasts
    ours = np.array([1.0, 0.995, 0.99, 1.0, 0.3, 0.992])
    theirs = np.array([0.2, 0.15, 0.3, 0.25, 0.2, 0.18])
    assert against_lstm.difference.value == pytest.approx((ours - theirs).mean())
    assert against_lstm.difference.p == pytest.approx(2 / 64)  # all six pairs have the same sign
    assert against_lstm.corrected == pytest.approx(4 / 64)
    assert against_attention.corrected == pytest.approx(against_attention.difference.p)
    table = contrast_table(comparison)
    assert table.title == "SAB against the others at length 5,000"
    assert [row[:2] for row in table.body] == [("LSTM", "6 pairs"), ("attention", "6 pairs")]
    assert table.body[0][3:] == ("0.031", "0.062", NOT_DISTINGUISHABLE)
    assert table.body[0][2].startswith(f"{100 * (ours - theirs).mean():+.1f} [+")


def test_a_significant_difference_is_described() -> None:
    assert compare(SAB, LSTM).contrasts[0].reading == "higher"
    assert compare(LSTM, SAB).contrasts[0].reading == "lower"


def test_contrasts_use_the_chosen_length() -> None:
    comparison = compare(SAB, LSTM, length=1000)
    assert comparison.contrasts[0].difference.value == 0
    assert contrast_rows(comparison)[0]["length"] == 1000


def test_seeds_are_paired_by_their_index_whatever_their_order() -> None:
    turned = Group(label="turned", runs=dict(reversed([*LSTM.runs.items()])))
    found = compare(SAB, LSTM, turned).contrasts
    assert found[0].difference == found[1].difference


def test_a_failed_seed_is_paired_like_any_other() -> None:
    runs = {seed: runs for seed, runs in LSTM.runs.items() if seed != 4}
    contrast = compare(SAB, Group(label="LSTM", runs=runs, failed=1)).contrasts[0]
    by_hand = statistics.paired_difference(
        [1.0, 0.995, 0.99, 1.0, 0.3, 0.992], [0.2, 0.15, 0.3, 0.25, 0.125, 0.18]
    )
    assert contrast.difference == by_hand


@pytest.mark.parametrize(
    "other",
    [
        group("LSTM", [0.2, 0.15, 0.3, 0.25, 0.2]),
        group("LSTM", [0.2, 0.15, 0.3, 0.25, 0.2, 0.18], first=1),
        group("LSTM", [0.2, 0.15, 0.3, 0.25, 0.2, 0.18], failed=1),
    ],
)
def test_methods_with_different_seeds_are_compared_unpaired(other: Group) -> None:
    comparison = compare(SAB, other)
    difference = comparison.contrasts[0].difference
    assert not difference.paired
    theirs = [*(runs[-1].accuracy for runs in other.runs.values()), *[0.125] * other.failed]
    assert difference.value == pytest.approx(5.277 / 6 - np.mean(theirs))
    assert contrast_table(comparison).body[0][1] == f"6 and {other.n}"
    assert any("regroupings of all seeds" in note for note in notes(comparison))


def test_notes_warn_about_too_few_seeds() -> None:
    three = [group(label, [0.99, 1.0, 0.995]) for label in ("SAB", "LSTM", "attention")]
    text = "\n".join(notes(compare(*three)))
    assert "With 3 pairs no p below 0.25 is possible." in text
    assert "After Holm no p below 0.5 is possible" in text
    assert "Holm's correction over 2 comparisons" in text
    assert "Bootstrap intervals of fewer than 10 seeds are too narrow" in text


def test_notes_have_no_warnings_with_enough_seeds() -> None:
    ten = [group(label, np.linspace(0.5, 1, 10).tolist()) for label in ("SAB", "LSTM")]
    text = "\n".join(notes(compare(*ten)))
    assert "too narrow" not in text
    assert "is possible" not in text
    assert "Holm's correction over 1 comparison." in text


def test_notes_name_the_lengths_that_the_search_used() -> None:
    assert notes(compare(SAB))[0] == (
        "Fresh seeds, 6 per method; 512 fresh sequences per length. "
        "The search chose by none of these lengths, seeds or sequences."
    )
    assert (
        "The search also chose by length 300, 1,000, with other seeds and sequences."
        in (notes(compare(SAB, searched=(100, 300, 1000)))[0])
    )


def test_one_method_alone_has_no_contrasts() -> None:
    comparison = compare(SAB)
    assert len(tables(comparison)) == 2
    assert contrast_rows(comparison) == []
    assert not any("Holm" in note for note in notes(comparison))


def test_one_seed_has_no_interval() -> None:
    comparison = compare(group("SAB", [0.9]), group("LSTM", [0.3]))
    assert accuracy_table(comparison).body[0][4] == "90.0 [no interval]"
    assert contrast_table(comparison).body[0][2:] == (
        "+60.0 [no interval]", "1.000", "1.000", NOT_DISTINGUISHABLE
    )  # fmt: skip
    assert "With 1 pair no p below 1 is possible." in notes(comparison)


def test_terminal_and_markdown_show_every_cell_and_note() -> None:
    comparison = compare(group("SAB [k_top=3] | mlp", [1.0, 0.9, 1.0]), LSTM)
    screen, text = shown(page(comparison)), markdown(comparison)
    for table in tables(comparison):
        alone = shown(table.rich())
        for first, *others in (table.header, *table.body):
            parts = [first, *(part for cell in others for part in cell.split())]
            assert all(part in screen and part in alone for part in parts)
        for row in (table.header, *table.body):
            escaped = [cell.replace("|", "\\|") for cell in row]
            assert f"| {' | '.join(escaped)} |" in text
    for note in notes(comparison):
        assert note in screen
        assert f"- {note}\n" in text


def test_rows_have_the_numbers_in_full_precision() -> None:
    comparison = compare(SAB, LSTM)
    rows = accuracy_rows(comparison)
    assert [(row["method"], row["length"]) for row in rows] == [
        (label, length) for label in ("SAB", "LSTM") for length in LENGTHS
    ]
    share = statistics.solve_share([True] * 5 + [False])
    assert share.interval is not None
    assert rows[2]["p_solve"] == share.value
    assert (rows[2]["p_solve_low"], rows[2]["p_solve_high"]) == (
        share.interval.low, share.interval.high
    )  # fmt: skip
    (row,) = contrast_rows(comparison)
    assert row["p"] == row["p_holm"] == row["least_p"] == 2 / 64
    assert (row["method"], row["against"], row["seeds"]) == ("SAB", "LSTM", 6)
    assert (row["paired"], row["exact"], row["reading"]) == (True, True, "higher")


@pytest.mark.parametrize(
    ("groups", "length", "message"),
    [
        ([SAB, SAB], None, "a different label"),
        ([SAB, Group(label="LSTM", runs={})], None, "LSTM: 0 seeds"),
        ([SAB, Group(label="LSTM", runs={0: results(1, 1, 1)[:2]})], None, "the same in every run"),
        ([Group(label="LSTM", runs={}, failed=3)], None, "the same in every run"),
        ([Group(label="LSTM", runs={0: []})], None, "the same in every run"),
        ([SAB], 700, r"length=700: expected one of \[300, 1000, 5000\]"),
    ],
)
def test_invalid_comparisons_are_refused(
    groups: Sequence[Group], length: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(*groups, length=length)


def test_a_group_chosen_by_the_results_is_corrected_for_all_pairs() -> None:
    comparison = compare(LSTM, ATTENTION, SAB)
    planned = {c.other.name: c for c in compare(SAB, LSTM, ATTENTION).contrasts}
    between = compare(LSTM, ATTENTION).contrasts[0].difference.p
    ps = {name: contrast.difference.p for name, contrast in planned.items()}
    (smallest, second), third = sorted(ps.values()), between
    assert smallest < second
    assert third >= smallest
    chosen = {c.other.name: c for c in comparison.contrasts_of(SAB)}
    assert {name: c.difference.p for name, c in chosen.items()} == pytest.approx(ps)
    corrected = min(c.corrected for c in chosen.values())
    assert corrected == pytest.approx(3 * smallest)  # of three pairs
    assert min(c.corrected for c in planned.values()) == pytest.approx(2 * smallest)
    assert comparison.contrasts_of(LSTM) == comparison.contrasts  # the first was planned


@pytest.mark.parametrize("width", [76, 80, 100, 140])
def test_a_table_splits_no_word_and_no_number(width: int) -> None:
    name = "#12 SAB (k_top=4, k_att=1, k_trunc=10, linear schedule)"
    cells = (
        name,
        "12.9%",
        "1",
        "100.0%",
        "99.8%",
        "3",
        "90.2% [70.7, 100.0]",
        "75.7% [29.4, 99.9]",
    )
    lengths = ("length 20", "length 200")
    header = ("configuration", "share kept", "seeds", *lengths, "fresh seeds", *lengths)
    table = ResultTable("The best", header, (cells,))
    lines = shown(table.rich(), width).splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for cell in cells:
        assert set(cell.split()) <= set(words)
