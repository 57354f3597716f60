"""Run the commands and scripts of the documentation that search, as they are printed.

The study files that they name are those of `search_spaces/` with the changes of SMALLER, so that a
command takes seconds. All searches share a Ray.
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sabtune.cli import screen, searching
from sabtune.tracking import ui
from sabtune.tuning import optuna_ui, probe
from tests.doc_blocks import ROOT, UNRUN, all_blocks, arguments, block, commands
from tests.one_ray import Commands, one_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

QUICK_PAGES = ("README.md", "reading.md", "mlflow.md")
COPYING_PAGES = ("search.md", "confirming.md", "studies.md")
RUN_PAGES = QUICK_PAGES + COPYING_PAGES
"""The pages of which a test here runs every command of sabtune."""

SMALLER = {
    "copying_quick.py": {
        "trials=20": "trials=10",
        "updates=8000": "updates=16",
        "report_every=500": "report_every=1",
        "batch_size=32": "batch_size=4",
        "hidden=64": "hidden=8",
        "pruning=ASHA(grace=2000, reduction=2)": "pruning=None",
        "select=(20, 40, 100)": "select=(20, 40, 100), sequences=10",
    },
    "copying.py": {
        "trials=60": "trials=4",
        "updates=20_000": "updates=2",
        "report_every=1000": "report_every=1",
        "batch_size=32": "batch_size=4",
        "hidden=64": "hidden=8",
        "length=100": "length=10",
        "lengths=(100, 200, 400, 2000, 5000)": "lengths=(10, 20, 40, 80, 100)",
        "select=(100, 200, 400)": "select=(10, 20, 40)",
        "sequences=256": "sequences=10",
        '"shortest": 100': '"shortest": 10',
        '"shortest", 5, 100': '"shortest", 5, 10',
    },
}
"""Replacements in the study files of `search_spaces/`."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with smaller study files of the same names."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "search_spaces").mkdir()
    for name, changes in SMALLER.items():
        text = (ROOT / "search_spaces" / name).read_text()
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        (folder / "search_spaces" / name).write_text(text)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with one_ray():
        yield


@pytest.fixture
def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """Return a function that runs a command of sabtune in the folder and returns its output."""
    run_in = Commands(monkeypatch, capsys)
    monkeypatch.setattr(probe, "PROBE_SECONDS", 0.1)
    served = []
    for module in (ui, optuna_ui):  # would serve until Ctrl-C; other tests send requests
        monkeypatch.setattr(module, "serve", lambda place, port, *_: served.append(port))

    def run(command: str) -> str:
        served.clear()
        done = run_in(*arguments(command), cwd=folder)
        assert done.returncode == 0 or command == "sabtune doctor", done
        assert done.stderr == "", command
        assert bool(served) == command.startswith("sabtune ui"), command
        return done.stdout

    return run


def printed(pages: tuple[str, ...]) -> list[str]:
    """Return the commands of sabtune in the shell blocks of pages that can run, each once."""
    blocks = (each for page in pages for each in all_blocks() if each.page == page)
    lines = (line for each in blocks if each.language == "sh" for line in commands(each.text))
    return list(dict.fromkeys(c for c in lines if c.startswith("sabtune ") and c not in UNRUN))


def test_the_quick_study(
    run: Callable[[str], str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = subprocess.run(
        ["make", "--dry-run", "search"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    search, report = re.findall(r"^\.venv/bin/(sabtune .*)", recipe.stdout, re.MULTILINE)
    assert "10 trials (10 complete)" in run(search)
    assert run(report).startswith("Wrote to report: ")
    shown = {command: run(command) for command in printed(QUICK_PAGES) if command != report}
    confirmed = shown["sabtune confirm copying_quick"]
    assert "Study copying_quick.confirm: 30 trials (30 complete)" in confirmed
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"x": np.zeros((2, 30, 10), "float32")}
    exec(block("models.md", "import mlflow"), names)
    assert names["logits"].shape[:2] == (2, 30)
    names = {"x": torch.zeros(2, 30, 10)}
    exec(block("models.md", "from pathlib"), names)
    assert names["recalled"].by_step().shape == (2, 30, 30)


def test_the_main_study(run: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (searching, screen):  # the other study's reports are published
        monkeypatch.setattr(module, "publish_report", lambda *_: None)
    shown = {command: run(command) for command in printed(COPYING_PAGES)}
    for command, output in shown.items():
        if command.startswith("sabtune search") and "--dry-run" not in command:
            assert "4 trials (4 complete)" in output, command
    confirm = next(command for command in shown if command.startswith("sabtune confirm"))
    assert "Study copying.confirm: 60 trials (60 complete)" in shown[confirm]
    assert "Study copying.ablate: " in shown["sabtune ablate copying --seeds 5"]
    assert "50,000" in shown["sabtune extrapolate copying --lengths 20000,50000"]
    assert (
        "20,000 over 10 lengths" in shown["sabtune extrapolate copying --lengths 20000 --phases 10"]
    )
    assert "the same, bit for bit" in shown["sabtune reproduce copying 3"]


def test_the_script(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = folder / "from_python.py"
    script.write_text(block("python.md", "import sabtune as sab\n\n\ndef space"))
    monkeypatch.chdir(folder)
    found = runpy.run_path(str(script), run_name="__main__")["found"]
    assert found.ladder()["length"].tolist() == [10, 20, 100]
    assert len(found.trials) == 4


def test_the_tutorial_of_own_parts(
    run: Callable[[str], str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    files = {
        "first_bit.py": block("own_parts.md", '"""How many'),
        "gru.py": block("own_parts.md", "from __future__"),
        "compare.py": block("own_parts.md", '"""Does a GRU'),
    }
    for name, text in files.items():
        (folder / name).write_text(text.replace("trials=4", "trials=2").replace("600", "60"))
    first = commands(block("own_parts.md", "sabtune search first_bit.py"))
    both = commands(block("own_parts.md", "sabtune search compare.py"))
    shown = [run(command) for command in first + both]
    assert "Study compare.confirm: 6 trials (6 complete)" in shown[-1]
    assert "Champion of compare: trial " in shown[-1]
    for name in files:
        (folder / name).unlink()
    load = block("own_parts.md", "import mlflow")
    predict = "import numpy; print(model.predict(numpy.zeros((2, 5, 1), 'float32')).shape)"
    loaded = subprocess.run(
        [sys.executable, "-c", load + predict], capture_output=True, text=True, check=False
    )
    assert loaded.stdout == "(2, 5, 2)\n", loaded.stderr
