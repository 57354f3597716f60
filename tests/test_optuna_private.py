"""Test that one module uses what is private in Optuna."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

PACKAGE = Path(__file__).parent.parent / "sabtune"

ONLY = {PACKAGE / "study" / "optuna_private.py", PACKAGE / "study" / "optuna_tables.py"}

DERIVED = {"InterceptedTrial", "BulkStorage", "RDBStorage", "Trial", "Study", "FrozenTrial"}
"""The classes of Optuna that sabtune derives from, and its own classes derived from them."""


@cache
def private_names() -> frozenset[str]:
    """Return the names of private attributes of studies, trials, storages and distributions."""
    study = optuna.create_study(storage="sqlite://")
    trial = study.ask()
    trial.suggest_int("x", 1, 2)
    objects = [
        study, trial, study.trials[0], study._storage, study._storage._backend,  # type: ignore[attr-defined]
        IntDistribution(1, 2), FloatDistribution(0, 1), CategoricalDistribution([1]),
    ]  # fmt: skip
    return frozenset(
        name for each in objects for name in dir(each) if name[0] == "_" and name[:2] != "__"
    )


def private_uses(source: str) -> Iterator[str]:
    """Yield the uses of private attributes and private modules of Optuna in a module."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for name in (f"{start}{alias.name}" for alias in node.names):
                if name.startswith("optuna.") and "._" in name:
                    yield name
        elif isinstance(node, ast.Attribute) and node.attr in private_names():
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            names = (each.value for each in node.args if isinstance(each, ast.Constant))
            yield from (name for name in names if name in private_names())
        elif isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            if bases & DERIVED:
                yield from _overrides(node)


def _overrides(derived: ast.ClassDef) -> Iterator[str]:
    """Yield the private attributes of Optuna that a class derived from one of Optuna's uses."""
    for node in ast.walk(derived):
        if isinstance(node, ast.FunctionDef) and node.name in private_names():
            yield node.name
        elif isinstance(node, ast.Attribute) and node.attr in private_names():
            yield ast.unparse(node)


def test_one_module_uses_what_is_private_in_optuna() -> None:
    uses = {path: set(private_uses(path.read_text())) for path in PACKAGE.rglob("*.py")}
    assert {path for path, found in uses.items() if found} == ONLY


@pytest.mark.parametrize(
    ("source", "use"),
    [
        ("from optuna.storages._rdb import models", "optuna.storages._rdb.models"),
        ("import optuna._hypervolume", "optuna._hypervolume"),
        ("def f(study):\n    return study._storage", "study._storage"),
        ("def f(study):\n    return getattr(study, '_study_id')", "_study_id"),
        (
            "class A(optuna.Trial):\n    def f(self):\n        self._fixed_params",
            "self._fixed_params",
        ),
        ("class A(BulkStorage):\n    def _get_trials(self):\n        pass", "_get_trials"),
    ],
)
def test_a_private_use_is_found(source: str, use: str) -> None:
    assert use in set(private_uses(source))
