"""Test the completion of command lines in a shell."""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from pathlib import Path

import optuna
import pytest

from sabtune import cli
from sabtune.storage.store import Store
from sabtune.study.optuna_storage import open_storage
from tests.terminals import Terminal

ROOT = Path(__file__).parent.parent

STUDY_FILE = """
raise SystemExit("a completion runs no study file")
BASELINES = {"lstm": None, "truncated": None}
"""

PROGRAM = f"""#!{sys.executable}
import sys
from sabtune.cli import main
try:
    main()
finally:
    slow = {{"torch", "optuna", "sqlalchemy", "ray", "mlflow"}} & sys.modules.keys()
    assert not slow, slow
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two stores and a study file, beside a `sabtune` that must be quick."""
    parent = tmp_path_factory.mktemp("completing")
    program = parent / "bin" / "sabtune"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    here = parent / "here"
    stores = {"sabtune-store": ["old", "copying", "copying.lstm"], "other": ["mnist"]}
    for store, names in stores.items():
        storage = open_storage(Store(here / store).made(), write=True)
        for name in names:
            optuna.create_study(study_name=name, storage=storage)
    (here / "mine.py").write_text(STUDY_FILE)
    return here


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("sabtune report ", ["copying.lstm", "copying", "old"]),
        ("sabtune status cop", ["copying.lstm", "copying"]),
        ("sabtune sync --store other ", ["mnist"]),
        ("sabtune confirm copying ", ["copying.lstm", "old"]),
        ("sabtune search mine.py --store other --warm-start ", ["mnist"]),
        ("sabtune search mine.py --baseline ", ["lstm", "truncated", "all"]),
        ("sabtune search nowhere.py --baseline ", []),
        ("sabtune ui o", ["old"]),
        ("sabtune search ", []),  # the shell completes files
        ("sabtune report --store nowhere ", []),
        ("sabtune report --store postgresql://me@host/db ", []),
        ("sabtune report --cluster c.yaml ", []),
        ("sabtune data fetch fashion", ["fashion-mnist"]),
        ("sabtune data fetch mnist mn", []),
        ("sabtune search mine.py --tr", ["--trials", "--tracking"]),
        ("sabtune re", ["report", "reproduce"]),
    ],
)
def test_a_command_line_is_completed(
    folder: Path,
    line: str,
    names: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = line.split(" ")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))  # as bash asks
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    monkeypatch.setenv("_SABTUNE_COMPLETE", "complete_bash")
    assert cli.run() == 0
    shown = capsys.readouterr()
    assert shown.out.split() == names
    assert shown.err == ""


def test_bash_completes_commands_studies_and_files(folder: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    environment = {
        "PATH": f"{folder.parent / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder.parent),
        "PS1": "$ ",
    }
    with Terminal(
        [bash, "--norc"], columns=100, environment=environment, cwd=folder, echo=True
    ) as terminal:
        terminal.wait_until(lambda shown: shown[-1:] == ["$"])
        terminal.type("sabtune --install-completion && . ~/.bash_completions/sabtune.sh; clear\n")
        terminal.wait_until(lambda shown: shown == ["$"])
        for typed, line in (
            ("sabtune rep\t", "$ sabtune rep"),
            ("o\t", "$ sabtune report"),
            ("o\t", "$ sabtune report old"),
            ("\x15sabtune search mi\t", "$ sabtune search mine.py"),
            ("--hou\t", "$ sabtune search mine.py --hours"),
        ):
            terminal.type(typed)
            terminal.wait_until(partial(ends_with, line))
    assert "/.bash_completions/sabtune.sh" in (folder.parent / ".bashrc").read_text()


def ends_with(line: str, shown: list[str]) -> bool:
    return shown[-1:] == [line]
