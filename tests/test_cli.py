"""Test the command line: a mistake is one clear line with exit code 2 and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sabtune import __version__, cli
from sabtune.data.catalogue import DATA_SETS
from sabtune.storage.store import Store
from sabtune.study.record import StudyRecord
from tests.studies import learnable


@pytest.fixture
def mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> object:
    """Return a function that runs a command in an empty folder and returns its one-line error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["sabtune", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            sys.exit(cli.run())
        assert stopped.value.code == 2
        shown = capsys.readouterr()
        assert all(line.endswith(" …") for line in shown.out.splitlines())  # steps of the command
        assert shown.err.count("\n") == 1
        assert shown.err.startswith("sabtune: ")
        return shown.err

    return run


def test_a_path_that_is_not_there(mistake) -> None:  # type: ignore[no-untyped-def]
    assert "there is no study file nowhere.py" in mistake("search", "nowhere.py")


@pytest.mark.parametrize(("option", "value"), [("--trials", 0), ("--trials", -3), ("--seed", -1)])
def test_a_number_out_of_range(mistake, tmp_path: Path, option: str, value: int) -> None:  # type: ignore[no-untyped-def]
    told = mistake("search", learnable(tmp_path), option, value)
    assert f"{option} is {value}: give a whole number of at least" in told


def test_a_negative_k_top(mistake, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = learnable(tmp_path)
    path.write_text(path.read_text().replace('"k_top", 1, 3', '"k_top", -2, -2'))
    assert "k_top is -2: give a whole number of at least 1" in mistake("search", path)


@pytest.mark.parametrize("store", ["/dev/null/store", "/proc/store"])
def test_a_store_that_cannot_be_written(mistake, tmp_path: Path, store: str) -> None:  # type: ignore[no-untyped-def]
    told = mistake("search", learnable(tmp_path), "--store", store)
    assert f"the store {store} can't be written" in told
    assert "--store" in told.split(": ")[-1]


@pytest.mark.parametrize(
    ("resources", "asked"), [("cpus=4096", "4096 CPUs"), ("gpus=77", "1 CPU and 77 GPUs")]
)
def test_more_than_the_machine_has(mistake, tmp_path: Path, resources: str, asked: str) -> None:  # type: ignore[no-untyped-def]
    path = learnable(tmp_path)
    text = path.read_text().replace("trials=8", f"resources=Resources({resources})")
    path.write_text(text.replace("    pruning=ASHA(grace=30, reduction=2),\n", ""))
    assert f"a trial asks for {asked} and this machine has " in mistake("search", path)
    assert StudyRecord.open(Store(tmp_path / "sabtune-store"), "learnable").trials == []


def test_a_store_that_is_not_there(mistake) -> None:  # type: ignore[no-untyped-def]
    assert "there is no store at" in mistake("report", "copying", "--store", "nowhere")
    assert "there is no store at" in mistake("ui", "--store", "nowhere")


def test_an_interrupted_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sabtune.study.loading.load", interrupt)
    monkeypatch.setattr(sys, "argv", ["sabtune", "search", str(learnable(tmp_path))])
    assert cli.run() == 130
    assert capsys.readouterr().err == "sabtune: interrupted\n"


def test_help_and_version_are_quick() -> None:
    """Check that neither option loads torch, ray or mlflow, whose imports take seconds."""
    for argument, said in (("--help", "search"), ("--version", __version__)):
        code = (
            f"import sys; sys.argv = ['sabtune', {argument!r}]\n"
            "from sabtune.cli import main\n"
            "try: main()\n"
            "finally: assert not {'torch', 'ray', 'mlflow'} & sys.modules.keys()"
        )
        shown = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert said in shown.stdout


def test_a_table_written_to_a_file_is_not_wrapped_or_cut() -> None:
    """Check the table where stdout is no terminal and COLUMNS gives no width."""
    alone = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    shown = subprocess.run(
        [sys.executable, "-m", "sabtune", "data", "list"],
        capture_output=True,
        text=True,
        check=True,
        env=alone,
    )
    for known in DATA_SETS.values():
        assert known.about in shown.stdout
