"""Import everything that commands import, for the process that tests fork."""

from __future__ import annotations

import importlib
import pkgutil

import sabtune
import sabtune.tuning  # sets variables that Ray reads on import

GPU = "sabtune.ops.triton"
"""The prefix of modules that need Triton, which no command here loads."""

for module in pkgutil.walk_packages(sabtune.__path__, "sabtune."):
    if not module.name.startswith(GPU) and not module.name.endswith("__main__"):
        importlib.import_module(module.name)

importlib.import_module("ray.dashboard.optional_deps")  # Ray imports it when it starts
