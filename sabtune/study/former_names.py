"""Import modules by the names that they had before, as study files of earlier versions do."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

FORMER_NAMES = {
    "sabtune.checkpoint": "sabtune.training.checkpoint",
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
"""The names of modules up to version 0.1, and those that they have now."""

used: dict[str, str] = {}
"""The former names that study files used in this process, and the present ones."""


class _Alias(Loader):
    """Load the module that has a name now."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(FORMER_NAMES[spec.name])
        self.own = module.__spec__, module.__loader__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__, module.__loader__ = self.own  # the import system has set the alias's


class _Finder(MetaPathFinder):
    """Find a module by its former name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the alias of a former name, None for any other."""
        if fullname not in FORMER_NAMES:
            return None
        used[fullname] = FORMER_NAMES[fullname]
        return ModuleSpec(fullname, _Alias())


def accept() -> None:
    """Have former names imported from now on, where no module has that name now."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
