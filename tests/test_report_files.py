"""Test the files of a report: they exist, are complete, and load nothing external."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sabtune import cli
from sabtune.errors import ConfigError, StoreError
from sabtune.models import SAB
from sabtune.reporting import published, write
from sabtune.reporting.data import gather
from sabtune.reporting.publish import publish
from sabtune.reporting.write import FORMATS
from sabtune.storage.store import Store
from sabtune.study.optuna_storage import open_storage
from sabtune.study.record import StudyRecord
from sabtune.tracking import mirror
from sabtune.training.loop import Training
from sabtune.tuning.run import Ending
from tests.reports import BASELINES, confirmed, frozen, searched

HOSTILE = "<script>alert('x')</script>{{ 7 * 7 }} & </figure>"

TAB = ("ladder.csv", "ladder.md", "ladder.tex", "trials.csv")

FIGURES = {
    "accuracy", "scores", "importance", "parallel", "schedules", "learning", "recall",
    "recall-far", "distances", "sparsity",
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with a search of 20 trials, its best model, a confirmation and an ablation."""
    store = Store(tmp_path_factory.mktemp("store"))
    model = store.root / "trials" / "found" / "0000" / "checkpoint_000001"
    study = searched(store, "found", 20, checkpoint=model)
    Training(gather(StudyRecord(study, store)).run).save(model)
    confirmed(store, "found.confirm", {**BASELINES, HOSTILE: (SAB.Config(hidden=8), (0.5, 0.6))})
    confirmed(store, "found.ablate", {"winner": BASELINES["ours"], "k_att → 1": BASELINES["lstm"]})
    optuna.create_study(
        study_name="empty", storage=open_storage(store, write=True), direction="maximize"
    )
    return store


@pytest.fixture(scope="module")
def folder(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the complete report on the search."""
    folder = tmp_path_factory.mktemp("report") / "not" / "there" / "yet"
    write(StudyRecord.open(store, "found"), folder)
    return folder


class Page(HTMLParser):
    """The references, scripts and words of an HTML page."""

    def __init__(self, text: str):
        super().__init__()
        self.references: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "poster", "srcset"):
                self.references.append((tag, name, value or ""))
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        inside = self.tags[-1] if self.tags else ""
        (self.scripts if inside == "script" else self.words).append(data)


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def test_every_file_exists_and_none_is_empty(folder: Path) -> None:
    made = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*")}
    drawn = {f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")}
    assert made.keys() == drawn | {"report.html", *TAB}
    for name, path in made.items():
        content = path.read_bytes()
        assert len(content) > 1_000, name
        starts = {".png": b"\x89PNG", ".pdf": b"%PDF-1"}
        assert content.startswith(starts.get(path.suffix, b""))


def test_only_requested_formats_are_written(store: Store, tmp_path: Path) -> None:
    study = StudyRecord.open(store, "found")
    assert write(study, tmp_path, ("csv", "md")) == [
        tmp_path / "ladder.md",
        tmp_path / "ladder.csv",
        tmp_path / "trials.csv",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"ladder.md", "ladder.csv", "trials.csv"}


def test_the_page_loads_nothing_external(page: Page, folder: Path) -> None:
    assert all(name == "href" and value.startswith("#") for _, name, value in page.references)
    assert not {"link", "iframe", "img", "object", "embed", "base", "form"} & set(page.tags)
    text = (folder / "report.html").read_text()
    style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(style) == 1
    assert not re.search(r"url\(|@import|@font-face", style[0])
    library, *ours = page.scripts
    assert "plotly.js" in library[:300]
    for script in ours:
        assert not re.search(r"https?://|localStorage|sessionStorage|cookie|import\(", script)


def test_links_of_the_table_of_contents_resolve(page: Page) -> None:
    targets = [value.removeprefix("#") for _, _, value in page.references]
    assert set(targets) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert set(page.ids) >= FIGURES
    assert {f"figure-{name}" for name in FIGURES - {"accuracy"}} <= set(targets)
    assert targets[:2] == ["answer", "lengths"]
    others = {"comparison-confirm", "comparison-ablate", "best", "provenance", "caveats"}
    assert others <= set(targets)


def test_the_page_has_the_question_and_the_results(page: Page, store: Store) -> None:
    text = " ".join(page.words)
    best = max(
        (t for t in StudyRecord.open(store, "found").trials if t.values),
        key=lambda trial: trial.score,
    )
    # The docstring of tests/reports.py.
    assert "Finished studies made by hand, for the reports on them." in text
    conclusion = gather(StudyRecord.open(store, "found")).conclusion
    assert len(conclusion.sentences) == 3
    assert conclusion.table is not None
    for words in (*conclusion.sentences, conclusion.table.body[0][0]):
        assert words.replace("`", "") in " ".join(text.split())
    assert f"The best trial, #{best.number}" in text
    assert "model.k_top" in text
    assert f"{best.params['learning_rate']:.6g}" in text
    for result in best.test:
        assert f"{100 * result.accuracy:.1f}" in text
    assert text.count(published.QUOTED) >= 2
    assert "0abc" in text  # the commit
    assert "p after Holm" in text
    assert "One thing changed at a time: found.ablate" in text
    assert "optimistic" in text


def test_names_are_escaped(page: Page, folder: Path) -> None:
    assert HOSTILE in "".join(page.words)
    assert "<script>alert" not in (folder / "report.html").read_text()
    calls = re.findall(r"(.{3})alert\('x'\)", "".join(page.scripts))
    assert set(calls) == {"gt;"}  # only inside a string of plotly's data, escaped
    assert r"\<script>" in (folder / "ladder.md").read_text()


def test_a_comparison_has_its_own_report(store: Store, tmp_path: Path) -> None:
    study = StudyRecord.open(store, "found.confirm")
    written = write(study, tmp_path, ("html", "csv"))
    assert [path.name for path in written] == ["ladder.csv", "trials.csv", "report.html"]
    shown = Page((tmp_path / "report.html").read_text())
    assert {"accuracy", "learning", "comparison-confirm"} <= set(shown.ids)
    assert not {"scores", "importance", "parallel", "schedules"} & set(shown.ids)


def test_500_trials_make_a_page_of_a_few_megabytes(store: Store, tmp_path: Path) -> None:
    study = searched(store, "many", 500, in_memory=True)
    write(StudyRecord(study, store), tmp_path, ("html",))
    library = max(Page((tmp_path / "report.html").read_text()).scripts, key=len)
    assert (tmp_path / "report.html").stat().st_size - len(library.encode()) < 3_000_000


def test_several_objectives_have_a_pareto_figure(store: Store, tmp_path: Path) -> None:
    study = searched(store, "two", 12, objectives=("score", "peak_memory"), in_memory=True)
    written = write(StudyRecord(study, store), tmp_path, ("png",))
    assert tmp_path / "figures/pareto.png" in written


def test_drawing_libraries_are_imported_lazily() -> None:
    code = (
        "import sys, sabtune.reporting, sabtune.cli.screen, sabtune.reporting.publish; "
        "assert not {'matplotlib', 'plotly', 'jinja2', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("place", ["/dev/null/x", "/proc/x"])
def test_a_folder_that_cannot_be_written(store: Store, place: str) -> None:
    with pytest.raises(StoreError, match=f"the folder {place} can't be written .*--out"):
        write(StudyRecord.open(store, "found"), Path(place), ("csv",))


def test_an_unknown_format_lists_the_known_ones(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--format is 'docx': give one of html, md, "):
        write(StudyRecord.open(store, "found"), tmp_path, ("csv", "docx"))
    assert not list(tmp_path.iterdir())


def test_the_style_for_papers_has_a_folder_for_each_conference(
    store: Store, tmp_path: Path
) -> None:
    study = StudyRecord.open(store, "found.confirm")
    written = write(study, tmp_path, ("pdf", "csv"), "paper")
    folders = {path.parent.relative_to(tmp_path).as_posix() for path in written}
    assert folders == {".", "figures/neurips", "figures/icml"}
    assert {path.name for path in written} == {*TAB} - {"ladder.md", "ladder.tex"} | {
        "accuracy.pdf", "learning.pdf"
    }  # fmt: skip


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sabtune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs a command and returns its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sabtune", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            sys.exit(cli.run())
        return int(stopped.value.code or 0), *capsys.readouterr()

    return run


def test_the_command_names_the_files_it_writes(
    sabtune: Command, store: Store, tmp_path: Path
) -> None:
    place = ("--store", store.root, "--out", tmp_path)
    code, out, err = sabtune("report", "found", *place, "--format", "md,csv")
    assert (code, err) == (0, "")
    assert out == f"Wrote to {tmp_path}: ladder.md, ladder.csv, trials.csv\n"
    code, out, _ = sabtune("report", "found", *place, "--format", "png")
    assert out == f"Wrote to {tmp_path}: {len(FIGURES)} files in figures/\n"


def test_without_a_folder_the_command_prints_the_results(sabtune: Command, store: Store) -> None:
    code, out, _ = sabtune("report", "found", "--store", store.root)
    assert code == 0
    assert "Accuracy by length" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("fuond", "--out", "x"), "has no study 'fuond'"),
        (("empty", "--out", "x"), "study 'empty' has no complete trial"),
        (("found", "--out", "x", "--format", "xls"), "--format is 'xls': give one of html"),
        (("found", "--format", "md"), "--format is 'md': give --out too"),
        (("found", "--style", "paper"), "--style is 'paper': give --out too"),
        (
            ("found", "--out", "x", "--style", "icml"),
            "--style is 'icml': give one of default, paper",
        ),
        (
            ("found", "--out", "x", "--style", "paper", "--format", "md"),
            "--style is 'paper': give --format png or pdf too, because only figures have a style",
        ),
        (("found", "--out", "/dev/null/x"), "the folder /dev/null/x can't be written"),
    ],
)
def test_a_mistake_is_one_line(
    sabtune: Command, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], told: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, out, err = sabtune("report", *arguments, "--store", store.root)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert not list(tmp_path.iterdir())


def test_the_report_is_logged_to_mlflow(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[str, set[str]]] = []

    def keep(study: StudyRecord, folder: Path, draw: object, seconds: float) -> str:
        kept.append((study.name, {path.name for path in folder.iterdir()}))
        return "" if study.name == "found" else "MLflow didn't take it"

    monkeypatch.setattr(mirror, "keep_report", keep, raising=False)
    assert publish("found", store, Ending(complete=True)) == ""
    assert kept == [("found", {"report.html", *TAB})]
    told = publish("found.confirm", store)
    assert told == "The report on found.confirm isn't in MLflow: MLflow didn't take it"


@pytest.mark.parametrize(
    ("study", "ending"),
    [
        ("empty", None),
        ("found", Ending(complete=False)),  # Ctrl-C
        ("found", Ending(complete=True, behind="MLflow is away")),
    ],
)
def test_no_report_is_made_if_it_cannot_be_used(
    store: Store, monkeypatch: pytest.MonkeyPatch, study: str, ending: Ending | None
) -> None:
    def keep(*arguments: Any) -> bool:
        raise AssertionError

    monkeypatch.setattr(mirror, "keep_report", keep, raising=False)
    assert publish(study, store, ending) == ""


def test_a_failing_report_does_not_fail_the_search(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(*arguments: Any) -> bool:
        raise ValueError("no\nroom")

    monkeypatch.setattr(mirror, "keep_report", keep, raising=False)
    told = publish("found", store)
    assert told == "The report on found isn't in MLflow: ValueError: no room"


def test_the_help_names_the_formats() -> None:
    help_ = subprocess.run(
        [sys.executable, "-m", "sabtune", "report", "--help"],
        capture_output=True, text=True, check=True, env={"COLUMNS": "200", "PATH": ""},
    )  # fmt: skip
    assert f"Defaults to {','.join(FORMATS)}." in help_.stdout


def test_a_report_without_a_complete_trial_is_an_error(store: Store, tmp_path: Path) -> None:
    study = optuna.create_study(study_name="failed", direction="maximize")
    study.add_trial(frozen(0, SAB.Config(hidden=8), 0.5, TrialState.FAIL))
    with pytest.raises(StoreError, match=r"no complete trial \(1 ended otherwise\)"):
        write(StudyRecord(study, store), tmp_path)
