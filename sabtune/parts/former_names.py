"""Import modules by their former names, so that study files of earlier versions still work."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import sabtune

FORMER_NAMES = {
    "sabtune.diagnostics": "sabtune.training.diagnostics",
    "sabtune.evaluation": "sabtune.training.evaluation",
    "sabtune.files": "sabtune.storage.folder",
    "sabtune.search.objectives": "sabtune.study.objectives",
    "sabtune.search.record": "sabtune.study.record",
    "sabtune.search.rivals": "sabtune.study.baselines",
    "sabtune.search.samplers": "sabtune.study.samplers",
    "sabtune.search.study": "sabtune.study.definition",
    "sabtune.store": "sabtune.storage.store",
    "sabtune.trial": "sabtune.training.trial",
}
"""The module names of version 0.1, and the present ones."""

FORMER_PACKAGE, PRESENT_PACKAGE = "sabtune.search", "sabtune.tuning"
"""The package of some former names. The function `sabtune.search` has its name now."""


class _Alias(Loader):
    """A loader that loads a module by its present name."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        present = PRESENT_PACKAGE if spec.name == FORMER_PACKAGE else FORMER_NAMES[spec.name]
        module = importlib.import_module(present)
        self.original = module.__spec__, module.__loader__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # the import system has replaced both attributes by those of the alias
        module.__spec__, module.__loader__ = self.original


class _Finder(MetaPathFinder):
    """A finder of modules by their former names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a former name, or None for any other name."""
        if fullname not in FORMER_NAMES and fullname != FORMER_PACKAGE:
            return None
        return ModuleSpec(fullname, _Alias())


def accept() -> None:
    """Make former names importable from now on, unless a present module has the same name."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def hide_package() -> None:
    """Make `sabtune.search` the function again, if a former name has been imported."""
    vars(sabtune).pop(FORMER_PACKAGE.rpartition(".")[2], None)


def used_by(path: Path) -> dict[str, str]:
    """Return the former names in the source of a study file, with the present ones."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names.add(module)
            names |= {f"{module}.{alias.name}" for alias in node.names}
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    present = dict(FORMER_NAMES)
    if "BASELINES" not in names:
        present["RIVALS"] = "BASELINES"
    return {name: present[name] for name in sorted(names & present.keys())}
