"""Test that study files of version 0.1 can import modules by their former names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sabtune.parts import former_names
from sabtune.study.cautions import cautions
from sabtune.study.loading import load
from tests.studies import learnable

BEFORE = {
    "sabtune.training.evaluation": "sabtune.evaluation",
    "sabtune.study.definition": "sabtune.search.study",
}


def of_version_0_1(directory: Path) -> Path:
    """Write a study file for version 0.1."""
    path = learnable(directory)
    text = path.read_text()
    for now, before in BEFORE.items():
        assert f"from {now} import" in text
        text = text.replace(f"from {now} import", f"from {before} import")
    path.write_text(text)
    return path


def test_a_study_file_of_version_0_1_is_the_same_study(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("before", "now")]
    for folder in folders:
        folder.mkdir()
    assert load(of_version_0_1(folders[0])).study == load(learnable(folders[1])).study


def test_former_names_print_their_replacements(tmp_path: Path) -> None:
    lines = list(cautions(load(of_version_0_1(tmp_path))))
    for now, before in BEFORE.items():
        assert f"learnable.py uses {before}, which is now {now}" in lines


def test_a_file_is_not_warned_of_the_names_of_another(tmp_path: Path) -> None:
    load(of_version_0_1(tmp_path))
    assert not [line for line in cautions(load(learnable(tmp_path))) if " uses " in line]


@pytest.mark.parametrize(
    ("source", "used"),
    [
        ("import sabtune.trial\n", {"sabtune.trial": "sabtune.training.trial"}),
        ("from sabtune import trial\n", {"sabtune.trial": "sabtune.training.trial"}),
        ("from shared import RIVALS\n", {"RIVALS": "BASELINES"}),
        ("RIVALS = BASELINES = {}\n", {}),
        ("from sabtune.training.trial import Limits\n", {}),
    ],
)
def test_former_names_are_found_in_the_source(
    source: str, used: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "study.py").write_text(source)
    assert former_names.used_by(tmp_path / "study.py") == used


def test_every_former_name_imports_the_module() -> None:
    code = (
        "from importlib import import_module\n"
        "from sabtune.parts import former_names\n"
        "former_names.accept()\n"
        "for before, now in former_names.FORMER_NAMES.items():\n"
        "    assert import_module(before) is import_module(now), before\n"
        "    assert import_module(before).__spec__.name == now, before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_missing() -> None:
    code = (
        "from sabtune.parts import former_names; former_names.accept()\n"
        "try: import sabtune.search.nothing\n"
        "except ModuleNotFoundError: pass\n"
        "else: raise AssertionError"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
