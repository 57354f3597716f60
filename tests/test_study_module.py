"""Test that a study file is imported like a Python module, along with its neighbors."""

from __future__ import annotations

import inspect
import pickle
import sys
import typing
from pathlib import Path

import optuna
import pytest

from sabtune.parts.importing import importable
from sabtune.study.loading import load
from tests.test_bad_study_files import DRAW, GOOD, RETURN, changed, written

DATACLASS = """\
from __future__ import annotations
import enum
from dataclasses import dataclass

class Kind(enum.Enum):
    A = 1

@dataclass
class Range:
    low: int = 2
    kind: Kind = Kind.A

R = Range()
if __name__ == "__main__":
    raise SystemExit(1)
"""


def k_top(path: Path) -> int:
    """Return the k_top of a space that always draws the same one."""
    return load(path).try_space().model.k_top  # type: ignore[attr-defined, no-any-return]


def test_a_study_file_is_a_proper_module(tmp_path: Path) -> None:
    space = load(written(tmp_path, DATACLASS + GOOD)).space
    values: dict[str, typing.Any] = inspect.unwrap(space).__globals__
    module = sys.modules[values["__name__"]]
    assert vars(module) is values
    assert pickle.loads(pickle.dumps(values["R"])) == values["R"]
    assert typing.get_type_hints(values["Range"])["kind"] is values["Kind"]
    assert "def space(trial):" in inspect.getsource(space)


@pytest.mark.parametrize(
    "name",
    [
        "a study.py",
        "a.b.py",
        "ü.py",
        "-.py",
        "copy.py",
        "random.py",
        "sabtune.py",
        "cmaes.py",
        "colorsys.py",
        ".py.py",
    ],
)
def test_a_file_can_have_any_name(tmp_path: Path, name: str) -> None:
    path = written(
        tmp_path, "import random, copy, statistics, sabtune, cmaes, colorsys\n" + GOOD, name
    )
    assert load(path).study.name == "s"
    assert hasattr(sys.modules["random"], "Random")
    assert hasattr(sys.modules["cmaes"], "CMA")
    assert hasattr(sys.modules["colorsys"], "rgb_to_hls")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_a_file_can_have_any_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "study.py"
    path.write_bytes((f"# coding: {encoding}\n'''Ü?'''\n" + GOOD).encode(encoding))
    assert load(path).question == "Ü?"


def test_a_change_within_a_second_is_seen(tmp_path: Path) -> None:
    for low in (2, 3, 4):
        path = written(tmp_path, changed(DRAW, f'trial.suggest_int("k_top", {low}, {low})'))
        assert k_top(path) == low
    assert not list(tmp_path.glob("__pycache__"))


IMPORTS = {
    "at once": "from helper import K\n" + changed(DRAW, "K"),
    "within the space": changed(DRAW, "__import__('helper').K"),
    "of a package": "from package.inner import K\n" + changed(DRAW, "K"),
}


@pytest.mark.parametrize("text", IMPORTS.values(), ids=IMPORTS)
def test_neighbors_with_the_same_name_in_two_folders_are_distinguished(
    tmp_path: Path, text: str
) -> None:
    files = []
    for k in (2, 3):
        folder = tmp_path / str(k)
        (folder / "package").mkdir(parents=True)
        written(folder, f"K = {k}", "helper.py")
        written(folder / "package", f"K = {k}", "inner.py")
        files.append(load(written(folder, text)))
    for _ in range(2):
        assert [file.try_space().model.k_top for file in files] == [2, 3]  # type: ignore[attr-defined]
    assert not {str(tmp_path / "2"), str(tmp_path / "3")} & set(sys.path)


def test_a_changed_neighbor_is_reloaded(tmp_path: Path) -> None:
    path = written(tmp_path, IMPORTS["at once"])
    for k in (2, 30):
        written(tmp_path, f"K = {k}", "helper.py")
        assert k_top(path) == k


def test_a_space_gets_an_optuna_trial(tmp_path: Path) -> None:
    text = changed(
        RETURN, 'trial.set_user_attr("isinstance", isinstance(trial, optuna.Trial)); ' + RETURN
    )
    study = optuna.create_study()
    trial = study.ask()
    load(written(tmp_path, text)).config(trial)
    assert study.trials[0].user_attrs == {"isinstance": True}
    assert trial.params == study.trials[0].params != {}


class Anything:
    """An object with every attribute, like the one that MLflow imports while it saves a model."""

    def __getattr__(self, name: str) -> Anything:
        return Anything()


def test_another_thread_may_import_an_object_that_is_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with importable(tmp_path):
        monkeypatch.setitem(sys.modules, "dbutils", Anything())
