"""Import all that any command imports, for processes that are forked from one that has."""

from __future__ import annotations

import importlib
import pkgutil

import sabtune
import sabtune.search  # before ray, which reads what this sets when it is imported

GPU = "sabtune.ops.triton"
"""The prefix of modules that need Triton, which no command here loads."""

for module in pkgutil.walk_packages(sabtune.__path__, "sabtune."):
    if not module.name.startswith(GPU) and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
