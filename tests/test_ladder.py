"""Test the table of accuracy by length: every number is looked up again in the study."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from sabtune.analysis import statistics
from sabtune.analysis.table import ResultTable, latex
from sabtune.errors import StoreError
from sabtune.models import SAB
from sabtune.reporting import length_table, published
from sabtune.reporting.data import ReportData, gather
from sabtune.storage.store import Store
from sabtune.study.record import StudyRecord
from sabtune.study.trial_record import TrialRecord
from sabtune.tasks import Copying
from tests.reports import BASELINES, LENGTHS, confirmed, results, searched

LABELS = {"ours": "ours", "LSTM, full BPTT": "lstm"}
"""The labels of `BASELINES` by the names that readers see."""

HOSTILE = r"50% of $x_{1} & \input{/etc/passwd} #1 ~^<b>|[a](b) → ×"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    searched(store, "found", 20)
    confirmed(store, "found.confirm", BASELINES)
    searched(store, "alone", 4)
    searched(store, "short", 4, task=Copying.Config(length=100, symbols=3))
    return store


def data(store: Store, name: str) -> ReportData:
    return gather(StudyRecord.open(store, name))


def rows_of(of: ReportData) -> list[dict[str, str]]:
    return list(csv.DictReader(length_table.csv_page(of).splitlines()))


def test_the_csv_has_the_best_trials_accuracies_and_losses(store: Store) -> None:
    study = StudyRecord.open(store, "alone")
    best = max((t for t in study.trials if t.values), key=lambda trial: trial.score)
    rows = [row for row in rows_of(data(store, "alone")) if row["seeds"] == "1"]
    assert [int(row["length"]) for row in rows] == list(LENGTHS)
    for row, result in zip(rows, best.test, strict=True):
        assert float(row["accuracy"]) == result.accuracy
        assert float(row["loss"]) == result.loss
        assert row["loss_unit"] == "nats a step"
        assert row["method"].startswith(f"#{best.number} SAB (k_top=")
        assert "chose itself" in row["source"]


def test_the_csv_has_every_method_over_its_fresh_seeds(store: Store) -> None:
    rows = [row for row in rows_of(data(store, "found")) if row["source"] == "fresh seeds"]
    assert len(rows) == len(BASELINES) * len(LENGTHS)
    for row in rows:
        scores = BASELINES[LABELS[row["method"]]][1]
        at = LENGTHS.index(int(row["length"]))
        known = [results(score)[at] for score in scores if score is not None]
        accuracies = [result.accuracy for result in known] + [0.125] * (len(scores) - len(known))
        assert float(row["accuracy"]) == pytest.approx(np.mean(accuracies))
        interval = statistics.bootstrap_interval([np.array(accuracies)], np.mean)
        assert interval is not None
        ends = float(row["accuracy_low"]), float(row["accuracy_high"])
        assert ends == pytest.approx((interval.low, interval.high), abs=0.02)
        assert min(accuracies) <= ends[0] <= float(row["accuracy"]) <= ends[1] <= max(accuracies)
        assert (int(row["seeds"]), int(row["failed"])) == (4, 4 - len(known))
        assert float(row["loss"]) == pytest.approx(np.mean([result.loss for result in known]))


def test_a_comparisons_own_report_has_its_methods_and_no_best_trial(store: Store) -> None:
    own, base = data(store, "found.confirm"), data(store, "found")
    fresh = [row for row in rows_of(base) if row["source"] == "fresh seeds"]
    assert [row for row in rows_of(own) if row["source"] == "fresh seeds"] == fresh
    assert not [row for row in rows_of(own) if row["seeds"] == "1"]


def test_the_latest_of_several_confirmations_gives_the_methods(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    searched(store, "found", 4)
    names = ("found.confirm", "found.confirm-2", "found.ablate")
    for name, methods in zip(
        names, (BASELINES, {"ours": BASELINES["ours"]}, BASELINES), strict=True
    ):
        confirmed(store, name, methods)
    of = data(store, "found")
    assert tuple(of.comparisons) == names
    fresh = {row["method"] for row in rows_of(of) if row["source"] == "fresh seeds"}
    assert fresh == {"ours"}


def test_tables_show_the_numbers_with_seeds_and_intervals(store: Store) -> None:
    accuracy, loss = length_table.tables(data(store, "found"))
    assert accuracy.header == ("method", "seeds", "100", "200", "300", "400", "2,000", "5,000")
    assert accuracy.title == "Accuracy in %, by length; trained at length 100"
    assert loss.title == "Loss in nats a step, by length; trained at length 100"
    rows = {row[0]: row[1:] for row in accuracy.body if len(row) > 1}
    mean = statistics.mean([results(score)[1].accuracy for score in (0.9, 0.95, 0.7, 0.92)])
    assert rows["ours"][2].replace("\n", " ") == mean.percent()
    (lstm, paper) = (row[1:] for row in accuracy.body if row[0] == "LSTM, full BPTT")
    assert lstm[0] == "4\n(1 failed)"
    assert paper == ("–", "99", "34", "25", "21", "12", "12")
    assert rows["SAB"] == ("–", "99", "95", "83", "75", "47", "41")


def test_lengths_are_split_into_several_tables(tmp_path: Path) -> None:
    store = Store(tmp_path)
    searched(store, "found", 4)
    confirmed(store, "found.confirm", BASELINES, lengths=(100, 141, 283, 894, 2828, 4000))
    first, second, *losses = length_table.tables(data(store, "found"))
    assert first.header[2:] == ("100", "141", "283", "894", "2,828", "4,000")
    assert second.header[2:] == ("100", "200", "300", "400", "2,000", "5,000")
    assert [len(table.header) - 2 for table in losses] == [6, 4]


def test_published_numbers_always_have_a_caveat(store: Store) -> None:
    of = data(store, "found")
    for text in (length_table.markdown(of), length_table.latex_page(of)):
        assert text.index(published.QUOTED) < text.index("h-detach")
        assert text.count(published.QUOTED) >= 3  # above each source's rows and in the notes
    quoted = [row for row in rows_of(of) if "arXiv" in row["source"]]
    table = next(table for table in published.TABLES if table.subject == {"kind": "copying"})
    assert len(quoted) == sum(len(row.values) for row in table.rows)
    assert all(published.QUOTED in row["source"] for row in quoted)


def test_training_on_several_lengths_is_noted(store: Store) -> None:
    found = data(store, "found")
    assert not any(note.startswith("Ours") for note in length_table.notes(found))
    several = StudyRecord.open(store, "found")
    several.trials = [on_many_lengths(trial) for trial in found.trials]
    varied = replace(found, study=several)
    assert {table.title.rpartition("; ")[2] for table in length_table.tables(varied)} >= {
        "trained at lengths up to 100"
    }
    (note,) = [note for note in length_table.notes(varied) if note.startswith("Ours")]
    assert "from 8 on" in note


def on_many_lengths(trial: TrialRecord) -> TrialRecord:
    assert trial.spec is not None
    run = trial.spec.run
    train = replace(run.train, shortest=8)
    run = replace(run, train=train)
    return replace(trial, spec=replace(trial.spec, run=run))


def test_published_numbers_of_another_setting_are_left_out(store: Store) -> None:
    short, found = data(store, "short"), data(store, "found")
    each = "copying 10 symbols of 8, trained at each length that it is tested at"
    for of, settings in (
        (short, f"copying 10 symbols of 8, trained at length 100; {each}"),
        (found, each),
    ):
        note = length_table.notes(of)[-1]
        assert note.startswith("Published results in other settings do not compare")
        assert note.endswith(f": {settings}.")
    (own, _) = length_table.tables(short)
    assert own.header[2:] == ("100", "200", "400", "2,000")
    assert "arXiv" not in length_table.csv_page(short)
    assert "h-detach" not in length_table.markdown(short)
    assert "h-detach" in length_table.markdown(found)
    assert "99.3" not in length_table.markdown(found)  # of SAB, trained at length 200


def test_a_task_without_published_numbers_has_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "TABLES", ())
    of = data(store, "alone")
    assert not any(
        "arXiv" in text for text in (length_table.markdown(of), length_table.csv_page(of))
    )


def test_a_study_without_a_complete_trial_has_a_message(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="empty", direction="maximize")
    with pytest.raises(StoreError, match="study 'empty' has no complete trial"):
        gather(StudyRecord(study, Store(tmp_path)))


def test_latex_tables_are_well_formed() -> None:
    table = ResultTable("T", ("method", "10"), (("heading",), (HOSTILE, "1.0\n[0.5, 1.5]")))
    text = table.latex("tab:t")
    assert re.findall(r"\\begin{(\w+)}", text) == ["table", "tabular", "tabular"]
    assert re.findall(r"\\end{(\w+)}", text) == ["tabular", "tabular", "table"]
    rows = [line for line in text.splitlines() if line.startswith(r"\raggedright")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [1, 1]
    assert [line for line in text.splitlines() if line in (r"\toprule", r"\bottomrule")]
    assert r"\input" not in text


def test_latex_escapes_special_characters() -> None:
    assert latex("a_b & 5% #3 {x} $y^2$ ~ \\z\nw") == (
        r"a\_b \& 5\% \#3 \{x\} \$y\textasciicircum{}2\$ \textasciitilde{} \textbackslash{}z w"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex here")
def test_latex_compiles(tmp_path: Path) -> None:
    store = Store(tmp_path)
    searched(store, "found", 4)
    confirmed(store, "found.confirm", {**BASELINES, HOSTILE: (SAB.Config(hidden=8), (0.5, None))})
    (tmp_path / "ladder.tex").write_text(length_table.latex_page(data(store, "found")))
    (tmp_path / "all.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}"
        r"\begin{document}\input{ladder}\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "booktabs.sty' not found" in done.stdout:
        pytest.skip("this LaTeX has no booktabs")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000


def test_markdown_escapes_cells() -> None:
    text = ResultTable("T", ("m", "10"), ((HOSTILE, "1.0\n[0.5, 1.5]"),)).markdown()
    row = text.splitlines()[-1]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert r"\<b>" in row
    assert "](" not in row
    assert "1.0<br>[0.5, 1.5]" in row
